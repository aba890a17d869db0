"""Tables in files, opened for reading in blocks of rows: what `rows.py` reads from.

Compressed and text formats (CSV, Parquet, Zarr) cost more to decode than EM costs to work on them: their rows
are decoded once, to a temporary row-major file that every pass reads. It lies where `TMPDIR` says.
"""

from __future__ import annotations

import dataclasses
import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from triptych.models.errors import InputError

__all__ = ["StoredRows", "open_rows", "stored"]

SPOOL_ROWS = 2**16  # rows that are decoded at a time


@dataclasses.dataclass(frozen=True, eq=False)
class StoredRows:
    """A row-major table in an open file, read by position: nothing of it stays in memory.

    A memory map would count as memory of the process, and a file cut short under it would kill the process.
    """

    file: IO[bytes]
    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stamp: tuple[int, int]  # bytes and time of the last change when it was opened

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)

    def __getitem__(self, chosen: slice) -> np.ndarray:
        start, stop, _ = chosen.indices(self.shape[0])
        out = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill `out` (C-contiguous, of this dtype) with the rows from `start`.

        Raises
        ------
        InputError : the file is not what it was when it was opened.
        """
        data = out.reshape(-1).view(np.uint8).data
        place = self.offset + start * int(np.prod(self.shape[1:])) * self.dtype.itemsize
        while data:
            count = os.preadv(self.file.fileno(), [data], place)
            if count == 0:
                raise InputError(f"{self.name} was cut short while it was read: restore it and begin again.")
            data, place = data[count:], place + count

    def check(self) -> None:
        """Refuse a file that was changed since it was opened: a sum over it would mix two data sets."""
        if self.stamp != _stamp(self.file):
            raise InputError(f"{self.name} was changed while it was read: begin again when it is complete.")


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def stored(array: Any) -> Any:
    """Give a whole memory map as a table that is read by position, and anything else as it is."""
    whole = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.filename is not None
    if not (whole and array.mode == "r" and array.flags.c_contiguous and array.size):
        return array
    file = open(str(array.filename), "rb")  # noqa: SIM115  closed when the table goes
    return StoredRows(file, str(array.filename), array.offset, array.shape, array.dtype, _stamp(file))


def open_rows(
    path: Path, columns: Sequence[str] | None, dtype: str | None = None
) -> tuple[Any, tuple[str, ...] | None]:
    """Open a file: the table, and the names of its columns where it has any.

    `dtype` is that of the arithmetic, where it is chosen: a copy need hold no more.

    Raises
    ------
    InputError : no such file, a kind of file or a column that is not known, cells that are no numbers.
    """
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    kind = path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if kind == ".npy":
        return stored(_opened(path, lambda: np.load(path, mmap_mode="r"))), None
    if kind == ".zarr":
        array = _opened(path, lambda: _imported("zarr").open_array(str(path), mode="r"))
        if array.ndim not in (1, 2) or np.dtype(array.dtype).kind not in "fiub" or not array.shape[0]:
            return array, None  # refused by `rows`
        return _spooled(path, _slices(array), np.dtype(array.dtype), array.shape[1:]), None
    if kind in (".csv", ".parquet", ".pq"):
        _imported("pyarrow")
        return _table(path, kind == ".csv", columns, dtype)
    raise InputError(f"{path} is of no kind that is known: give .csv, .parquet, .npy or .zarr.")


def _imported(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(f"This kind of file needs the package {package}: install triptych[files].") from None


def _opened(path: Path, opening: Callable[[], Any]) -> Any:
    try:
        return opening()
    except InputError:
        raise
    except Exception as error:  # each format fails in its own way
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = f"{tempfile.gettempdir()}: name a larger place by TMPDIR"
            raise InputError(f"The decoded rows of {path} do not fit into {where}.") from None
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _slices(array: Any) -> Iterator[np.ndarray]:
    """Read a Zarr array, some whole chunks at a time."""
    chunk = int(array.chunks[0])
    size = chunk * max(1, SPOOL_ROWS // chunk)
    return (np.asarray(array[start : start + size]) for start in range(0, array.shape[0], size))


def _table(
    path: Path, text: bool, columns: Sequence[str] | None, chosen_dtype: str | None
) -> tuple[Any, tuple[str, ...]]:
    """Read the chosen columns of a CSV or Parquet file."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    data = _opened(path, lambda: ds.dataset(str(path), format=_csv(path, {}) if text else "parquet"))
    known = list(data.schema.names)
    for name in columns or ():
        if name not in known:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(known)}.")
    chosen = tuple(columns or known)
    types = {name: data.schema.field(name).type for name in chosen}
    for name, each in types.items():
        # A column of a CSV that begins with blanks may still hold numbers.
        if not (pa.types.is_floating(each) or pa.types.is_integer(each) or pa.types.is_boolean(each)):
            if text and pa.types.is_null(each):
                continue
            raise InputError(
                f"{path}: column {name!r} holds {each}, not numbers; leave it out by `columns`, or code it."
            )
    narrow = all(pa.types.is_float32(each) or pa.types.is_float16(each) for each in types.values())
    dtype = np.dtype(chosen_dtype or (np.float32 if narrow else np.float64))
    if text:  # whole numbers at the top do not say that there are no others below
        wide = {n: pa.float64() for n, each in types.items() if not pa.types.is_boolean(each)}
        data = _opened(path, lambda: ds.dataset(str(path), format=_csv(path, wide)))

    def tables() -> Iterator[np.ndarray]:
        # Few batches ahead: memory must not grow with the file.
        ahead: dict[str, Any] = {"batch_readahead": 4, "fragment_readahead": 1}
        if not text:  # by threads, memory was seen to grow with the file
            ahead = {"batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}
            ahead["fragment_scan_options"] = ds.ParquetFragmentScanOptions(pre_buffer=False)
        batches = data.to_batches(columns=list(chosen), batch_size=SPOOL_ROWS, **ahead)
        for batch in batches:
            table = np.empty((batch.num_rows, len(chosen)), dtype)
            for d, column in enumerate(batch.columns):
                numbers = column.cast(pa.from_numpy_dtype(dtype), safe=False)  # a blank becomes NaN
                table[:, d] = numbers.to_numpy(zero_copy_only=False)
            yield table

    return _spooled(path, tables(), dtype, (len(chosen),)), chosen


def _csv(path: Path, types: dict[str, Any]) -> Any:
    """Tell Arrow how a CSV file is written: its separator, and whether its first line names the columns."""
    import gzip

    import pyarrow.csv as pc
    import pyarrow.dataset as ds

    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        first = file.readline().decode("utf-8-sig", "replace").strip()
    mark = next((mark for mark in (",", ";", "\t") if mark in first), ",")
    cells = [cell.strip().strip('"') for cell in first.split(mark)]
    bare = all(_is_number(cell) for cell in cells)
    return ds.CsvFileFormat(
        parse_options=pc.ParseOptions(delimiter=mark),
        read_options=pc.ReadOptions(column_names=[f"x{d}" for d in range(len(cells))] if bare else None),
        convert_options=pc.ConvertOptions(column_types=types),
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _spooled(path: Path, tables: Iterator[np.ndarray], dtype: np.dtype[Any], row: tuple[int, ...]) -> Any:
    """Write tables of rows one after the other to a temporary file, gone when nothing reads it any more."""

    def written() -> Any:
        file = tempfile.TemporaryFile(prefix="triptych-")  # noqa: SIM115
        number = 0
        try:
            for table in tables:
                file.write(np.ascontiguousarray(table, dtype).data)
                number += len(table)
            file.flush()
        except BaseException:
            file.close()
            raise
        if number == 0:
            file.close()
            return np.empty((0, *row), dtype)
        return StoredRows(file, f"the copy of {path}", 0, (number, *row), dtype, _stamp(file))

    return _opened(path, written)
