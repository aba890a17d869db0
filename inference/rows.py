"""Rows that need not fit in memory: a file or an array that is read block by block, again and again.

Text and column formats (CSV, Parquet) are slow to read twice: their rows are written once, as they are read,
to a temporary row-major file that later passes map. Memory maps, Zarr, HDF5 and dask arrays are read where
they lie.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from triptych.models.errors import InputError

__all__ = ["BLOCK_BYTES", "Rows", "rows"]

BLOCK_BYTES = 2**26  # a block is read while the one before it is worked on: two are in memory


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A table (N, D) of numbers that is read in blocks of rows.

    Attributes
    ----------
    array : anything with `shape` and `dtype` whose slices of rows become NumPy arrays.
    names : the columns.
    first, last : the rows of `array` that are this process's share.
    total : rows of all processes together.
    """

    array: Any
    names: tuple[str, ...]
    first: int
    last: int
    total: int

    def __len__(self) -> int:
        """Count the rows of this process."""
        return self.last - self.first

    @property
    def columns(self) -> int:
        """D."""
        return len(self.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the arithmetic: float32 where the numbers are, else float64."""
        narrow = np.dtype(self.array.dtype).itemsize <= 4 and np.dtype(self.array.dtype).kind == "f"
        return np.dtype(np.float32 if narrow else np.float64)

    @property
    def shared(self) -> bool:
        """Whether the rows are spread over several processes."""
        return self.total > len(self)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Give some of this process's rows, (n, D), as an array in memory."""
        block = np.asarray(self.array[self.first + start : min(self.first + stop, self.last)])
        block = block[:, None] if block.ndim == 1 else block
        return np.ascontiguousarray(block, dtype=self.dtype)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Read the rows in order, at most `size` at a time, each block while the one before is worked on."""
        return self.pieces([(start, start + size) for start in range(0, len(self), size)])

    def pieces(self, bounds: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
        """Read stretches of rows, (first, one past the last), in the order given, one ahead of its use."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as reader:
            following = [reader.submit(self.read, *each) for each in bounds[:1]]
            for index in range(len(bounds)):
                block = following.pop().result()
                following += [reader.submit(self.read, *each) for each in bounds[index + 1 : index + 2]]
                yield block

    def block_rows(self) -> int:
        """Rows of a block."""
        return max(1, BLOCK_BYTES // (self.columns * self.dtype.itemsize))


def rows(source: Any, *, columns: Sequence[str] | None = None, split: bool = False) -> Rows:
    """Open a table that is read in blocks, for `EM(model).run(key, rows(source))`.

    Parameters
    ----------
    source : path of a `.csv`, `.parquet`, `.npy` or `.zarr`; or an array that is sliced by rows (NumPy memory
        map, Zarr, HDF5, dask).
    columns : names of the columns to read, of a CSV or Parquet file.
    split : under `jax.distributed`, give each process its own share of the rows.

    Raises
    ------
    InputError : no such file, a kind of file or a column that is not known, not a table of numbers, no rows.
    """
    names: tuple[str, ...] | None = None
    array = source
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise InputError(f"There is no file {path}.")
        kind = path.suffix.lower()
        if kind == ".npy":
            array = _opened(path, lambda: np.load(path, mmap_mode="r"))
        elif kind == ".zarr":
            array = _opened(path, lambda: _imported("zarr").open_array(str(path), mode="r"))
        elif kind in (".csv", ".parquet", ".pq"):
            array, names = _spooled(path, "csv" if kind == ".csv" else "parquet", columns)
        else:
            raise InputError(f"{path} is of no kind that is known: give .csv, .parquet, .npy or .zarr.")
    if columns is not None and names is None:
        raise InputError("`columns` names the columns of a CSV or Parquet file; slice an array before.")
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
    if shape is None or dtype is None or len(shape) not in (1, 2):
        raise InputError(f"`source` is a {type(source).__name__} of shape {shape}: give a table (N, D).")
    if np.dtype(dtype).kind not in "fiub":
        raise InputError(f"`source` holds {np.dtype(dtype)}, not numbers.")
    number, width = shape[0], 1 if len(shape) == 1 else shape[1]
    if number == 0 or width == 0:
        raise InputError(f"`source` has {number} rows and {width} columns: there is nothing to fit.")
    first, last = _share(number) if split else (0, number)
    named = names or tuple(f"x{d}" for d in range(width))
    return Rows(array, named, first, last, number)


def _share(number: int) -> tuple[int, int]:
    """Give this process's first and last row."""
    import jax

    index, count = jax.process_index(), jax.process_count()
    if number < count:
        raise InputError(f"{number} rows cannot be split over {count} processes.")
    return number * index // count, number * (index + 1) // count


def _imported(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(f"This kind of file needs the package {package}: install triptych[files].") from None


def _opened(path: Path, opening: Any) -> Any:
    try:
        return opening()
    except InputError:
        raise
    except Exception as error:  # each format fails in its own way
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _spooled(path: Path, kind: str, columns: Sequence[str] | None) -> tuple[Any, tuple[str, ...]]:
    """Write the rows of a CSV or Parquet file to a temporary row-major file, batch by batch."""
    _imported("pyarrow")
    import pyarrow as pa
    import pyarrow.dataset as ds

    data = _opened(path, lambda: ds.dataset(str(path), format=kind))
    known = list(data.schema.names)
    for name in columns or ():
        if name not in known:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(known)}.")
    chosen = tuple(columns or known)
    types = [data.schema.field(name).type for name in chosen]
    for name, each in zip(chosen, types, strict=True):
        if not (pa.types.is_floating(each) or pa.types.is_integer(each) or pa.types.is_boolean(each)):
            raise InputError(
                f"{path}: column {name!r} holds {each}, not numbers; leave it out by `columns`, or code it."
            )
    dtype = np.float32 if all(pa.types.is_float32(each) for each in types) else np.float64

    def spooled() -> np.ndarray:
        with tempfile.TemporaryFile(prefix="triptych-") as file:  # gone when the last map of it is
            number = 0
            for batch in data.to_batches(columns=list(chosen)):
                table = np.empty((batch.num_rows, len(chosen)), dtype)
                for d, column in enumerate(batch.columns):
                    table[:, d] = column.to_numpy(zero_copy_only=False)
                file.write(table.data)
                number += batch.num_rows
            file.flush()
            shape = (number, len(chosen))
            return np.memmap(file, dtype=dtype, mode="r", shape=shape) if number else np.empty(shape)

    return _opened(path, spooled), chosen
