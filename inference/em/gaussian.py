"""Gaussian components: spherical, diagonal, full and tied covariances, and known variances.

x | z = k ~ N(μ_k, Σ_k);  μ_k | Σ_k ~ N(m, Σ_k/κ);  Σ ~ inverse-Wishart(ν, Λ) (inverse-gamma for variances).

With n_k, Σ_n r x and Σ_n r x xᵀ the M-step is, for full covariances (Fraley & Raftery 2007, eq. 6–8),

    μ_k = (Σ r x + κ m) / (n_k + κ)
    Σ_k = (Λ + Σ r x xᵀ + κ m mᵀ − (n_k + κ) μ_k μ_kᵀ) / (mass + n_k),       mass = ν + D + 2

and the other types sum or pool the same quantities. Maximum likelihood is κ = 0, Λ = 0, mass = 0.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.scipy.special import gammaln

from triptych.inference.em.family import WIDE, Array, Parameters, Statistics
from triptych.models.matrices import inverse, log_inverse_wishart, positive_definite

__all__ = ["TINY", "GaussianFamily", "GaussianHyper", "symmetric"]

TINY = 1e-300  # below any weight that matters: log(0) would poison the matrix product


class GaussianHyper(NamedTuple):
    """The numbers of the prior and of the floor, in standardised units.

    `spread` has the shape of one component's covariance ((), (D,) or (D, D)). `mean_precision = degrees = 0`,
    `spread = 0` and `concentration = 1` make the prior flat (maximum likelihood). No covariance may be
    smaller than `floor` times `pooled` (relative eigenvalues): a constraint, so EM stays monotone. 0 switches
    it off.
    """

    concentration: Array
    location: Array
    mean_precision: Array
    degrees: Array
    spread: Array
    pooled: Array
    floor: Array


@dataclasses.dataclass(frozen=True)
class GaussianFamily:
    """Gaussian components with one of five kinds of covariance.

    `covariance` is "spherical", "diagonal", "full" or "tied"; `known` holds the K variances where they are
    fixed (standardised units; then `covariance` is "spherical").
    """

    components: int
    columns: int
    covariance: str
    known: tuple[float, ...] | None = None

    @property
    def feature_count(self) -> int:
        """F, the length of T(x)."""
        quadratic = {
            "spherical": 1,
            "diagonal": self.columns,
            "full": self.columns * (self.columns + 1) // 2,
            "tied": 0,
        }
        return 1 + self.columns + quadratic[self.covariance]

    @property
    def plain(self) -> bool:
        """T(x) is the row, with its squares, their sum or neither, and the row is wide."""
        return self.covariance != "full" and self.columns >= WIDE

    def features(self, x: Array) -> Array:
        """T(x) = [1, x, squares]: |x|² (spherical), x² (diagonal), x_i x_j for i ≤ j (full), none (tied)."""
        padded = jnp.concatenate([jnp.ones((1, x.shape[0]), x.dtype), x.T])
        if self.covariance == "tied":
            return padded
        if self.covariance == "spherical":
            # Of narrow rows as a product with ones: a sum along so short an axis is slower.
            ones = jnp.ones((1, self.columns), x.dtype)
            lengths = jnp.sum(x * x, axis=1)[None] if self.plain else ones @ (x * x).T
            return jnp.concatenate([padded, lengths])
        if self.plain:
            return jnp.concatenate([padded, (x * x).T])
        # With the 1 as column 0, T(x) is all products of two columns, or some: row by row, whole rows.
        first, second = np.triu_indices(1 + self.columns)
        if self.covariance == "diagonal":
            chosen = (first == 0) | (first == second)
            first, second = first[chosen], second[chosen]
        return padded[first] * padded[second]

    def totals(self, x: Array, weights: Array | None) -> Array:
        """Σ_n w_n x_n x_nᵀ for tied covariances, whose quadratic term no responsibility weighs."""
        if self.covariance != "tied":
            return jnp.zeros((), x.dtype)
        return (x if weights is None else x * weights[:, None]).T @ x

    def natural(self, parameters: Parameters) -> Array:
        """η_k = [log π_k − ½ μᵀPμ + ½ log|P| − ½ D log 2π, Pμ, −½P], P the precision of component k."""
        means = parameters["means"]
        log_weights = jnp.log(jnp.maximum(parameters["weights"], TINY))
        precisions, log_det = self._precisions(parameters)
        matrices = precisions.ndim == 3
        linear = jnp.einsum("kij,kj->ki", precisions, means) if matrices else precisions * means
        constant = log_weights + 0.5 * (
            log_det - jnp.sum(linear * means, axis=1) - self.columns * np.log(2 * np.pi)
        )
        parts = [constant[:, None], linear]
        if self.covariance == "spherical":
            parts.append(-0.5 * precisions[:, :1])
        elif self.covariance == "diagonal":
            parts.append(-0.5 * precisions)
        elif self.covariance == "full":
            first, second = np.triu_indices(self.columns)
            parts.append(precisions[:, first, second] * np.where(first == second, -0.5, -1.0))
        return jnp.concatenate(parts, axis=1).T

    def base(self, parameters: Parameters, totals: Array) -> Array:
        """−½ tr(P Σ_n w_n x_n x_nᵀ) for tied covariances; 0 for the others, whose table holds everything."""
        if self.covariance != "tied":
            return jnp.zeros((), parameters["means"].dtype)
        return -0.5 * jnp.sum(inverse(parameters["covariances"])[0] * totals)

    def maximise(self, statistics: Statistics, hyper: GaussianHyper) -> Parameters:
        """M-step in closed form; see the module's head."""
        counts = statistics.sums[0]
        first = statistics.sums[1 : 1 + self.columns].T
        shrunk = counts + hyper.mean_precision
        pulled = first + hyper.mean_precision * hyper.location
        means = jnp.where(shrunk[:, None] > 0, pulled / jnp.maximum(shrunk, TINY)[:, None], hyper.location)
        weights = jnp.maximum(counts + hyper.concentration - 1.0, 0.0)
        parameters: dict[str, Array] = {"weights": weights / jnp.sum(weights), "means": means}
        if self.known is None:
            parameters["covariances"] = self._covariances(statistics, hyper, means, shrunk)
        return parameters

    def admit(self, parameters: Parameters, hyper: GaussianHyper) -> Parameters:
        """Bring a proposal to the floor; a matrix below it becomes NaN."""
        if self.known is not None:
            return parameters
        covariances, floor = parameters["covariances"], hyper.floor * hyper.pooled
        if hyper.pooled.ndim < 2:
            return {**parameters, "covariances": jnp.maximum(covariances, floor)}
        above = jnp.all(positive_definite(covariances - floor))
        return {**parameters, "covariances": jnp.where(above, covariances, jnp.nan)}

    def log_prior(self, parameters: Parameters, hyper: GaussianHyper) -> Array:
        """Log p(weights) + Σ_k log p(μ_k | Σ_k) + log p(Σ), each normalised, in nats."""
        alpha, weights = hyper.concentration, parameters["weights"]
        value = jnp.sum((alpha - 1.0) * jnp.log(jnp.maximum(weights, TINY)))
        value += gammaln(jnp.sum(alpha)) - jnp.sum(gammaln(alpha))
        offset = parameters["means"] - hyper.location
        precisions, log_det = self._precisions(parameters)
        if precisions.ndim == 3:
            squares = jnp.einsum("ki,kij,kj->k", offset, precisions, offset)
        else:
            squares = jnp.sum(offset * precisions * offset, axis=1)
        kappa = hyper.mean_precision
        value += 0.5 * jnp.sum(self.columns * jnp.log(kappa / (2 * np.pi)) + log_det - kappa * squares)
        if self.known is not None:
            return value
        return value + jnp.sum(self._log_prior_covariances(parameters["covariances"], hyper))

    def _precisions(self, parameters: Parameters) -> tuple[Array, Array]:
        """Give the precisions, (K, D) or (K, D, D), and their log-determinants (K,)."""
        means = parameters["means"]
        if self.known is not None:
            variances = jnp.asarray(self.known, means.dtype)[:, None] * jnp.ones_like(means)
        elif self.covariance == "spherical":
            variances = parameters["covariances"][:, None] * jnp.ones_like(means)
        elif self.covariance == "diagonal":
            variances = parameters["covariances"]
        else:
            precisions, log_det = inverse(parameters["covariances"])
            shape = (self.components, self.columns, self.columns)
            return jnp.broadcast_to(precisions, shape), jnp.broadcast_to(log_det, shape[:1])
        return 1.0 / variances, -jnp.sum(jnp.log(variances), axis=1)

    def _covariances(
        self, statistics: Statistics, hyper: GaussianHyper, means: Array, shrunk: Array
    ) -> Array:
        counts, dimension = statistics.sums[0], self.columns
        second = statistics.sums[1 + dimension :].T
        kappa, location = hyper.mean_precision, jnp.asarray(hyper.location)
        if self.covariance == "spherical":
            scatter = second[:, 0] + kappa * jnp.sum(location**2) - shrunk * jnp.sum(means**2, axis=1)
            mass = hyper.degrees + jnp.where(hyper.degrees > 0, 2.0 + dimension, 0.0) + counts * dimension
        elif self.covariance == "diagonal":
            scatter = second + kappa * location**2 - shrunk[:, None] * means**2
            mass = (hyper.degrees + jnp.where(hyper.degrees > 0, 3.0, 0.0) + counts)[:, None]
        elif self.covariance == "full":
            scatter = symmetric(second, dimension) + kappa * jnp.outer(location, location)
            scatter -= shrunk[:, None, None] * means[:, :, None] * means[:, None, :]
            mass = hyper.degrees + jnp.where(hyper.degrees > 0, dimension + 2.0, 0.0) + counts
            mass = mass[:, None, None]
        else:
            scatter = statistics.totals + self.components * kappa * jnp.outer(location, location)
            scatter -= jnp.einsum("k,ki,kj->ij", shrunk, means, means)
            extra = dimension + 1.0 + self.components
            mass = hyper.degrees + jnp.where(hyper.degrees > 0, extra, 0.0) + jnp.sum(counts)
        estimate = jnp.where(mass > 0, (hyper.spread + scatter) / jnp.maximum(mass, TINY), hyper.pooled)
        return _floored(estimate, hyper)

    def _log_prior_covariances(self, covariances: Array, hyper: GaussianHyper) -> Array:
        nu, spread = hyper.degrees, hyper.spread
        if self.covariance in ("spherical", "diagonal"):
            shape, rate = nu / 2, spread / 2
            return (
                shape * jnp.log(rate)
                - gammaln(shape)
                - (shape + 1) * jnp.log(covariances)
                - rate / covariances
            )
        precisions, log_det = inverse(covariances)
        return log_inverse_wishart(precisions, log_det, nu, spread, -inverse(spread)[1])


