"""Rows held column by column and standardised, as the features of narrow rows are made from them.

T(x) is (F, n), its rows products of whole columns (`family.py`). Rows as they lie would be transposed in
every chunk of every iteration; once, when they are bound, saves a tenth of a float64 iteration and a fifth of
a float32 one. Wide rows whose products are read as they lie (`Family.plain`) stay so, and so do
rows that come in blocks and are seen once.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from triptych.inference.em.family import Array
from triptych.inference.rows import aligned

__all__ = ["TransposedRows", "standardised", "transposed"]

BLOCK = 2**12  # rows transposed at once, which fit the cache


@partial(jax.tree_util.register_dataclass, data_fields=["columns"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class TransposedRows:
    """Standardised rows, (x − centre) · inverse_scale, as `columns` (D, N); shaped and taken as rows are."""

    columns: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        columns, rows = self.columns.shape
        return rows, columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        return np.dtype(self.columns.dtype)

    def __getitem__(self, chosen: Any) -> TransposedRows:
        """Give some of the rows."""
        return TransposedRows(self.columns[:, chosen])

    def stretch(self, start: Array | int, length: int) -> Array:
        """Give `length` rows from `start`, (length, D): transposed back in name only."""
        return jnp.asarray(lax.dynamic_slice_in_dim(self.columns, start, length, axis=1)).T


def transposed(rows: np.ndarray, centre: np.ndarray, inverse_scale: np.ndarray) -> TransposedRows:
    """Standardise rows (N, D) and transpose them, in their own type."""
    columns = aligned((rows.shape[1], rows.shape[0]), rows.dtype)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        columns[:, part] = ((rows[part] - centre) * inverse_scale).T
    return TransposedRows(jax.device_put(columns, may_alias=True))


def standardised(rows: Array | TransposedRows, centre: Array, inverse_scale: Array) -> Array:
    """Give rows (N, D) as (x − centre) · inverse_scale, which transposed ones are already."""
    return rows.columns.T if isinstance(rows, TransposedRows) else (rows - centre) * inverse_scale
