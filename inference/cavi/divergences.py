"""Closed forms of KL(q ‖ p) between members of one conjugate family, in nats, element by element.

With digamma ψ, E log of a Gamma(a, b) is ψ(a) − log b (b the rate), of a Dirichlet(α) it is ψ(α_k) − ψ(Σα),
and of the determinant of a Wishart(ν, Λ⁻¹) it is Σ_i ψ((ν + 1 − i)/2) + D log 2 − log |Λ| (Bishop 2006,
appendix B).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, digamma, gammaln, multigammaln

from triptych.inference.em.family import Array
from triptych.models.matrices import inverse

__all__ = ["beta", "dirichlet", "expected_log_det", "expected_log_weights", "gamma", "wishart"]


def dirichlet(alpha: Array, prior: Array) -> jax.Array:
    """KL(Dirichlet(α) ‖ Dirichlet(α₀)), α (K,)."""

    def normaliser(concentration: Array) -> jax.Array:
        return jnp.asarray(gammaln(jnp.sum(concentration)) - jnp.sum(gammaln(concentration)))

    drift = jnp.sum((alpha - prior) * expected_log_weights(alpha))
    return jnp.asarray(normaliser(alpha) - normaliser(prior) + drift)


def expected_log_weights(alpha: Array) -> jax.Array:
    """E log π_k under Dirichlet(α), (K,)."""
    return digamma(alpha) - digamma(jnp.sum(alpha))


def beta(ones: Array, zeros: Array, prior_ones: Array, prior_zeros: Array) -> jax.Array:
    """KL(Beta(a, b) ‖ Beta(a₀, b₀))."""
    total = digamma(ones + zeros)
    drift = (ones - prior_ones) * (digamma(ones) - total) + (zeros - prior_zeros) * (digamma(zeros) - total)
    return jnp.asarray(betaln(prior_ones, prior_zeros) - betaln(ones, zeros) + drift)


def gamma(shape: Array, rate: Array, prior_shape: Array, prior_rate: Array) -> jax.Array:
    """KL(Gamma(a, b) ‖ Gamma(a₀, b₀)), b the rate."""
    value = shape * jnp.log(rate) - gammaln(shape) - prior_shape * jnp.log(prior_rate) + gammaln(prior_shape)
    value += (shape - prior_shape) * (digamma(shape) - jnp.log(rate))
    return jnp.asarray(value - (rate - prior_rate) * shape / rate)


def wishart(degrees: Array, spread: Array, prior_degrees: Array, prior_spread: Array) -> jax.Array:
    """KL(Wishart(ν, Λ⁻¹) ‖ Wishart(ν₀, Λ₀⁻¹)) of precision matrices, ν (…), Λ (…, D, D).

    It is that of the inverse-Wishart distributions of their inverses, too.
    """
    dimension = spread.shape[-1]

    def normaliser(nu: Array, scale: Array) -> jax.Array:
        log_det = -jnp.asarray(inverse(scale)[1])
        return jnp.asarray(nu / 2 * (log_det - dimension * jnp.log(2.0)) - multigammaln(nu / 2, dimension))

    value = normaliser(degrees, spread) - normaliser(prior_degrees, prior_spread)
    value += (degrees - prior_degrees) / 2 * expected_log_det(degrees, spread)
    trace = jnp.sum(inverse(spread)[0] * prior_spread, axis=(-2, -1))
    return value - degrees / 2 * (dimension - trace)


def expected_log_det(degrees: Array, spread: Array) -> jax.Array:
    """E log |P| under Wishart(ν, Λ⁻¹), (…)."""
    dimension = spread.shape[-1]
    halves = (jnp.asarray(degrees)[..., None] - jnp.arange(dimension)) / 2
    return jnp.sum(digamma(halves), axis=-1) + dimension * jnp.log(2.0) + inverse(spread)[1]
