"""Cholesky factors and inverses of many small matrices at once.

LAPACK takes matrix by matrix, and a call costs more than the arithmetic of two or three columns: written out,
the same formulas run over all the matrices side by side. Larger matrices go to LAPACK, a few at a time:
jaxlib up to 0.10 shares a large stack out among the threads of XLA and waits on one of them, so that as many
stacks at once as there are threads wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from triptych.inference.em.family import Array

__all__ = ["by_parts", "cholesky", "inverse"]

WRITTEN_OUT = 3  # columns at most
ALONE = 200_000  # operations of a stack that jaxlib leaves to one thread
Rows = list[list[Array]]  # of a triangle: rows[i][j], j ≤ i, each with the batch's shape


def cholesky(matrices: Array) -> Array:
    """Lower factors of positive definite matrices (…, D, D); NaN somewhere in the factor of any other."""
    if matrices.shape[-1] > WRITTEN_OUT:
        return _factor_many(matrices)
    return _square(_factor(matrices))


def inverse(matrices: Array) -> tuple[Array, Array]:
    """Invert positive definite matrices (…, D, D) by Cholesky; also the log-determinants of the inverses."""
    size = matrices.shape[-1]
    if size > WRITTEN_OUT:
        return _inverse_many(matrices)
    half = _inverted(_factor(matrices))
    # (L⁻¹)ᵀ L⁻¹: entry (i, j), i ≥ j, sums over the rows from i on.
    products = [[_dot([(row[i], row[j]) for row in half[i:]]) for j in range(i + 1)] for i in range(size)]
    mirrored = [[products[max(i, j)][min(i, j)] for j in range(size)] for i in range(size)]
    log_det = 2.0 * sum(jnp.log(half[i][i]) for i in range(size))
    return _stacked(mirrored), jnp.asarray(log_det)


def by_parts(function: Callable[..., Any], cost: float = 1.0) -> Callable[..., Any]:
    """Let a function of stacks (…, D, D) take a few matrices at a time, under `vmap` too.

    The stacks have one shape, their matrices nothing to do with each other; `cost` is the operations on one,
    times D³. As many are a part as one thread is given.
    """

    @custom_vmap
    def call(*stacks: Array) -> Any:
        *batch, size, _ = stacks[0].shape
        few = max(1, int(ALONE / (cost * size**3)))
        flat = [jnp.reshape(stack, (-1, size, size)) for stack in stacks]
        if jax.default_backend() != "cpu" or len(flat[0]) <= few:
            return function(*stacks)
        whole = jax.lax.map(lambda part: function(*part), flat, batch_size=few)
        return jax.tree.map(lambda leaf: jnp.reshape(leaf, (*batch, *leaf.shape[1:])), whole)

    @call.def_vmap
    def many(size: int, batched: list[bool], *stacks: Array) -> Any:
        wide = [
            s if b else jnp.broadcast_to(s, (size, *s.shape)) for s, b in zip(stacks, batched, strict=True)
        ]
        found = call(*wide)
        return found, jax.tree.map(lambda leaf: True, found)

    return call


def _by_triangles(matrices: Array) -> tuple[Array, Array]:
    """P = L⁻ᵀL⁻¹ of Σ = LLᵀ, and log|P|."""
    factors = jnp.linalg.cholesky(matrices)
    identity = jnp.broadcast_to(jnp.eye(matrices.shape[-1], dtype=matrices.dtype), matrices.shape)
    half = jax.scipy.linalg.solve_triangular(factors, identity, lower=True)
    log_det = -2.0 * jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
    return jnp.swapaxes(half, -2, -1) @ half, log_det


_factor_many = by_parts(jnp.linalg.cholesky)
_inverse_by_parts = by_parts(_by_triangles)


@jax.custom_jvp
def _inverse_many(matrices: Array) -> tuple[Array, Array]:
    return _inverse_by_parts(matrices)


@_inverse_many.defjvp
def _derivative(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    """DP = −P dΣ P, d log|P| = −tr(P dΣ)."""
    precisions, log_det = _inverse_many(*primals)
    turned = precisions @ tangents[0]
    return (precisions, log_det), (-turned @ precisions, -jnp.trace(turned, axis1=-2, axis2=-1))


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
