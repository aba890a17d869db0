"""Inverses, factors and solutions of many small positive definite matrices at once.

LAPACK takes matrix by matrix, and a call costs more than the arithmetic of two or three columns: written out,
the formulas of Cholesky run over all the matrices side by side. Larger ones are swept (`models/matrices.py`):
no stack of many starts' matrices goes to LAPACK, where on few cores two at a time can wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from triptych.inference.em.family import Array
from triptych.models import matrices as swept

__all__ = ["WRITTEN_OUT", "cholesky", "inverse", "inverse_by_factors", "positive_definite", "solve"]

WRITTEN_OUT = 3  # columns at most
Rows = list[list[Array]]  # of a triangle: rows[i][j], j ≤ i, each with the batch's shape


def cholesky(matrices: Array) -> Array:
    """Lower factors of positive definite matrices (…, D, D); NaN somewhere in the factor of any other."""
    if matrices.shape[-1] > WRITTEN_OUT:
        return jnp.linalg.cholesky(matrices)
    rows = _factor(matrices)
    zero = jnp.zeros_like(rows[0][0])
    return _stacked([[*row, *[zero] * (len(rows) - len(row))] for row in rows])


def positive_definite(matrices: Array) -> Array:
    """Say of symmetric matrices (…, D, D) whether each is positive definite, (…,)."""
    if matrices.shape[-1] > WRITTEN_OUT:
        return jnp.isfinite(inverse(matrices)[1])
    return jnp.isfinite(_factor(matrices)[-1][-1])


def inverse(matrices: Array) -> tuple[Array, Array]:
    """Invert positive definite matrices (…, D, D), and give the log-determinants (…,) of the inverses.

    The log-determinant of one that is not positive definite is not finite.
    """
    if matrices.shape[-1] > WRITTEN_OUT:
        return swept.inverse(matrices)
    return _squared(_inverted(_factor(matrices)))


def inverse_by_factors(factors: Array) -> tuple[Array, Array]:
    """Give P = (L Lᵀ)⁻¹ of lower triangles L (…, D, D), and log|P|, (…)."""
    if factors.shape[-1] > WRITTEN_OUT:
        half = _solved(factors)
        log_det = -2.0 * jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
        return jnp.swapaxes(half, -2, -1) @ half, log_det
    return _squared(_inverted(_rows(factors)))


def solve(factors: Array, vectors: Array) -> Array:
    """Give (L Lᵀ)⁻¹ v of lower triangles L (…, D, D) and vectors v (…, D)."""
    size = factors.shape[-1]
    if size > WRITTEN_OUT:
        half = _solved(factors)
        return jnp.einsum("...ji,...jk,...k->...i", half, half, vectors)
    half = _inverted(_rows(factors))
    once = [_dot((row[j], vectors[..., j]) for j in range(i + 1)) for i, row in enumerate(half)]
    return jnp.stack([_dot((half[i][j], once[i]) for i in range(j, size)) for j in range(size)], axis=-1)


@jax.custom_jvp
def _solved(factors: Array) -> Array:
    """L⁻¹ by LAPACK; its derivative by products, which are quicker than solves."""
    identity = jnp.broadcast_to(jnp.eye(factors.shape[-1], dtype=factors.dtype), factors.shape)
    return jax.scipy.linalg.solve_triangular(factors, identity, lower=True)


@_solved.defjvp
def _solved_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    half = _solved(*primals)
    return half, -half @ jnp.tril(tangents[0]) @ half


def _squared(half: Rows) -> tuple[Array, Array]:
    """Give (L⁻¹)ᵀ L⁻¹ and its log-determinant: entry (i, j), i ≥ j, sums over the rows from i on."""
    size = len(half)
    products = [[_dot([(row[i], row[j]) for row in half[i:]]) for j in range(i + 1)] for i in range(size)]
    mirrored = [[products[max(i, j)][min(i, j)] for j in range(size)] for i in range(size)]
    log_det = 2.0 * sum(jnp.log(half[i][i]) for i in range(size))
    return _stacked(mirrored), jnp.asarray(log_det)


def _rows(triangles: Array) -> Rows:
    return [[triangles[..., i, j] for j in range(i + 1)] for i in range(triangles.shape[-1])]


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