def symmetric(upper: Array, dimension: int) -> Array:
    """Unpack the upper triangles (…, D(D+1)/2) into symmetric matrices (…, D, D)."""
    index = np.zeros((dimension, dimension), dtype=int)
    rows, columns = np.triu_indices(dimension)
    index[rows, columns] = index[columns, rows] = np.arange(len(rows))
    return upper[..., index]


def _floored(estimate: Array, hyper: GaussianHyper) -> Array:
    """Raise relative variances below the floor to it: the exact constrained maximum (hence monotone)."""
    if hyper.pooled.ndim < 2:
        return jnp.maximum(estimate, hyper.floor * hyper.pooled)
    return _raise_eigenvalues(estimate, hyper.pooled, hyper.floor)


@custom_vmap
def _raise_eigenvalues(estimate: Array, pooled: Array, floor: Array) -> Array:
    """Raise the eigenvalues of matrices (…, D, D) relative to `pooled` to the floor, if any is below.

    Decomposed only where one less the floor is not positive definite, which is rare. `pooled` (…, D, D) is
    one for all, or one for each data set (of a bootstrap).
    """
    above = positive_definite(estimate - floor * pooled)

    def raised() -> Array:
        factor = jnp.linalg.cholesky(jnp.broadcast_to(pooled, estimate.shape))
        whitened = jax.scipy.linalg.solve_triangular(factor, estimate, lower=True)
        whitened = jax.scipy.linalg.solve_triangular(factor, jnp.swapaxes(whitened, -2, -1), lower=True)
        values, vectors = jnp.linalg.eigh(whitened)
        clipped = (vectors * jnp.maximum(values, floor)[..., None, :]) @ jnp.swapaxes(vectors, -2, -1)
        low = jnp.min(values, axis=-1)[..., None, None] < floor
        return jnp.where(low, factor @ clipped @ jnp.swapaxes(factor, -2, -1), estimate)

    return jax.lax.cond(jnp.all(above), lambda: estimate, raised)


@_raise_eigenvalues.def_vmap
def _raise_many(size: int, batched: list[bool], estimate: Array, pooled: Array, floor: Array) -> Any:
    """Keep the condition one for a whole batch of starts: `vmap` would run both of its sides."""
    if batched[2]:
        raise TypeError("all starts and data sets have one `floor`")
    if batched[1]:  # data sets of their own: the new axis goes first in both
        estimate = estimate if batched[0] else jnp.broadcast_to(estimate, (size, *estimate.shape))
        between = (1,) * (estimate.ndim - pooled.ndim)
        pooled = pooled.reshape(pooled.shape[0], *between, *pooled.shape[1:])
    return _raise_eigenvalues(estimate, pooled, floor), True
