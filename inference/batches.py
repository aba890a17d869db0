"""A function of one draw applied to many, a batch at a time: one compiled program, whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from triptych.inference.effort import briefly, options
from triptych.inference.sharing import kept

__all__ = ["BATCH", "batches", "bounded", "in_batches"]

BATCH = 64  # draws handed to XLA at a time


def bounded(rows: int) -> int:
    """Keep rows × batch bounded, so that the (batch, rows, K) tables inside a density stay small."""
    return max(1, min(BATCH, 200_000 // max(rows, 1)))


def batches(
    function: Callable[..., Any],
    samples: Any,
    batch: int = BATCH,
    *,
    numbers: int = 0,
    given: tuple[Any, ...] = (),
) -> Iterator[tuple[slice, Any]]:
    """Go through draws a batch at a time: which draws, and the function of them (NumPy, their number first).

    The loop is the host's, and the last batch is filled up: so one program serves any number of draws, and,
    within `sharing`, all who ask for the same function.

    Parameters
    ----------
    function : one draw (a tree without sample dims) → tree of arrays.
    samples : tree of (S, …).
    batch : draws at a time.
    numbers : that the function reads beside the draw, such as the data's.
    given : more arguments, trees of arrays, the same for every draw.
    """
    samples = jax.tree.map(np.asarray, samples)
    leaves = jax.tree.leaves(samples)
    count = len(leaves[0]) if leaves else 0
    work = float(numbers) * count
    mapped = kept(
        ("batch", function, tuple(options(work).items())),
        lambda: briefly(jax.vmap(function, in_axes=(0, *[None] * len(given))), work),
    )
    for begin in range(0, max(count, 1), batch):
        index = np.minimum(np.arange(begin, begin + batch), max(count - 1, 0))
        values = mapped(jax.tree.map(lambda value, index=index: value[index], samples), *given)
        here = min(batch, count - begin)
        yield slice(begin, begin + here), jax.tree.map(lambda v, here=here: np.asarray(v)[:here], values)


def in_batches(
    function: Callable[..., Any],
    samples: Any,
    batch: int = BATCH,
    *,
    numbers: int = 0,
    given: tuple[Any, ...] = (),
) -> Any:
    """Apply a function of one draw to all of them; `batches` says what the arguments are.

    Returns
    -------
    tree of NumPy arrays (S, …).
    """
    found = [values for _, values in batches(function, samples, batch, numbers=numbers, given=given)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
