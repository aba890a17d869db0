"""Gaussians of which some cells were not observed (NaN): the density of what was, the rest integrated out.

The cells o that were observed of x ~ N(μ, Σ) are N(μ_o, Σ_oo), whatever the others might have been: exact if
they are missing at random (Rubin 1976). To keep shapes static, Σ gets the rows and columns of the identity
where a cell is missing and x − μ gets zero: the determinant and the quadratic form are then those of Σ_oo.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions import Distribution, constraints

from triptych.models.errors import InputError
from triptych.models.matrices import inverse

__all__ = [
    "Blocks",
    "DiagonalNormalWithMissing",
    "NormalWithMissing",
    "blocks_of",
    "moments",
    "observed_part",
]

# Multiplications that a small matrix factorised costs beside its own D³, and a row beside its D².
OVERHEAD = 500, 8


class Blocks(NamedTuple):
    """Rows in blocks of one pattern each, so that a matrix is factorised once a block and not once a row.

    Attributes
    ----------
    patterns : (M, D) bool, which cells the rows of a block have.
    rows : (M, B) the rows of each block; −1 where it is not full.
    place : (N,) where each row stands among the M·B places.
    """

    patterns: Any
    rows: Any
    place: Any


def blocks_of(x: Any) -> Blocks:
    """Group the rows of `x` (N, D) by which of their cells are NaN.

    The size of a block balances the matrices to factorise against the places left empty.
    """
    patterns, which, counts = np.unique(
        ~np.isnan(np.asarray(x)), axis=0, return_inverse=True, return_counts=True
    )
    which = which.reshape(-1)
    size = _block_size(counts, patterns.shape[1])
    order = np.argsort(which, kind="stable")
    rank = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)  # of a row in its pattern
    blocks = -(-counts // size)
    first = np.cumsum(blocks) - blocks
    place = np.empty(len(which), int)
    place[order] = (first[which[order]] + rank // size) * size + rank % size
    rows = np.full(int(blocks.sum()) * size, -1)
    rows[place] = np.arange(len(which))
    return Blocks(np.repeat(patterns, blocks, axis=0), rows.reshape(-1, size), place)


def _block_size(counts: np.ndarray, columns: int) -> int:
    def cost(size: int) -> float:
        number = np.sum(-(-counts // size))
        return float(number * (OVERHEAD[0] + columns**3 + size * (OVERHEAD[1] + columns**2)))

    sizes = {-(-int(counts.max()) // part) for part in range(1, 65)} | {2**power for power in range(12)}
    return min(sorted(sizes), key=cost)


def observed_part(covariance: Any, observed: Any) -> Any:
    """Give Σ (…, D, D) with the identity's rows and columns where `observed` (…, D) is 0."""
    there = jnp.asarray(observed, covariance.dtype)
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return covariance * there[..., :, None] * there[..., None, :] + eye * (1 - there)[..., None, :]


def moments(x: Any, weights: Any = None) -> tuple[Any, Any, Any, Any]:
    """Give counts (D,), means (D,), standard deviations (D,) and covariance (D, D) of what was observed.

    Means and variances (divisor n) are those of each column's own cells. Correlations are those with the
    missing cells at their column's mean, which keeps the matrix positive definite, if a little too round.
    `weights` (N,) counts rows. A column without a cell has mean 0 and variance 0. NumPy in, NumPy out.
    """
    there = x == x
    each = there * 1.0 if weights is None else there * weights[:, None]
    count = each.sum(axis=0)
    namespace = jnp if isinstance(x, Tracer) else np
    filled = namespace.where(there, x, 0.0)
    mean = (filled * each).sum(axis=0) / namespace.maximum(count, 1e-300)
    centred = namespace.where(there, x - mean, 0.0)
    squares = centred.T @ (centred * each)
    variance = squares.diagonal() / namespace.maximum(count, 1e-300)
    norm = namespace.sqrt(squares.diagonal())
    norm = namespace.where(norm > 0, norm, 1.0)
    deviation = namespace.sqrt(variance)
    return count, mean, deviation, squares / (norm[:, None] * norm) * deviation[:, None] * deviation


