"""Inverses of many small positive definite matrices at once.

LAPACK takes matrix by matrix, and a call costs more than the arithmetic of two or three columns: written out,
the formulas of Cholesky run over all the matrices side by side. Larger ones are swept (`models/matrices.py`):
no stack of many starts' matrices goes to LAPACK, where on few cores two at a time can wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from triptych.inference.em.family import Array
from triptych.models import matrices as swept

__all__ = ["WRITTEN_OUT", "inverse", "positive_definite"]

WRITTEN_OUT = 3  # columns at most
Rows = list[list[Array]]  # of a triangle: rows[i][j], j ≤ i, each with the batch's shape


def positive_definite(matrices: Array) -> Array:
    """Say of symmetric matrices (…, D, D) whether each is positive definite, (…,)."""
    if matrices.shape[-1] > WRITTEN_OUT:
        return jnp.isfinite(inverse(matrices)[1])
    return jnp.isfinite(_factor(matrices)[-1][-1])


def inverse(matrices: Array) -> tuple[Array, Array]:
    """Invert positive definite matrices (…, D, D), and give the log-determinants (…,) of the inverses.

    The log-determinant of one that is not positive definite is not finite.
    """
    size = matrices.shape[-1]
    if size > WRITTEN_OUT:
        return swept.inverse(matrices)
    half = _inverted(_factor(matrices))
    # (L⁻¹)ᵀ L⁻¹: entry (i, j), i ≥ j, sums over the rows from i on.
    products = [[_dot([(row[i], row[j]) for row in half[i:]]) for j in range(i + 1)] for i in range(size)]
    mirrored = [[products[max(i, j)][min(i, j)] for j in range(size)] for i in range(size)]
    log_det = 2.0 * sum(jnp.log(half[i][i]) for i in range(size))
    return _stacked(mirrored), jnp.asarray(log_det)


def _factor(matrices: Array) -> Rows:
    rows: Rows = []
    for i in range(matrices.shape[-1]):
        row: list[Array] = []
        for j in range(i):
            row.append((matrices[..., i, j] - _dot(zip(row, rows[j], strict=False))) / rows[j][j])
        pivot = matrices[..., i, i] - _dot([(each, each) for each in row])
        rows.append([*row, jnp.sqrt(jnp.where(pivot > 0, pivot, jnp.nan))])
    return rows


def _inverted(rows: Rows) -> Rows:
    found: Rows = []
    for i, row in enumerate(rows):
        below = [-_dot((row[k], found[k][j]) for k in range(j, i)) / row[i] for j in range(i)]
        found.append([*below, 1.0 / row[i]])
    return found


def _dot(pairs: Iterable[tuple[Array, Array]]) -> Any:
    return sum((a * b for a, b in pairs), start=0.0)


def _stacked(rows: Rows) -> Array:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
