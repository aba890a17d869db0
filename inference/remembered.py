"""What a run compiled, kept for the next run of the same program on the same data, if it is still the same.

A program may read more than its arguments (a global, a closure, a field), so that the same call need not mean
the same thing twice. Tracing a program shows what it means now, and takes some tenths of a second; XLA takes
seconds. So every run traces its program, and takes up what an earlier run compiled only where all that the
methods ask of a program is lowered to the very same text, every constant in it written out: then compiling it
again would give the same program again.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.effort import cells
from triptych.inference.sharing import call_of, sharing, within

__all__ = ["LARGEST", "digest", "fingerprint", "remembering"]

CALLS = 4  # of programs on data that are remembered, the last ones
PARTS = 64  # compiled functions and the like of each
LARGEST = 2 * 10**5  # numbers handed to a program, above which compiling is a small part of a run

Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Parts(dict[Any, Any]):
    """A scope of `sharing` that outlives its block; the parts that were asked for last can be told."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark
        self._clock = itertools.count()
        self._asked: dict[Any, int] = {}

    def get(self, key: Any, default: Any = None) -> Any:
        self._asked[key] = next(self._clock)
        return super().get(key, default)

    def trim(self) -> None:
        """Let go of the parts that were not asked for the longest: those of one run alone among them."""
        asked = {key: self._asked.get(key, -1) for key in list(self)}
        for key in sorted(asked, key=asked.__getitem__)[: max(len(asked) - PARTS, 0)]:
            self.pop(key, None)
        self._asked = {key: time for key, time in asked.items() if key in self}


_REMEMBERED: OrderedDict[Any, _Parts] = OrderedDict()
_LOCK = threading.Lock()


@contextmanager
def remembering(m: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Call]:
    """Open a block of `sharing` with what an earlier run of the same program and data has left.

    Within another `sharing`, with much data, or where the call is no key (a program that is not hashable, an
    argument that is no array), nothing is remembered.

    Parameters
    ----------
    m : the marginal of the program.
    args, kwargs : what the program is called with.

    Returns
    -------
    The arguments to run with: copies, which nobody changes while what was made of them is remembered.
    """
    call = None if within() or cells(args, kwargs) > LARGEST else call_of(m, args, kwargs)
    if call is None:
        yield tuple(args), dict(kwargs)
        return
    given = jax.tree.map(
        lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, (tuple(args), dict(kwargs))
    )
    fresh = _Parts("")
    with sharing(fresh):
        try:
            fresh.mark = fingerprint(m, *given)
        except Exception:  # whatever is wrong with the program, the run itself says it better
            fresh.mark = ""
    with _LOCK:
        key = (call, str(jnp.result_type(float)))
        parts = _REMEMBERED.pop(key, fresh)
        if parts.mark != fresh.mark:
            parts = fresh
        if parts.mark:
            _REMEMBERED[key] = parts
        while len(_REMEMBERED) > CALLS:
            _REMEMBERED.popitem(last=False)
    try:
        with sharing(parts):
            yield given
    finally:
        parts.trim()


def fingerprint(m: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Give a digest of all that the methods ask of a program on its data, as XLA would be told it.

    These are the density of u and its gradient, the pointwise log-likelihood, the posteriors of the discrete
    latents, a draw of the prior and the observed values; and the names and shapes of the program's sites.

    Raises
    ------
    InputError : the program fails, or has nothing to infer.
    """
    from triptych.inference.posterior import observed_values
    from triptych.inference.starts import prior_draw
    from triptych.inference.target import target

    goal = target(m, args, kwargs)

    def asked(key: jax.Array, u: jax.Array) -> Any:
        theta = goal.space.constrain(u)
        return (
            jax.value_and_grad(goal.density)(u),
            m.log_likelihood(theta, *args, **kwargs),
            m.posteriors(theta, *args, **kwargs),
            prior_draw(key, m, args, kwargs, goal.space),
            observed_values(m, args, kwargs),
        )

    return digest(m.structure(*args, **kwargs), asked, jax.random.key(0), np.zeros(goal.space.size))


def digest(structure: Any, function: Callable[..., Any], *at: Any) -> str:
    """Give a digest of a program's sites and of a function of it, as XLA is told it, constants and all."""
    text = f"{structure!r}\n{jax.jit(function).lower(*at).as_text()}"
    return hashlib.sha256(text.encode()).hexdigest()
