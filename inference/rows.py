"""Rows that need not fit in memory: a file or an array that is read block by block, again and again.

A block is read while the one before it is worked on. Blocks of a file are read into three buffers in turn, so
that memory is the same whatever the number of rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from triptych.inference.row_files import StoredRows, open_rows, stored
from triptych.models.errors import InputError

__all__ = ["BLOCK_BYTES", "Rows", "aligned", "rows"]

BLOCK_BYTES = 2**25
ALIGNMENT = 64  # bytes; XLA works on a buffer that begins so without copying it


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A table (N, D) of numbers that is read in blocks of rows.

    Attributes
    ----------
    array : anything with `shape` and `dtype` whose slices of rows become NumPy arrays.
    names : the columns.
    first, last : the rows of `array` that are this process's share.
    total : rows of all processes together.
    dtype : of the arithmetic.
    spare : buffers that no pass is using.
    """

    array: Any
    names: tuple[str, ...]
    first: int
    last: int
    total: int
    dtype: np.dtype[Any]
    spare: list[list[np.ndarray]] = dataclasses.field(default_factory=list, repr=False)

    def __len__(self) -> int:
        """Count the rows of this process."""
        return self.last - self.first

    @property
    def columns(self) -> int:
        """D."""
        return len(self.names)

    @property
    def shared(self) -> bool:
        """Whether the rows are spread over several processes."""
        return self.total > len(self)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Give some of this process's rows, (n, D), as an array in memory."""
        block = np.asarray(self.array[self.first + start : min(self.first + stop, self.last)])
        block = block[:, None] if block.ndim == 1 else block
        return np.ascontiguousarray(block, dtype=self.dtype)

    def take(self, chosen: np.ndarray) -> np.ndarray:
        """Give some of this process's rows by their sorted numbers, (n, D)."""
        found, size = [np.empty((0, self.columns), self.dtype)], self.block_rows()
        for start in np.unique(chosen // size) * size:
            here = chosen[(chosen >= start) & (chosen < start + size)]
            if isinstance(self.array, StoredRows) and len(here) < size // 100:
                found += [self.read(row, row + 1) for row in here.tolist()]
            else:
                found.append(self.read(int(start), int(start) + size)[here - start])
        return np.concatenate(found)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Read the rows in order, at most `size` at a time, each block while the one before is worked on.

        A block may be written over as soon as the second one after it is asked for.
        """
        direct = isinstance(self.array, StoredRows) and self.array.dtype == self.dtype
        size = min(size, len(self))
        buffers = self._lent((size, self.columns)) if direct else []

        def fetch(index: int) -> np.ndarray:
            start, stop = index * size, min((index + 1) * size, len(self))
            if not direct:
                return self.read(start, stop)
            block = buffers[index % 3][: stop - start]
            self.array.read_into(self.first + start, block)
            return block

        if isinstance(self.array, StoredRows):
            self.array.check()
        yield from _ahead([partial(fetch, index) for index in range(-(-len(self) // size))])
        if direct:
            self.spare.append(buffers)

    def pieces(self, bounds: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Read stretches of rows, (first, one past the last), in the order given, one ahead of its use."""
        yield from _ahead([partial(self.read, *each) for each in bounds])

    def _lent(self, shape: tuple[int, int]) -> list[np.ndarray]:
        """Give three buffers: those of a pass before, which are mapped already, where they are free."""
        if self.spare and self.spare[-1][0].shape == shape:
            return self.spare.pop()
        self.spare.clear()
        return [aligned(shape, self.dtype) for _ in range(3)]

    def block_rows(self) -> int:
        """Rows of a block, whole chunks where the array is stored in chunks."""
        size = max(1, BLOCK_BYTES // (self.columns * self.dtype.itemsize))
        chunks = getattr(self.array, "chunks", None)
        chunk = chunks[0] if isinstance(chunks, tuple) and chunks else None
        chunk = max(chunk) if isinstance(chunk, tuple) else chunk  # dask: the sizes of all chunks
        return size // chunk * chunk if isinstance(chunk, int) and 0 < chunk <= size else size


def _ahead(tasks: Sequence[Callable[[], np.ndarray]]) -> Iterator[np.ndarray]:
    """Do tasks in order, each while what the one before gave is used."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as reader:
        following = [reader.submit(task) for task in tasks[:1]]
        for index in range(len(tasks)):
            block = following.pop().result()
            following += [reader.submit(task) for task in tasks[index + 1 : index + 2]]
            yield block


def aligned(shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    """Give an array whose first byte lies where XLA wants it."""
    count = shape[0] * shape[1] * dtype.itemsize
    raw = np.empty(count + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    return raw[begin : begin + count].view(dtype).reshape(shape)


def rows(
    source: Any, *, columns: Sequence[str] | None = None, split: bool = False, dtype: str | None = None
) -> Rows:
    """Open a table that is read in blocks, for `EM(model).run(key, rows(source))`.

    Parameters
    ----------
    source : path of a `.csv` (or `.csv.gz`), `.parquet`, `.npy` or `.zarr`; or an array that is sliced by
        rows (NumPy memory map, Zarr, HDF5, dask). Files that are compressed or text are decoded once, when
        they are opened, to a temporary file of N · D numbers; `TMPDIR` says where. The others are read where
        they lie.
    columns : names of the columns to read, of a CSV or Parquet file.
    split : under `jax.distributed`, give each process its own share of the rows.
    dtype : of the arithmetic, "float32" or "float64"; float32 where the numbers are no wider, if left out.

    Raises
    ------
    InputError : no such file, a kind of file or a column that is not known, not a table of numbers, no rows.
    """
    if dtype not in (None, "float32", "float64"):
        raise InputError(f"`dtype` is {dtype!r}: choose 'float32' or 'float64'.")
    names: tuple[str, ...] | None = None
    if isinstance(source, str | Path):
        array, names = open_rows(Path(source), columns, dtype)
    else:
        array = stored(source)
    if columns is not None and names is None:
        raise InputError("`columns` names the columns of a CSV or Parquet file; slice an array before.")
    shape, kind = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or kind is None or len(shape) not in (1, 2):
        raise InputError(f"`source` is a {type(source).__name__} of shape {shape}: give a table (N, D).")
    kind = np.dtype(kind)
    if kind.kind not in "fiub":
        raise InputError(f"`source` holds {kind}, not numbers.")
    number, width = shape[0], 1 if len(shape) == 1 else shape[1]
    if number == 0 or width == 0:
        raise InputError(f"`source` has {number} rows and {width} columns: there is nothing to fit.")
    first, last = _share(number) if split else (0, number)
    named = names or tuple(f"x{d}" for d in range(width))
    narrow = kind.kind == "f" and kind.itemsize <= 4
    wide = np.dtype(dtype or (np.float32 if narrow else np.float64))
    return Rows(array, named, first, last, number, wide)


def _share(number: int) -> tuple[int, int]:
    """Give this process's first and last row."""
    import jax

    index, count = jax.process_index(), jax.process_count()
    if number < count:
        raise InputError(f"{number} rows cannot be split over {count} processes.")
    return number * index // count, number * (index + 1) // count
