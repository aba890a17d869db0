"""Exact posteriors of continuous latents, read off their log density, as weighted points that stand for them.

Of each row's unnormalised log density ℓ_n(u), u ∈ R^D, both families give completions u⁽ˢ⁾ of equal weight
whose mean of any term of the log joint is its posterior expectation, and log ∫ exp ℓ_n(u) du.

Gaussian: ℓ quadratic. With h = ∇ℓ(0), P = −∇²ℓ, m = P⁻¹h,

    u | · ~ N(m, P⁻¹),    log ∫ exp ℓ = ℓ(m) + ½ D log 2π − ½ log|P|,

and the 2D points m ± √D L e_i, L Lᵀ = P⁻¹, integrate quadratics exactly (third-degree cubature).

Gamma: ℓ(u) = Σ_d a_d log u_d + b_d u_d. With shape α = a + 1 and rate β = −b,

    u_d | · ~ Gamma(α_d, β_d),    log ∫ exp ℓ = ℓ(x) − Σ_d log Gamma(x_d | α_d, β_d)  at any x,

and the two points E[u] (1 ± δ), δ² = 1 − exp(2 (E[log u] − log E[u])), have the mean of u and of log u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln

from triptych.inference.em.family import Array

__all__ = ["Conditional", "draw_gamma", "draw_gaussian", "gamma", "gaussian"]

RowDensity = Callable[[Array], Array]  # (N, D) ↦ (N,), row n of the result from row n alone


class Conditional(NamedTuple):
    """The posterior of (N, D) latents: completions (S, N, D), log ∫ exp ℓ_n (N,), and what a draw needs."""

    points: Array
    log_evidence: Array
    mean: Array
    spread: Array  # Gaussian: (N, D, D), row i is the i-th column of L; Gamma: (N, D) shapes


def gaussian(density: RowDensity, shape: tuple[int, int]) -> Conditional:
    """Posterior of latents in which each row's log density is quadratic; NaN where it has no maximum."""
    size = shape[1]
    gradient = jax.grad(lambda flat: jnp.sum(density(flat)))
    zero = jnp.zeros(shape)
    directions = jnp.broadcast_to(jnp.eye(size)[:, None], (size, *shape))
    columns = jax.vmap(lambda direction: jax.jvp(gradient, (zero,), (direction,))[1])(directions)
    precision = -jnp.moveaxis(columns, 0, -1)
    factor = jnp.linalg.cholesky(precision)
    mean = jax.scipy.linalg.cho_solve((factor, True), gradient(zero)[..., None])[..., 0]
    identity = jnp.broadcast_to(jnp.eye(size), precision.shape)
    half = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)  # its transpose is L
    steps = np.sqrt(size) * jnp.moveaxis(half, -2, 0)
    log_det = 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
    log_evidence = density(mean) + 0.5 * (size * np.log(2 * np.pi) - log_det)
    return Conditional(jnp.concatenate([mean + steps, mean - steps]), log_evidence, mean, half)


def gamma(density: RowDensity, shape: tuple[int, int]) -> Conditional:
    """Posterior of positive latents whose log density is a log u + b u; NaN where it is not proper."""
    gradient = jax.grad(lambda flat: jnp.sum(density(flat)))
    one, two = jnp.ones(shape), jnp.full(shape, 2.0)
    slope = two * gradient(two) - one * gradient(one)  # of x ∂ℓ/∂x = a + b x
    alpha, rate = one * gradient(one) - slope + 1.0, -slope
    proper = (alpha > 0) & (rate > 0)
    alpha, rate = jnp.where(proper, alpha, jnp.nan), jnp.where(proper, rate, jnp.nan)
    mean = alpha / rate
    log_gap = digamma(alpha) - jnp.log(alpha)  # E[log u] − log E[u], below 0
    delta = jnp.sqrt(-jnp.expm1(2.0 * log_gap))
    at = alpha * jnp.log(rate) - gammaln(alpha) + (alpha - 1.0) * jnp.log(mean) - rate * mean
    log_evidence = density(mean) - jnp.sum(at, axis=-1)
    return Conditional(jnp.stack([mean * (1 + delta), mean * (1 - delta)]), log_evidence, mean, alpha)


def draw_gaussian(key: jax.Array, mean: Array, half: Array) -> Array:
    """One draw of each row: mean plus noise along the columns of L."""
    noise = jax.random.normal(key, mean.shape)
    return mean + jnp.einsum("ni,nij->nj", noise, half)


def draw_gamma(key: jax.Array, mean: Array, shape: Array) -> Array:
    """One draw of each element."""
    return mean * jax.random.gamma(key, shape) / shape
