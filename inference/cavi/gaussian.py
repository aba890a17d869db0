"""Variational Bayes of Gaussian components: expected natural parameters, KL, moments (Bishop 2006, 10.2).

q(μ_k, Σ_k) is Normal–inverse-Wishart (inverse-gamma for variances), as its update, which is the full
conditional of Gibbs sampling at expected counts (`gibbs/gaussian.py`). With P = Σ⁻¹ and E P = ν Λ⁻¹

    E log N(x | μ, Σ) = ½ E log |P| − ½ D log 2π − ½ (x − m)ᵀ E P (x − m) − D/(2κ)     (10.64, 10.65)

is EM's log density at Σ = (E P)⁻¹, moved by ½ (E log |P| − log |E P|) − D/(2κ).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma
from numpyro.distributions import constraints

from triptych.inference.cavi import divergences
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.gaussian import GaussianFamily, GaussianHyper
from triptych.inference.gibbs.gaussian import NormalInverseWishart, draw, log_density, posterior
from triptych.models.matrices import inverse

__all__ = ["admit", "divergence", "draw", "log_density", "means", "natural", "of", "posterior", "supports"]


def of(family: GaussianFamily, q: Parameters) -> NormalInverseWishart:
    """Read q(μ, Σ) off the numbers that are climbed, site → array."""
    known = family.known is not None
    degrees, spread = (None, None) if known else (q["degrees"], q["spread"])
    return NormalInverseWishart(q["location"], q["mean_precision"], degrees, spread)


def supports(family: GaussianFamily) -> dict[str, Any]:
    """Name → constraint of the numbers of q."""
    found = {"location": constraints.real, "mean_precision": constraints.positive}
    if family.known is not None:
        return found
    matrices = family.covariance in ("full", "tied")
    spread = constraints.positive_definite if matrices else constraints.positive
    return found | {"degrees": constraints.positive, "spread": spread}


def admit(family: GaussianFamily, q: Parameters) -> Parameters:
    """Refuse, by NaN, degrees of freedom that no Wishart of this dimension has."""
    if family.known is not None or family.covariance not in ("full", "tied"):
        return q
    valid = jnp.all(jnp.asarray(q["degrees"]) > family.columns - 1)
    return {**q, "degrees": jnp.where(valid, q["degrees"], jnp.nan)}


def natural(family: GaussianFamily, q: NormalInverseWishart) -> tuple[jax.Array, dict[str, Array]]:
    """Give E η (F, K) without E log π, and the parameters at which EM's shared part is the expected one."""
    at: dict[str, Array] = {"weights": jnp.ones(family.components), "means": q.location}
    shift = -family.columns / (2 * jnp.asarray(q.mean_precision))
    if q.degrees is not None and q.spread is not None:
        at["covariances"] = q.spread / _wide(q.degrees, q.spread)
        if family.covariance in ("full", "tied"):
            expected = divergences.expected_log_det(q.degrees, q.spread)
            shift += 0.5 * (expected - family.columns * jnp.log(q.degrees) - inverse(q.spread)[1])
        else:
            half = jnp.asarray(q.degrees) / 2
            shift += 0.5 * family.columns * (digamma(half) - jnp.log(half))
    values = jnp.asarray(family.natural(at))
    return values.at[0].add(shift), at


def divergence(family: GaussianFamily, q: NormalInverseWishart, hyper: GaussianHyper) -> jax.Array:
    """KL(q(μ, Σ) ‖ p(μ, Σ)), nats."""
    kappa, dimension = hyper.mean_precision, family.columns
    ratio = kappa / jnp.asarray(q.mean_precision)
    offset = jnp.asarray(q.location) - hyper.location
    if q.degrees is None or q.spread is None:
        squares = jnp.sum(offset**2, axis=1) / jnp.asarray(family.known)
        value = jnp.zeros(())
    elif family.covariance in ("full", "tied"):
        value = jnp.sum(divergences.wishart(q.degrees, q.spread, hyper.degrees, hyper.spread))
        whitened = (jnp.asarray(inverse(q.spread)[0]) @ offset[..., None])[..., 0]
        squares = q.degrees * jnp.sum(offset * whitened, axis=1)
    else:
        degrees = _wide(q.degrees, q.spread)
        value = jnp.sum(divergences.gamma(degrees / 2, q.spread / 2, hyper.degrees / 2, hyper.spread / 2))
        precision = (degrees / q.spread).reshape(family.components, -1)
        squares = jnp.sum(offset**2 * precision, axis=1)
    return value + 0.5 * jnp.sum(dimension * (ratio - 1 - jnp.log(ratio)) + kappa * squares)


def means(family: GaussianFamily, q: NormalInverseWishart) -> dict[str, jax.Array]:
    """Give E μ and E Σ; where Σ has no mean (few degrees of freedom), its mode."""
    if q.degrees is None or q.spread is None:
        return {"means": jnp.asarray(q.location)}
    degrees, less = _wide(q.degrees, q.spread), 2.0
    if family.covariance in ("full", "tied"):
        less = family.columns + 1.0
    return {
        "means": jnp.asarray(q.location),
        "covariances": jnp.asarray(q.spread) / jnp.where(degrees > less, degrees - less, degrees + less),
    }


def _wide(degrees: Array, spread: Array) -> jax.Array:
    """Give the degrees of freedom with axes of length 1 for what else the spread has."""
    degrees = jnp.asarray(degrees)
    return degrees.reshape(degrees.shape + (1,) * (jnp.ndim(spread) - degrees.ndim))
