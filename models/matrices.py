"""Small symmetric positive definite matrices, many at once, in plain array operations.

Of up to three columns the formulas of Cholesky are written out and run over all the matrices side by side;
larger ones are inverted by sweeping. Not by LAPACK: on the CPU XLA calls it once a matrix, which costs more
than the arithmetic, and jaxlib up to 0.10 hands large stacks to the threads that may be waiting for them, so
that two at a time can wait for ever. Only the factors of larger ones, and their inverses, are still LAPACK's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import multigammaln

__all__ = [
    "WRITTEN_OUT",
    "cholesky",
    "inverse",
    "inverse_by_factors",
    "inverse_of_factors",
    "log_inverse_wishart",
    "lower",
    "positive_definite",
    "solve",
]

Array = jax.Array | np.ndarray
WRITTEN_OUT = 3  # columns at most
BLOCK = 4  # columns swept at once
UNROLLED = 2  # blocks up to which the loop over them is written out
Rows = list[list[Array]]  # of a triangle: rows[i][j], j ≤ i, each with the batch's shape


def cholesky(matrices: Array) -> jax.Array:
    """Lower factors of positive definite matrices (…, D, D); NaN somewhere in the factor of any other."""
    if matrices.shape[-1] > WRITTEN_OUT:
        return jnp.linalg.cholesky(matrices)
    return lower(_factor(matrices))


def positive_definite(matrices: Array) -> jax.Array:
    """Say of symmetric matrices (…, D, D) whether each is positive definite, (…,)."""
    if matrices.shape[-1] > WRITTEN_OUT:
        return jnp.isfinite(inverse(matrices)[1])
    return jnp.isfinite(_factor(matrices)[-1][-1])


def inverse(matrices: Array) -> tuple[jax.Array, jax.Array]:
    """Invert positive definite matrices (…, D, D), and give the log-determinants (…,) of the inverses.

    The log-determinant of one that is not positive definite is not finite.
    """
    if matrices.shape[-1] > WRITTEN_OUT:
        return _swept(matrices)
    return _squared(_inverted(_factor(matrices)))


def inverse_by_factors(factors: Array) -> tuple[jax.Array, jax.Array]:
    """Give P = (L Lᵀ)⁻¹ of lower triangles L (…, D, D), and log|P|, (…)."""
    if factors.shape[-1] > WRITTEN_OUT:
        half = _solved(factors)
        log_det = -2.0 * jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
        return jnp.swapaxes(half, -2, -1) @ half, log_det
    return _squared(_inverted(_rows(factors)))


def inverse_of_factors(factors: Array) -> jax.Array:
    """Give L⁻¹ of lower triangles L (…, D, D)."""
    if factors.shape[-1] > WRITTEN_OUT:
        return _solved(factors)
    return lower(_inverted(_rows(factors)))


def solve(factors: Array, vectors: Array) -> jax.Array:
    """Give (L Lᵀ)⁻¹ v of lower triangles L (…, D, D) and vectors v (…, D)."""
    size = factors.shape[-1]
    if size > WRITTEN_OUT:
        half = _solved(factors)
        return jnp.einsum("...ji,...jk,...k->...i", half, half, vectors)
    half = _inverted(_rows(factors))
    once = [_dot((row[j], vectors[..., j]) for j in range(i + 1)) for i, row in enumerate(half)]
    return jnp.stack([_dot((half[i][j], once[i]) for i in range(j, size)) for j in range(size)], axis=-1)


def lower(rows: Rows) -> jax.Array:
    """Give triangles L (…, D, D) by their entries."""
    zero = jnp.zeros_like(rows[0][0])
    return _stacked([[*row, *[zero] * (len(rows) - len(row))] for row in rows])


def log_inverse_wishart(
    precisions: Array, log_det: Array, degrees: Array, spread: Array, log_det_spread: Array
) -> jax.Array:
    """Give the log density of Σ (…, D, D) ~ inverse-Wishart(ν, Λ), (…), nats, from P = Σ⁻¹ and log|P|.

        log p(Σ) = ν/2 log|Λ| + (ν + D + 1)/2 log|P| − ½ tr(Λ P) − νD/2 log 2 − log Γ_D(ν/2)

    Parameters
    ----------
    degrees : ν, (…). spread : Λ, (…, D, D), with its log-determinant, (…).

    References
    ----------
    Bishop (2006), Pattern Recognition and Machine Learning, appendix B.
    """
    size = spread.shape[-1]
    constant = degrees / 2 * (log_det_spread - size * math.log(2.0)) - multigammaln(degrees / 2, size)
    trace = jnp.sum(jnp.asarray(precisions) * spread, axis=(-2, -1))
    return jnp.asarray(constant + (degrees + size + 1) / 2 * log_det - trace / 2)


@jax.custom_jvp
def _solved(factors: Array) -> jax.Array:
    """L⁻¹ by LAPACK; its derivative by products, which are quicker than solves."""
    identity = jnp.broadcast_to(jnp.eye(factors.shape[-1], dtype=factors.dtype), factors.shape)
    return jax.scipy.linalg.solve_triangular(factors, identity, lower=True)


@_solved.defjvp
def _solved_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[jax.Array, jax.Array]:
    half = _solved(*primals)
    return half, -half @ jnp.tril(tangents[0]) @ half


def _squared(half: Rows) -> tuple[jax.Array, jax.Array]:
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


def _stacked(rows: Rows) -> jax.Array:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


@jax.custom_jvp
@jax.jit  # one program for whoever runs it operation by operation
def _swept(matrices: Array) -> tuple[jax.Array, jax.Array]:
    """Invert by sweeping BLOCK columns in turn (Gauss–Jordan on a symmetric matrix), all matrices together.

    The derivatives need products alone: dA⁻¹ = −A⁻¹ dA A⁻¹, d log |A⁻¹| = −tr(A⁻¹ dA).
    """
    size = matrices.shape[-1]
    count = -(-size // BLOCK)
    spare = count * BLOCK - size
    if spare:  # filled up by columns of the identity
        wide = jnp.pad(matrices, [(0, 0)] * (matrices.ndim - 2) + [(0, spare)] * 2)
        matrices = wide + jnp.diag(jnp.arange(count * BLOCK) >= size).astype(wide.dtype)
    state = (jnp.asarray(matrices), jnp.zeros(matrices.shape[:-2], matrices.dtype))
    # Left to itself XLA multiplies float32 on a GPU with 10 bits of mantissa.
    with jax.default_matmul_precision("highest"):
        if count <= UNROLLED:
            for index in range(count):
                state = _sweep(index, state)
        else:
            state = lax.fori_loop(0, count, _sweep, state)
    return -state[0][..., :size, :size], state[1]


@_swept.defjvp
def _swept_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    (matrices,), (change,) = primals, tangents
    inverted, log_det = _swept(matrices)
    moved = inverted @ change
    return (inverted, log_det), (-moved @ inverted, -jnp.trace(moved, axis1=-2, axis2=-1))


def _sweep(index: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Sweep the columns B: A_BB to −P, P = A_BB⁻¹; A_RB to A_RB P; A_RR to A_RR − A_RB P A_BR."""
    matrices, log_det = state
    start = index * BLOCK
    columns = lax.dynamic_slice_in_dim(matrices, start, BLOCK, axis=-1)
    pivot = lax.dynamic_slice_in_dim(columns, start, BLOCK, axis=-2)
    inverted, of_pivot = _squared(_inverted(_factor(pivot)))
    scaled = columns @ inverted
    rest = matrices - scaled @ jnp.swapaxes(columns, -2, -1)
    scaled = lax.dynamic_update_slice_in_dim(scaled, -inverted, start, axis=-2)
    rest = lax.dynamic_update_slice_in_dim(rest, scaled, start, axis=-1)
    rest = lax.dynamic_update_slice_in_dim(rest, jnp.swapaxes(scaled, -2, -1), start, axis=-2)
    return rest, log_det + of_pivot
