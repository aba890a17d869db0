"""Full conditional of a Bernoulli mixture's probabilities, given which rows belong to which component.

With n_k rows in component k and Σ x of them, p_kd ~ Beta(a + Σ x_d, b + n_k − Σ x_d) (Bishop 2006, 2.18). The
sums may be expected ones: then this is the update of variational Bayes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln

from triptych.inference.em.bernoulli import BernoulliFamily, BernoulliHyper
from triptych.inference.em.family import Array, Parameters, Statistics

__all__ = ["Betas", "draw", "log_density", "posterior"]


class Betas(NamedTuple):
    """p_kd ~ Beta(ones_kd, zeros_kd), each (K, D)."""

    ones: Array
    zeros: Array


def posterior(family: BernoulliFamily, statistics: Statistics, hyper: BernoulliHyper) -> Betas:
    """Give the posterior of the probabilities from sums over rows, Σ r T(x)."""
    del family
    counts, successes = statistics.sums[0][:, None], statistics.sums[1:].T
    return Betas(hyper.ones + successes, hyper.zeros + counts - successes)


def draw(key: jax.Array, family: BernoulliFamily, given: Betas) -> dict[str, jax.Array]:
    """Draw the probabilities (K, D)."""
    del family
    first, second = jax.random.split(key)
    # Logarithms of gammas: a Beta with a small count may be nearer to 0 or 1 than a float can say.
    difference = jax.random.loggamma(first, given.ones) - jax.random.loggamma(second, given.zeros)
    tiny = jnp.finfo(difference.dtype).eps
    return {"probs": jnp.clip(jax.nn.sigmoid(difference), tiny, 1 - tiny)}


def log_density(family: BernoulliFamily, given: Betas, parameters: Parameters) -> jax.Array:
    """Give log p(probabilities) under the conditional, normalised, in nats; a scalar."""
    del family
    probs = jnp.asarray(parameters["probs"])
    density = (given.ones - 1.0) * jnp.log(probs) + (given.zeros - 1.0) * jnp.log1p(-probs)
    return jnp.sum(density - betaln(given.ones, given.zeros))
