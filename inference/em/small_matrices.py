"""Cholesky factors and inverses of many small matrices at once.

LAPACK takes matrix by matrix, and a call costs more than the arithmetic of two or three columns: written out,
the same formulas run over all the matrices side by side. Larger matrices go to LAPACK.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from triptych.inference.em.family import Array

__all__ = ["cholesky", "inverse"]

WRITTEN_OUT = 3  # columns at most
Rows = list[list[Array]]  # of a triangle: rows[i][j], j ≤ i, each with the batch's shape


def cholesky(matrices: Array) -> Array:
    """Lower factors of positive definite matrices (…, D, D); NaN somewhere in the factor of any other."""
    if matrices.shape[-1] > WRITTEN_OUT:
        return jnp.linalg.cholesky(matrices)
    return _square(_factor(matrices))


def inverse(matrices: Array) -> tuple[Array, Array]:
    """Invert positive definite matrices (…, D, D) by Cholesky; also the log-determinants of the inverses."""
    size = matrices.shape[-1]
    if size > WRITTEN_OUT:
        factors = jnp.linalg.cholesky(matrices)
        identity = jnp.broadcast_to(jnp.eye(size, dtype=matrices.dtype), matrices.shape)
        half = jax.scipy.linalg.solve_triangular(factors, identity, lower=True)
        log_det = -2.0 * jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
        return jnp.swapaxes(half, -2, -1) @ half, log_det
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


def _square(rows: Rows) -> Array:
    zero = jnp.zeros_like(rows[0][0])
    return _stacked([[*row, *[zero] * (len(rows) - len(row))] for row in rows])


def _stacked(rows: Rows) -> Array:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
