"""A function without the indexing that does nothing: `means[z]` where z runs through 0, …, K − 1 is `means`.

An enumerated latent is the constant (0, …, K − 1), of shape (K, 1), and programs index by it. XLA keeps the
gather, and turns its transpose in a gradient into a loop over K. Here integers that hang on no input are
worked out while a program is traced, and a gather by all indices in their order becomes a reshape. Cholesky
factors of small matrices, which NumPyro takes of a covariance by LAPACK, are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jax.extend.core import Literal

from triptych.models.matrices import WRITTEN_OUT, cholesky

__all__ = ["unindexed"]

# Integer arithmetic on the way from an enumerated latent to a gather, in NumPy.
KNOWN: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "lt": np.less,
    "select_n": lambda which, *cases: np.where(which, cases[1], cases[0]),
}


def unindexed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the same function, its gathers by a whole range of constant indices made reshapes."""

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        found = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return run


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Run a jaxpr; a value that is a NumPy array of integers or truth values is a known constant."""
    whole = [np.asarray(c) if _countable(c) and not isinstance(c, jax.core.Tracer) else c for c in consts]
    known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*whole, *args), strict=True))

    def read(var: Any) -> Any:
        if isinstance(var, Literal):
            return np.asarray(var.val, np.dtype(var.val.dtype)) if _countable(var.val) else var.val
        return known[var]

    for equation in jaxpr.eqns:
        values = [read(var) for var in equation.invars]
        found = _simpler(equation, values)
        if found is None:
            held = {
                var: v for var, v in zip(equation.invars, values, strict=True) if not isinstance(var, Literal)
            }
            alone = jaxpr.replace(constvars=[], invars=list(held), outvars=equation.outvars, eqns=[equation])
            found = jax.core.eval_jaxpr(alone, [], *held.values())
        known.update(zip(equation.outvars, found, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _countable(value: Any) -> bool:
    return np.dtype(value.dtype).kind in "iub" if hasattr(value, "dtype") and not _is_key(value) else False


def _is_key(value: Any) -> bool:
    return jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)


def _simpler(equation: Any, values: Sequence[Any]) -> list[Any] | None:
    """Give an equation's values where they are known, or had without a gather."""
    name, parameters = equation.primitive.name, equation.params
    if name in ("jit", "pjit"):
        inner = parameters["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, values)
    out = equation.outvars[0].aval
    if name == "cholesky":
        return [cholesky(values[0])] if out.shape[-1] <= WRITTEN_OUT else None
    if name == "gather" and isinstance(values[1], np.ndarray):
        whole = _takes_all(parameters, np.shape(values[0]), values[1], out.shape)
        return [values[0].reshape(out.shape)] if whole else None
    if not _countable(out) or not all(isinstance(value, np.ndarray) for value in values):
        return None
    if name == "iota":
        line = np.arange(out.shape[parameters["dimension"]], dtype=out.dtype)
        shape = [-1 if i == parameters["dimension"] else 1 for i in range(len(out.shape))]
        return [np.broadcast_to(line.reshape(shape), out.shape)]
    if name in ("reshape", "squeeze", "expand_dims"):
        return [values[0].reshape(out.shape)]
    if name == "convert_element_type":
        return [values[0].astype(out.dtype)]
    if name == "broadcast_in_dim" and len(values) == 1:
        shape = [1] * len(out.shape)
        for axis, place in enumerate(parameters["broadcast_dimensions"]):
            shape[place] = values[0].shape[axis]
        return [np.broadcast_to(values[0].reshape(shape), out.shape)]
    if name in KNOWN:
        return [np.asarray(KNOWN[name](*values), out.dtype)]
    return None


def _takes_all(parameters: Any, shape: tuple[int, ...], indices: np.ndarray, out: tuple[int, ...]) -> bool:
    """Whether a gather takes every entry of the first axis once, in order, the other axes behind."""
    numbers, rest = parameters["dimension_numbers"], shape[1:]
    behind = tuple(range(len(out) - len(rest), len(out)))
    return (
        tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and tuple(numbers.offset_dims) == behind
        and tuple(parameters["slice_sizes"]) == (1, *rest)
        and np.array_equal(indices.ravel(), np.arange(shape[0]))
    )
