"""Data of a config that are read in blocks: all rows (`data.blocks`), or some of them (`data.sample`)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from triptych.experiments.config import Config
from triptych.experiments.refusal import refuse
from triptych.experiments.store import file_digest

if TYPE_CHECKING:
    from triptych.inference.rows import Rows

__all__ = ["blocks_digest", "drawn", "open_blocks", "source_digest"]


def open_blocks(config: Config, base: Path) -> Rows:
    """Open the file of a config, in its precision.

    Raises
    ------
    InputError : no such file, no such column, a column of text, no rows.
    """
    from triptych.inference.rows import rows
    from triptych.models import InputError

    path = base / Path(str(config.data.path)).expanduser()
    if not path.exists():
        refuse(f"data.path: there is no file {path}; paths are relative to the config.")
    try:
        return rows(path, columns=config.data.columns, dtype=config.precision)
    except InputError as error:
        refuse(f"data.path: {error}")


def drawn(table: Rows, number: int, seed: Any) -> np.ndarray:
    """Draw rows without replacement, in their order, (n, D); all where there are no more."""
    chosen = np.random.default_rng(seed).choice(len(table), min(number, len(table)), replace=False)
    return table.take(np.sort(chosen))


def blocks_digest(table: Rows) -> str:
    """Give the SHA-256 of the rows, the same as of one array that holds them."""
    found = hashlib.sha256(f"{table.dtype.str}{(len(table), table.columns)}".encode())
    for block in table.blocks(table.block_rows()):
        found.update(block.data)
    return found.hexdigest()


def source_digest(path: Path) -> str:
    """Give the SHA-256 of a file, or of all files of a directory by their names."""
    if path.is_file():
        return file_digest(path)
    found = hashlib.sha256()
    for part in sorted(each for each in path.rglob("*") if each.is_file()):
        found.update(f"{part.relative_to(path)} {file_digest(part)}\n".encode())
    return found.hexdigest()
