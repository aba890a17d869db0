"""Rows held column by column and standardised, as the features of narrow rows are made from them.

T(x) is (F, n), its rows products of whole columns (`family.py`). Rows as they lie would be turned in every
chunk of every iteration; turned once, when they are bound, they save a tenth of a float64 iteration and a
fifth of a float32 one. Wide rows whose products are read as they lie (`Family.plain`) stay so, and so do
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

__all__ = ["TurnedRows", "standardised", "turned"]

BLOCK = 2**12  # rows turned at once, which fit the cache
ALIGNMENT = 64  # bytes: where JAX takes NumPy's memory on a CPU without a copy


@partial(jax.tree_util.register_dataclass, data_fields=["columns"], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class TurnedRows:
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

    def __getitem__(self, chosen: Any) -> TurnedRows:
        """Give some of the rows."""
        return TurnedRows(self.columns[:, chosen])

    def stretch(self, start: Array | int, length: int) -> Array:
        """Give `length` rows from `start`, (length, D): turned back in name only, if T(x) is made of them."""
        return jnp.asarray(lax.dynamic_slice_in_dim(self.columns, start, length, axis=1)).T


def turned(rows: np.ndarray, centre: np.ndarray, inverse_scale: np.ndarray) -> TurnedRows:
    """Standardise rows (N, D) and turn them, in their own type."""
    columns = _aligned(rows.shape[::-1], rows.dtype)
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        columns[:, part] = ((rows[part] - centre) * inverse_scale).T
    return TurnedRows(jax.device_put(columns, may_alias=True))


def standardised(rows: Array | TurnedRows, centre: Array, inverse_scale: Array) -> Array:
    """Give rows (N, D) as (x − centre) · inverse_scale, which turned ones are already."""
    return rows.columns.T if isinstance(rows, TurnedRows) else (rows - centre) * inverse_scale


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Give memory that JAX need not copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
