"""Rows that are seen once: blocks that come one after the other and cannot be asked for again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["FIRST_ROWS", "Stream", "checked", "regrouped", "stream"]

FIRST_ROWS = 20_000


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Blocks of rows in the order in which they come.

    Attributes
    ----------
    blocks : an iterable of tables (n, D), of any n; it is gone through once.
    first : rows that are held before anything is estimated.
    """

    blocks: Iterable[Any]
    first: int = FIRST_ROWS


def stream(blocks: Iterable[Any], *, first: int = FIRST_ROWS) -> Stream:
    """Name a stream of rows, for `EM(model, minibatch="stepwise").run(key, stream(blocks))`.

    The first rows set the units of the arithmetic, the prior where it depends on the data, and the starts:
    they should look like the rest. Every later row is used once, and memory does not grow with their number.

    Parameters
    ----------
    blocks : an iterable of tables (n, D) of numbers, such as a generator of arrays; n may differ.
    first : rows that are held before anything is estimated.

    Raises
    ------
    InputError : `blocks` is one table or no iterable, or `first` is no number of rows.
    """
    whole_number("first", first, 1)
    if hasattr(blocks, "shape") or not isinstance(blocks, Iterable):
        raise InputError(
            f"`blocks` is a {type(blocks).__name__}: give an iterable of tables (n, D), such as a generator; "
            "one table is fitted as it is, or by `triptych.rows(table)`."
        )
    return Stream(blocks, first)


def checked(source: Stream, allowed: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    """Go through the blocks, each as an array (n, D) of the first one's type.

    Parameters
    ----------
    allowed : block (n, D) → whether each cell may be there, (n, D).

    Raises
    ------
    InputError : a block that is no table of numbers, has another number of columns than the first, or holds a
        cell that may not be there.
    """
    columns, dtype, start = None, None, 0
    for number, given in enumerate(source.blocks):
        block = _table(given, number)
        if columns is None or dtype is None:
            narrow = block.dtype.kind == "f" and block.dtype.itemsize <= 4
            columns, dtype = block.shape[1], np.dtype(np.float32 if narrow else np.float64)
        if block.shape[1] != columns:
            raise InputError(
                f"Block {number} of the stream has {block.shape[1]} columns, but the first had {columns}."
            )
        good = allowed(block)
        if not good.all():
            n, d = np.unravel_index(int(np.argmin(good)), good.shape)
            raise InputError(
                f"Block {number} of the stream, its row {n} (row {start + n} of all), column {d} holds "
                f"{block[n, d]}: the rows of a stream must be finite (0 or 1 for a Bernoulli mixture); mend "
                "or drop that row before."
            )
        start += len(block)
        yield np.ascontiguousarray(block, dtype)


def _table(given: Any, number: int) -> np.ndarray:
    """Give a block as an array (n, D)."""
    try:
        block = np.asarray(given)
    except ValueError:
        raise InputError(f"Block {number} of the stream has rows of different lengths.") from None
    if block.dtype.kind not in "fiub" or block.ndim not in (1, 2) or (block.ndim == 2 and not block.shape[1]):
        raise InputError(
            f"Block {number} of the stream holds {block.dtype} of shape {block.shape}: give a table (n, D) "
            "of numbers."
        )
    return block[:, None] if block.ndim == 1 else block


def regrouped(blocks: Iterable[np.ndarray], first: int, size: int) -> Iterator[np.ndarray]:
    """Give the same rows as tables of `first` rows, then of `size`, then of what is left."""
    held: list[np.ndarray] = []
    wanted, have = first, 0
    for block in blocks:
        if len(block):
            held.append(block)
            have += len(block)
        if have < wanted:
            continue
        rows = held[0] if len(held) == 1 else np.concatenate(held)
        start = 0
        while len(rows) - start >= wanted:
            yield rows[start : start + wanted]
            start, wanted = start + wanted, size
        held, have = [rows[start:]] if start < len(rows) else [], len(rows) - start
    if have:
        yield np.concatenate(held)