class DiagonalNormalWithMissing(Distribution):
    """D independent normals as one event; the cells of the value that are NaN are integrated out.

    Parameters
    ----------
    loc : (..., D). scale : (..., D) or (..., 1), standard deviations.
    """

    pytree_data_fields = ("loc", "scale")

    def __init__(self, loc: Any, scale: Any, *, validate_args: bool | None = None) -> None:
        del validate_args  # a NaN is no error here
        shape = jnp.broadcast_shapes(jnp.shape(loc), jnp.shape(scale))
        self.loc, self.scale = jnp.broadcast_to(loc, shape), jnp.broadcast_to(scale, shape)
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Vectors of real numbers."""
        return constraints.real_vector

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw whole rows."""
        return self.loc + self.scale * _noise(key, sample_shape + self.shape(), self.loc.dtype)

    def log_prob(self, value: Any, intermediates: list[Any] | None = None) -> jax.Array:
        """Give Σ_d log N(x_d | μ_d, σ_d²) over the cells that are there, nats."""
        del intermediates
        there = value == value
        z = jnp.where(there, value - self.loc, 0.0) / self.scale
        each = -0.5 * z**2 - jnp.log(self.scale) - 0.5 * np.log(2 * np.pi)
        return jnp.sum(jnp.where(there, each, 0.0), axis=-1)


class NormalWithMissing(Distribution):
    """N(loc, scale_tril scale_trilᵀ); the cells of the value that are NaN are integrated out.

    Parameters
    ----------
    loc : (..., D). scale_tril : (..., D, D), a Cholesky factor.
    blocks : of the value, (N, D), for which the density is to be had; without it every row and batch
        has a factorisation of its own.
    """

    pytree_data_fields = ("loc", "scale_tril", "blocks")

    def __init__(
        self, loc: Any, scale_tril: Any, blocks: Blocks | None = None, *, validate_args: bool | None = None
    ) -> None:
        del validate_args
        self.loc, self.scale_tril, self.blocks = jnp.asarray(loc), jnp.asarray(scale_tril), blocks
        batch = jnp.broadcast_shapes(self.loc.shape[:-1], self.scale_tril.shape[:-2])
        super().__init__(batch, self.loc.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Vectors of real numbers."""
        return constraints.real_vector

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw whole rows."""
        noise = _noise(key, sample_shape + self.shape(), self.loc.dtype)
        return self.loc + jnp.squeeze(self.scale_tril @ noise[..., None], -1)

    def log_prob(self, value: Any, intermediates: list[Any] | None = None) -> jax.Array:
        """Give log N(x_o | μ_o, Σ_oo), nats, o the cells that are there."""
        del intermediates
        covariance = self.scale_tril @ jnp.swapaxes(self.scale_tril, -2, -1)
        there = value == value
        value = jnp.where(there, value, 0.0)
        shared = self.batch_shape[-1:] in ((), (1,))
        if self.blocks is None or not shared or value.ndim != 2:
            residual = jnp.where(there, value - self.loc, 0.0)
            return _log_density(residual[..., None, :], covariance, there)[..., 0]
        patterns, rows, place = (jnp.asarray(leaf) for leaf in self.blocks)
        if self.batch_shape:  # the axis of the rows, of length 1
            loc = jnp.squeeze(jnp.broadcast_to(self.loc, self.batch_shape + self.event_shape), -2)
            covariance = jnp.squeeze(covariance, -3) if covariance.ndim > 2 else covariance
        else:
            loc = self.loc
        residual = (value[rows] - loc[..., None, None, :]) * patterns[:, None, :]
        table = _log_density(residual, covariance[..., None, :, :], patterns)
        return table.reshape(*table.shape[:-2], -1)[..., place]


def _noise(key: jax.Array | None, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    if key is None:
        raise InputError("Drawing normals needs a random key.")
    return jax.random.normal(key, shape, dtype)


def _log_density(residual: Any, covariance: Any, observed: Any) -> Any:
    """Give the densities (…, B) of rows (…, B, D) that have the same cells (…, D), 0 where one is missing."""
    precision, log_det = inverse(observed_part(covariance, observed))
    constant = 0.5 * (log_det - np.log(2 * np.pi) * jnp.sum(observed, axis=-1))
    return constant[..., None] - 0.5 * jnp.sum((residual @ precision) * residual, axis=-1)
