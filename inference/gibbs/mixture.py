"""One sweep of Gibbs sampling in a mixture: the labels given the parameters, the parameters given the labels.

    z_n | θ, x ~ Categorical(∝ π_k p(x_n | θ_k))
    π | z ~ Dirichlet(α + n),   θ_k | z, x ~ the family's conjugate posterior

Two blocks, each drawn jointly and exactly (Diebolt & Robert 1994, Estimation of finite mixture distributions
through Bayesian sampling, JRSS B 56).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from triptych.inference.em.bernoulli import BernoulliFamily
from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, restricted
from triptych.inference.em.gaussian import GaussianFamily
from triptych.inference.em.transposed_rows import standardised
from triptych.inference.gibbs import bernoulli, gaussian

__all__ = ["MixtureSweep", "draw_labels", "draw_parameters", "statistics", "table"]

CONDITIONALS: dict[type, Any] = {GaussianFamily: gaussian, BernoulliFamily: bernoulli}
SURE = 0.8  # share of a row's allocation at the start that is the posterior's; the rest is even


def table(problem: MixtureProblem, features: Array, parameters: Parameters) -> Array:
    """Give log p(x_n, z_n = k | θ) up to a constant of the row, (N, K); −inf where a label rules it out."""
    values = (problem.family.natural(parameters).T.astype(features.dtype) @ features).T
    return values if problem.labels is None else restricted(values, jnp.asarray(problem.labels))


def draw_labels(key: jax.Array, problem: MixtureProblem, features: Array, parameters: Parameters) -> Array:
    """Draw z | θ, x, (N,)."""
    return jax.random.categorical(key, table(problem, features, parameters), axis=1)


def statistics(problem: MixtureProblem, features: Array, z: Array) -> Statistics:
    """Give Σ_n 1[z_n = k] T(x_n), (F, K), and what no label weighs."""
    chosen = jax.nn.one_hot(z, problem.family.components, dtype=features.dtype)
    return Statistics((features @ chosen).astype(jnp.float64), problem.totals)


def draw_parameters(key: jax.Array, problem: MixtureProblem, sums: Statistics) -> dict[str, jax.Array]:
    """Draw π and θ given the labels' sums."""
    key_weights, key_components = jax.random.split(key)
    hyper: Any = problem.hyper
    conditional = CONDITIONALS[type(problem.family)]
    gammas = jax.random.loggamma(key_weights, hyper.concentration + sums.sums[0])
    given = conditional.posterior(problem.family, sums, hyper)
    return {
        "weights": jax.nn.softmax(gammas),
        **conditional.draw(key_components, problem.family, given),
    }


@partial(jax.tree_util.register_dataclass, data_fields=["problem", "features"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class MixtureSweep:
    """A mixture bound to its data, standardised; `features` are T(x), (F, N), kept whole."""

    problem: MixtureProblem
    features: Array

    @classmethod
    def of(cls, problem: MixtureProblem) -> MixtureSweep:
        """Lay out the features of all rows once."""
        rows = standardised(problem.rows, problem.centre, problem.inverse_scale)
        return cls(problem, problem.family.features(rows))

    def start(self, key: jax.Array, optimum: Parameters) -> dict[str, jax.Array]:
        """Draw parameters from an allocation in which every fifth row is put anywhere: overdispersed.

        Rows out of place widen every component and pull its mean towards the others.
        """
        key_labels, key_parameters = jax.random.split(key)
        shares = jax.nn.softmax(table(self.problem, self.features, optimum), axis=1)
        shares = SURE * shares + (1 - SURE) / shares.shape[1]
        logits = jnp.log(shares)
        if self.problem.labels is not None:
            logits = restricted(logits, jnp.asarray(self.problem.labels))
        z = jax.random.categorical(key_labels, logits, axis=1)
        return draw_parameters(key_parameters, self.problem, statistics(self.problem, self.features, z))

    def sweep(self, key: jax.Array, parameters: Parameters) -> dict[str, jax.Array]:
        """Draw the labels, then the parameters."""
        key_labels, key_parameters = jax.random.split(key)
        z = draw_labels(key_labels, self.problem, self.features, parameters)
        return draw_parameters(key_parameters, self.problem, statistics(self.problem, self.features, z))
