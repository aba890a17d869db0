"""Proof that a function is a polynomial of degree at most 2 in some of its inputs, read off its jaxpr.

Abstract interpretation: every value carries its degree in the latent (0 constant, 1 the latent itself, ∞ not
a polynomial). Sums take the largest degree, products add, a division keeps the numerator's where the
denominator is constant, and any other primitive makes a polynomial of degree 0 out of constants and ∞ out of
everything else. NumPyro's log_prob guards its support, where(inside, log_prob, −∞): a comparison of the
latent is a *guard*, and a select between a value and the constant −∞ keeps the value's degree, so the
certificate holds on the interior of the support.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

__all__ = ["Degree", "degree_in"]

INFINITE = math.inf
GUARDS = {
    "lt", "le", "gt", "ge", "eq", "ne", "is_finite", "and", "or", "not", "reduce_and", "reduce_or", "xor",
}  # fmt: skip
LARGEST = {
    "add", "add_any", "sub", "neg", "concatenate", "reduce_sum", "reshape", "broadcast_in_dim", "transpose",
    "squeeze", "expand_dims", "slice", "rev", "convert_element_type", "copy", "copy_p", "cumsum", "pad",
    "real", "stop_gradient", "reduce_precision", "device_put", "optimization_barrier", "split",
}  # fmt: skip
INDEXED = {"gather", "dynamic_slice", "dynamic_update_slice", "scatter", "scatter-add", "scatter_add"}
PRODUCTS = {"mul", "dot_general"}
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Degree(NamedTuple):
    """The degree found; where it is infinite, the primitive that broke it and its line in the program."""

    degree: float
    culprit: str = ""


class _Value(NamedTuple):
    degree: float
    guard: bool = False  # a truth value that hangs on the latent
    abyss: bool = False  # the constant −∞


def degree_in(function: Callable[..., Any], latent: Any, *rest: Any) -> Degree:
    """Find the degree of `function(latent, *rest)` in the latent (any tree of arrays), without arithmetic."""
    closed = jax.make_jaxpr(function)(latent, *rest)
    count = len(jax.tree.leaves(latent))
    inputs = [_Value(1.0 if index < count else 0.0) for index in range(len(closed.jaxpr.invars))]
    found: list[str] = []
    outputs = _walk(closed.jaxpr, closed.consts, inputs, found)
    worst = max((value.degree for value in outputs), default=0.0)
    return Degree(worst, found[0] if math.isinf(worst) and found else "")


def _walk(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[_Value], found: list[str]) -> list[_Value]:
    known: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    known.update((var, _constant(value)) for var, value in zip(jaxpr.constvars, consts, strict=True))

    def read(var: Any) -> _Value:
        return _constant(var.val) if isinstance(var, Literal) else known[var]

    for equation in jaxpr.eqns:
        values = [read(var) for var in equation.invars]
        outputs = _apply(equation, values, found)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _constant(value: Any) -> _Value:
    try:
        abyss = bool(np.all(np.isneginf(np.asarray(value))))
    except TypeError:
        abyss = False
    return _Value(0.0, abyss=abyss)


def _apply(equation: Any, values: list[_Value], found: list[str]) -> list[_Value]:
    name, count = equation.primitive.name, len(equation.outvars)
    inner = next((equation.params[key] for key in INNER if key in equation.params), None)
    if inner is not None and name not in ("while", "scan", "cond"):
        closed = inner if hasattr(inner, "consts") else None
        body = inner.jaxpr if closed is not None else inner
        return _walk(body, inner.consts if closed is not None else (), values, found)
    largest = max((value.degree for value in values), default=0.0)
    hangs = largest > 0 or any(value.guard for value in values)
    if name in GUARDS:
        return [_Value(0.0, guard=hangs)] * count
    if name == "select_n":
        return [_select(values, equation, found)] * count
    if not hangs:
        abyss = name in LARGEST and bool(values) and all(value.abyss for value in values)
        return [_Value(0.0, abyss=abyss)] * count
    degree = INFINITE if any(value.guard for value in values) else _degree(name, equation, values, largest)
    if math.isinf(degree) and not any(math.isinf(value.degree) for value in values):
        found.append(f"`{name}`{_line(equation)}")
    return [_Value(degree)] * count


def _degree(name: str, equation: Any, values: list[_Value], largest: float) -> float:
    degrees = [value.degree for value in values]
    if name in LARGEST:
        return largest
    if name in INDEXED:
        operand_count = 2 if name in ("dynamic_update_slice",) else 1
        kept = degrees[:operand_count] + (degrees[2:] if "scatter" in name else [])
        return INFINITE if sum(degrees) > sum(kept) else max(kept)
    if name in PRODUCTS:
        return sum(degrees)
    if name == "square":
        return 2 * degrees[0]
    if name == "integer_pow":
        power = equation.params["y"]
        return degrees[0] * power if power >= 0 else INFINITE
    if name == "div":
        return degrees[0] if degrees[1] == 0 else INFINITE
    if name == "triangular_solve":
        return degrees[1] if degrees[0] == 0 else INFINITE
    return INFINITE


def _select(values: list[_Value], equation: Any, found: list[str]) -> _Value:
    which, *cases = values
    kept = [case for case in cases if not case.abyss]
    largest = max((case.degree for case in kept), default=0.0)
    if not which.guard and which.degree == 0:
        return _Value(largest, guard=any(case.guard for case in cases), abyss=not kept)
    if len(kept) <= 1:
        return _Value(largest)
    found.append(f"`select_n` (a choice that hangs on the latent){_line(equation)}")
    return _Value(INFINITE)


def _line(equation: Any) -> str:
    """Say where in the user's program an equation was written."""
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(equation.source_info.traceback)
    except (ImportError, AttributeError, TypeError):
        return ""
    return "" if frame is None else f" at {frame.file_name.rsplit('/', 1)[-1]}:{frame.start_line}"
