"""A CSV file as a table of named columns, every cell checked on the way in."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from triptych.experiments.refusal import refuse

__all__ = ["Table", "read_table"]

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "."})


@dataclasses.dataclass(frozen=True)
class Table:
    """The cells of a CSV file as text, row by row, and the line of the file that each row stands on."""

    path: Path
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    first_line: int

    def column(self, name: str, limit: int | None = None, *, numeric: bool) -> np.ndarray:
        """Give one column, (N,): as numbers, or as text where it is not all numbers and need not be."""
        if numeric:
            return self.numbers([name], limit)[:, 0]
        at = self.header.index(name)
        cells = [row[at].strip() for row in self.rows[:limit]]
        try:
            return np.array([float(cell) for cell in cells])
        except ValueError:
            return np.array(cells)

    def numbers(
        self, columns: Sequence[str], limit: int | None = None, *, missing: bool = False
    ) -> np.ndarray:
        """Give the named columns of the first `limit` rows as float64, (N, D); NaN where missing, if let."""
        at = [self.header.index(name) for name in columns]
        rows = self.rows[:limit]
        out = np.empty((len(rows), len(at)))
        for n, row in enumerate(rows):
            try:
                out[n] = [_cell(row[d], missing) for d in at]
            except ValueError:
                self._refuse_cell(n, at, missing)
        bad = np.isinf(out) if missing else ~np.isfinite(out)
        if bad.any():
            self._refuse_cell(int(np.argmax(bad.any(axis=1))), at, missing)
        return out

    def _refuse_cell(self, n: int, at: Sequence[int], missing: bool) -> None:
        """Say which cell of a row is no finite number, and what to do about it."""
        for d in at:
            cell = self.rows[n][d].strip()
            where = f"{self.path}, line {n + self.first_line} (row {n + 1}), column {self.header[d]!r}"
            if cell.lower() in MISSING:
                if missing:
                    continue
                cure = "fill it in, leave out the row or column, or keep it by data.missing=keep"
                refuse(f"{where}: missing cell ({cell!r}); {cure}.")
            try:
                value = float(cell)
            except ValueError:
                refuse(f"{where}: {cell!r} is not a number; code it, or leave it out of data.columns.")
            if not math.isfinite(value):
                refuse(f"{where}: {cell!r} is not finite; mend it, or leave out the row.")


def read_table(path: Path) -> Table:
    """Read a CSV file, gzipped or not, separated by comma, semicolon, tab or spaces, with a header or not.

    The first line is a header unless every cell of it is a number; columns without names are called
    x0, x1, ….

    Raises
    ------
    InputError : the file is empty or not text, or a line has more or fewer cells than the first.
    """
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            mark = next((m for m in (",", ";", "\t") if m in first), None)
            if mark is None and len(first.split()) > 1:
                lines = [line.split() for line in file]
            else:
                lines = list(csv.reader(file, delimiter=mark or ",", skipinitialspace=True))
    except UnicodeDecodeError:
        refuse(f"{path} is not UTF-8 text; give a CSV file.")
    except (csv.Error, gzip.BadGzipFile, EOFError) as error:
        refuse(f"{path} cannot be read as CSV: {error}.")
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}.")
    while lines and not any(cell.strip() for cell in lines[-1]):
        lines.pop()
    if not lines:
        refuse(f"{path} is empty; give a CSV file with a row for each observation.")
    width = len(lines[0])
    for n, line in enumerate(lines, start=1):
        if len(line) != width:
            refuse(f"{path}, line {n}: {len(line)} cells, where line 1 has {width}; mend the line.")
    has_header = not all(_is_number(cell) for cell in lines[0])
    header = tuple(c.strip() for c in lines[0]) if has_header else tuple(f"x{d}" for d in range(width))
    if len(set(header)) < width:
        twice = next(name for name in header if header.count(name) > 1)
        refuse(f"{path}: two columns are called {twice!r}; give each its own name.")
    rows = lines[1:] if has_header else lines
    if not rows:
        refuse(f"{path} has a header and no rows; give a row for each observation.")
    return Table(path, header, rows, 2 if has_header else 1)


def _cell(text: str, missing: bool) -> float:
    return math.nan if missing and text.strip().lower() in MISSING else float(text)


def _is_number(cell: str) -> bool:
    if cell.strip().lower() in MISSING:
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
