"""Compiled functions of one program and its data, had once for all the methods that ask within a block.

EM's Laplace, SVI and MCMC all want the same density, its gradient and its Hessian, and compiling them takes
longer than the fits of a few hundred rows. Sharing is asked for, by `with sharing():`, and ends with the
block: outside of one a program that reads something else than its arguments may change from call to call.
From one run to the next `remembered.py` keeps what it has seen to be the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["call_of", "kept", "shared", "sharing", "within"]

_NOTHING = object()
_SCOPE: ContextVar[dict[Any, Any] | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(scope: dict[Any, Any] | None = None) -> Iterator[None]:
    """Open a block in which what `shared` makes is kept; a block within another shares with it.

    Parameters
    ----------
    scope : where it is kept, if not with the block around or, where there is none, until the block's end.
    """
    if scope is None:
        scope = {} if _SCOPE.get() is None else _SCOPE.get()
    token = _SCOPE.set(scope)
    try:
        yield
    finally:
        _SCOPE.reset(token)


def within() -> bool:
    """Whether this is within `sharing`."""
    return _SCOPE.get() is not None


def shared(
    what: Any,
    m: Any,
    args: Any,
    kwargs: Mapping[str, Any],
    make: Callable[[], Any],
    arrays: Callable[[Any], Any] = lambda made: (),
) -> Any:
    """Give `make()`, or what it gave before for the same program, data and precision, within `sharing`.

    Where `what` is not hashable nothing is kept.

    Parameters
    ----------
    what : the name of what is made, and all else that it hangs on.
    m : the marginal of the program.
    args, kwargs : what the program is called with.
    arrays : the arrays in what was made; where one belongs to a trace, it is not kept.
    """
    call = None if _SCOPE.get() is None else call_of(m, args, kwargs, what)
    return make() if call is None else kept((what, str(jnp.result_type(float)), call), make, arrays)


def kept(key: Any, make: Callable[[], Any], arrays: Callable[[Any], Any] = lambda made: ()) -> Any:
    """Give `make()`, or what it gave before under this key, within `sharing`."""
    scope = _SCOPE.get()
    if scope is None:
        return make()
    found = scope.get(key, _NOTHING)  # at once: another thread may let go of it
    if found is not _NOTHING:
        return found
    made = make()
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays(made))):
        scope[key] = made
    return made


def call_of(m: Any, args: Any, kwargs: Mapping[str, Any], what: Any = None) -> Any:
    """Give what an answer hangs on: the program and its arguments' values; `None` where that is no key.

    Nor is it one where `what` is not hashable.
    """
    leaves, tree = jax.tree.flatten((tuple(args), dict(kwargs)))
    try:
        hash((m.program, what))
        arrays = [np.asarray(leaf) for leaf in leaves]
    except Exception:  # a program that is not hashable, an argument that is no array
        return None
    if any(array.dtype == object for array in arrays):
        return None
    marks = tuple((a.shape, a.dtype.str, hashlib.sha256(a.tobytes()).digest()) for a in arrays)
    return (m.program, m.largest_table, str(tree), marks)
