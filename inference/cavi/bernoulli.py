"""Variational Bayes of Bernoulli components: q(p_kd) = Beta(a_kd, b_kd), E log p = ψ(a) − ψ(a + b)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma
from numpyro.distributions import constraints

from triptych.inference.cavi import divergences
from triptych.inference.em.bernoulli import BernoulliFamily, BernoulliHyper
from triptych.inference.em.family import Array, Parameters
from triptych.inference.gibbs.bernoulli import Betas, draw, log_density, posterior

__all__ = ["admit", "divergence", "draw", "log_density", "means", "natural", "of", "posterior", "supports"]


def of(family: BernoulliFamily, q: Parameters) -> Betas:
    """Read q(p) off the numbers that are climbed."""
    del family
    return Betas(q["ones"], q["zeros"])


def supports(family: BernoulliFamily) -> dict[str, Any]:
    """Name → constraint of the numbers of q."""
    del family
    return {"ones": constraints.positive, "zeros": constraints.positive}


def admit(family: BernoulliFamily, q: Parameters) -> Parameters:
    """Give any q as it is: all are valid."""
    del family
    return q


def natural(family: BernoulliFamily, q: Betas) -> tuple[jax.Array, dict[str, Array]]:
    """Give E η (F, K) without E log π: [Σ_d E log(1 − p_kd), E log p_kd − E log(1 − p_kd)]."""
    for_, against = digamma(q.ones), digamma(q.zeros)
    constant = jnp.sum(against - digamma(q.ones + q.zeros), axis=1)
    at: dict[str, Array] = {
        "weights": jnp.ones(family.components),
        "probs": jnp.asarray(q.ones) / (q.ones + q.zeros),
    }
    return jnp.concatenate([constant[None], (for_ - against).T], axis=0), at


def divergence(family: BernoulliFamily, q: Betas, hyper: BernoulliHyper) -> jax.Array:
    """KL(q(p) ‖ p(p)), nats."""
    del family
    return jnp.sum(divergences.beta(q.ones, q.zeros, hyper.ones, hyper.zeros))


def means(family: BernoulliFamily, q: Betas) -> dict[str, jax.Array]:
    """E p, (K, D)."""
    del family
    return {"probs": jnp.asarray(q.ones) / (q.ones + q.zeros)}
