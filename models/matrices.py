"""Many small positive definite matrices inverted at once, in plain array operations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["inverse"]

UNROLLED = 8  # columns up to which the loop is written out


@jax.custom_jvp
def inverse(matrices: Any) -> tuple[jax.Array, jax.Array]:
    """Invert positive definite matrices (…, D, D); also the log-determinants (…,) of the inverses.

    By sweeping each column in turn (Gauss–Jordan on a symmetric matrix), all matrices of a batch together.
    Not by LAPACK: on the CPU XLA calls it once a matrix, and from JAX 0.10 on it hands large batches to the
    threads that may be waiting for them, so that two triangular solves at a time can wait for ever. The
    derivatives need products alone: dA⁻¹ = −A⁻¹ dA A⁻¹, d log |A⁻¹| = −tr(A⁻¹ dA). NaN where a matrix is not
    positive definite.
    """
    size = matrices.shape[-1]
    swept, log_det = jnp.asarray(matrices), jnp.zeros(matrices.shape[:-2], matrices.dtype)
    if size <= UNROLLED:
        for k in range(size):
            swept, log_det = _sweep(k, (swept, log_det))
    else:
        swept, log_det = lax.fori_loop(0, size, _sweep, (swept, log_det))
    return -swept, log_det


@inverse.defjvp
def _inverse_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    (matrices,), (change,) = primals, tangents
    inverted, log_det = inverse(matrices)
    moved = inverted @ change
    return (inverted, log_det), (-moved @ inverted, -jnp.trace(moved, axis1=-2, axis2=-1))


def _sweep(k: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    matrices, log_det = state
    here = jnp.arange(matrices.shape[-1]) == k
    column = lax.dynamic_index_in_dim(matrices, k, axis=-1, keepdims=False)
    pivot = lax.dynamic_index_in_dim(column, k, axis=-1, keepdims=False)
    scaled = column / pivot[..., None]
    rest = matrices - column[..., :, None] * scaled[..., None, :]
    rest = jnp.where(here[:, None], scaled[..., None, :], rest)
    rest = jnp.where(here, scaled[..., :, None], rest)
    corner = here[:, None] & here
    return jnp.where(corner, -1.0 / pivot[..., None, None], rest), log_det - jnp.log(pivot)
