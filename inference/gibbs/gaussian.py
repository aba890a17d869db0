"""Full conditional of a Gaussian mixture's means and covariances, given which rows belong to which component.

With n_k rows in component k, Σ x and Σ x xᵀ of them, and the prior μ_k | Σ_k ~ N(m, Σ_k/κ),
Σ ~ inverse-Wishart(ν, Λ) (inverse-gamma for variances), the posterior is of the same form:

    κ_k = κ + n_k        m_k = (κ m + Σ x) / κ_k        S_k = Σ x xᵀ + κ m mᵀ − κ_k m_k m_kᵀ
    full        Σ_k ~ inverse-Wishart(ν + n_k, Λ + S_k)
    tied        Σ   ~ inverse-Wishart(ν + N, Λ + Σ_k S_k)
    diagonal    σ²_kd ~ inverse-gamma((ν + n_k)/2, (Λ_d + S_kdd)/2)
    spherical   σ²_k  ~ inverse-gamma((ν + D n_k)/2, (Λ + tr S_k)/2)
    μ_k | Σ_k ~ N(m_k, Σ_k/κ_k)

(Murphy 2007, Conjugate Bayesian analysis of the Gaussian distribution, sections 8 and 9; Bishop 2006, 10.60
to 10.63, where n_k is an expected count.) The sums may be expected ones: then this is the update of
variational Bayes. Raw second moments cancel, so rows are to be in standardised units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.gaussian import GaussianFamily, GaussianHyper, symmetric
from triptych.models.matrices import inverse, log_inverse_wishart

__all__ = ["NormalInverseWishart", "draw", "log_density", "posterior"]


class NormalInverseWishart(NamedTuple):
    """μ_k | Σ_k ~ N(location_k, Σ_k / mean_precision_k); Σ_k ~ inverse-Wishart(degrees_k, spread_k).

    σ² ~ inverse-gamma(degrees / 2, spread / 2) for variances; no `degrees`, no `spread` where they are known.

    Attributes
    ----------
    location : (K, D). mean_precision : (K,).
    degrees : (K,); () tied. spread : (K,) spherical, (K, D) diagonal, (K, D, D) full, (D, D) tied.
    """

    location: Array
    mean_precision: Array
    degrees: Array | None
    spread: Array | None


def posterior(family: GaussianFamily, statistics: Statistics, hyper: GaussianHyper) -> NormalInverseWishart:
    """Give the posterior of means and covariances from sums over rows.

    Parameters
    ----------
    statistics : Σ r T(x), as `em/family.py` says; r is 0 or 1 in Gibbs sampling.
    hyper : of the prior.
    """
    dimension, kappa = family.columns, hyper.mean_precision
    prior_location = jnp.asarray(hyper.location)
    counts = statistics.sums[0]
    first, second = statistics.sums[1 : 1 + dimension].T, statistics.sums[1 + dimension :].T
    precision = kappa + counts
    location = (first + kappa * prior_location) / precision[:, None]
    if family.known is not None:
        return NormalInverseWishart(location, precision, None, None)
    if family.covariance == "spherical":
        squares = kappa * jnp.sum(prior_location**2) - precision * jnp.sum(location**2, axis=1)
        degrees, scatter = hyper.degrees + dimension * counts, second[:, 0] + squares
    elif family.covariance == "diagonal":
        degrees = hyper.degrees + counts
        scatter = second + kappa * prior_location**2 - precision[:, None] * location**2
    else:
        pull = kappa * jnp.outer(prior_location, prior_location)
        outer = precision[:, None, None] * location[:, :, None] * location[:, None, :]
        if family.covariance == "full":
            degrees, scatter = hyper.degrees + counts, symmetric(second, dimension) + pull - outer
        else:
            degrees = hyper.degrees + jnp.sum(counts)
            scatter = statistics.totals + family.components * pull - jnp.sum(outer, axis=0)
    return NormalInverseWishart(location, precision, degrees, hyper.spread + scatter)


def draw(
    key: jax.Array, family: GaussianFamily, given: NormalInverseWishart, known: Any = None
) -> dict[str, jax.Array]:
    """Draw means (K, D) and, where they are not known, covariances from their joint conditional.

    Parameters
    ----------
    known : (K,) the known variances, in the units of `given`; the family's own if left out.
    """
    key_covariance, key_mean = jax.random.split(key)
    location = jnp.asarray(given.location)
    noise = jax.random.normal(key_mean, location.shape, location.dtype)
    noise /= jnp.sqrt(given.mean_precision)[:, None]
    if given.degrees is None or given.spread is None:
        variances = jnp.asarray(family.known if known is None else known, location.dtype)
        return {"means": location + jnp.sqrt(variances)[:, None] * noise}
    degrees, spread = jnp.asarray(given.degrees), jnp.asarray(given.spread)
    if family.covariance in ("full", "tied"):
        root = _root_of_inverse_wishart(key_covariance, degrees, spread)
        means = location + jnp.einsum("...ij,...j->...i", root, noise)
        return {"means": means, "covariances": root @ jnp.swapaxes(root, -1, -2)}
    shape = degrees[:, None] / 2 if family.covariance == "diagonal" else degrees / 2
    variances = spread / 2 * jnp.exp(-jax.random.loggamma(key_covariance, shape, spread.shape))
    wide = variances if family.covariance == "diagonal" else variances[:, None]
    return {"means": location + jnp.sqrt(wide) * noise, "covariances": variances}


def log_density(
    family: GaussianFamily, given: NormalInverseWishart, parameters: Parameters, known: Any = None
) -> jax.Array:
    """Give log p(μ, Σ) under the conditional, normalised, in nats; a scalar.

    Parameters
    ----------
    known : (K,) the known variances, in the units of `given`; the family's own if left out.
    """
    offset = parameters["means"] - jnp.asarray(given.location)
    kappa, dimension = jnp.asarray(given.mean_precision), family.columns
    value = jnp.zeros(())
    if given.degrees is None or given.spread is None:
        variances = jnp.asarray(family.known if known is None else known)[:, None]
    elif family.covariance in ("full", "tied"):
        precisions, log_det = inverse(parameters["covariances"])
        squares = jnp.sum(offset * (jnp.asarray(precisions) @ offset[..., None])[..., 0], axis=1)
        of_spread = -inverse(given.spread)[1]
        value += jnp.sum(log_inverse_wishart(precisions, log_det, given.degrees, given.spread, of_spread))
        constant = dimension * jnp.log(kappa / (2 * jnp.pi))
        return value + 0.5 * jnp.sum(constant + log_det - kappa * squares)
    else:
        variances = jnp.asarray(parameters["covariances"])
        shape = jnp.asarray(given.degrees) / 2
        shape, rate = shape.reshape(shape.shape + (1,) * (variances.ndim - 1)), given.spread / 2
        density = shape * jnp.log(rate) - gammaln(shape) - (shape + 1) * jnp.log(variances)
        value += jnp.sum(density - rate / variances)
        variances = variances.reshape(family.components, -1)
    precision = kappa[:, None] / variances
    precision = jnp.broadcast_to(precision, offset.shape)
    return value + 0.5 * jnp.sum(jnp.log(precision / (2 * jnp.pi)) - precision * offset**2)


def _root_of_inverse_wishart(key: jax.Array, degrees: jax.Array, spread: jax.Array) -> jax.Array:
    """Draw R with R Rᵀ ~ inverse-Wishart(degrees, spread): R = L A⁻ᵀ, spread = L Lᵀ, A Bartlett's factor.

    A is lower triangular, A_ij ~ N(0, 1) below and A_ii² ~ χ²(degrees − i) on the diagonal, i = 0, …, D − 1
    (Bartlett 1933), so that A Aᵀ ~ Wishart(degrees, I).
    """
    key_diagonal, key_below = jax.random.split(key)
    dimension = spread.shape[-1]
    shape = (degrees[..., None] - jnp.arange(dimension)) / 2
    diagonal = jnp.exp(0.5 * (jnp.log(2.0) + jax.random.loggamma(key_diagonal, shape, dtype=spread.dtype)))
    below = jnp.tril(jax.random.normal(key_below, spread.shape, spread.dtype), -1)
    factor = below + diagonal[..., None] * jnp.eye(dimension, dtype=spread.dtype)
    # R Aᵀ = L, hence A Rᵀ = Lᵀ.
    transposed = jnp.swapaxes(jnp.linalg.cholesky(spread), -1, -2)
    return jnp.swapaxes(jax.scipy.linalg.solve_triangular(factor, transposed, lower=True), -1, -2)
