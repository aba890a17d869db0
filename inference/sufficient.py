"""Log densities that read sufficient statistics instead of the rows, where a model has them.

A linear regression with normal noise reads its N rows only through the triangular factor of [1 X y] = Q R:

    |y − b − X w|² = |R (−b, −w, 1)|²,     log p(y | w, b, β) = ½ N log(β / 2π) − ½ β |R (−b, −w, 1)|²,

so that a gradient costs O(D²), whatever N. R and not XᵀX: it keeps the digits (Golub & Van Loan 2013, section
5.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from triptych.models.linear_regression import BayesianLinearRegression

__all__ = ["log_joint", "regression_log_joint"]

Density = Callable[[Mapping[str, Any]], jax.Array]


def log_joint(m: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Density:
    """Give θ ↦ log p(x, θ), nats, of a marginal on its data: from sufficient statistics where it has them."""
    program = m.program
    arrays = isinstance(program, BayesianLinearRegression) and len(args) == 2 and not kwargs
    if arrays and not any(isinstance(value, Tracer) or value is None for value in args):
        return regression_log_joint(program, *args)
    return lambda theta: m.log_density(theta, *args, **kwargs)


def regression_log_joint(model: BayesianLinearRegression, X: Any, y: Any) -> Density:
    """Give θ ↦ log p(y, w, λ, β, b | X), nats, of the program on X (N, D) and y (N,).

    The factor R is had once, in float64; the density has the type of θ.
    """
    import numpyro.distributions as dist

    prior = model.prior(X, y)
    design = np.asarray(X, np.float64)
    rows = len(design)
    ones = np.ones((rows, int(model.intercept)))
    root = np.linalg.qr(np.hstack([ones, design, np.asarray(y, np.float64)[:, None]]), mode="r")

    def density(theta: Mapping[str, Any]) -> jax.Array:
        w, precision, noise = (jnp.asarray(theta[site]) for site in ("w", "lambda", "beta"))
        offset = [jnp.reshape(theta["intercept"], (1,))] if model.intercept else []
        point = jnp.concatenate([*(-value for value in offset), -w, jnp.ones(1, w.dtype)])
        squares = jnp.sum((jnp.asarray(root, w.dtype) @ point) ** 2)
        value = 0.5 * rows * jnp.log(noise / (2 * jnp.pi)) - 0.5 * noise * squares
        value += dist.Gamma(prior.lambda_shape, prior.lambda_rate).log_prob(precision)
        value += dist.Gamma(prior.beta_shape, prior.beta_rate).log_prob(noise)
        return value + jnp.sum(dist.Normal(0.0, 1 / jnp.sqrt(precision)).log_prob(w))

    return density
