"""Bernoulli components: x_nd | z_n = k ~ Bernoulli(p_kd), p_kd ~ Beta(a, b).

T(x) = [1, x], η_k = [log π_k + Σ_d log(1 − p_kd), logit p_k]; the M-step is the mode of a Beta,

    p_kd = (Σ_n r_nk x_nd + a − 1) / (n_k + a + b − 2)    (Bishop 2006, eq. 9.59, plus the prior's counts).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import betaln, gammaln

from triptych.inference.em.family import Array, Parameters, Statistics

__all__ = ["BernoulliFamily", "BernoulliHyper"]

TINY = 1e-300  # below any weight that matters: log(0) would poison the matrix product


class BernoulliHyper(NamedTuple):
    """The prior's numbers: concentration (K,), a and b (scalars); all 1 is maximum likelihood.

    No probability may come closer than `floor` to 0 or 1: a constraint, so EM stays monotone.
    """

    concentration: Array
    ones: Array
    zeros: Array
    floor: Array


@dataclasses.dataclass(frozen=True)
class BernoulliFamily:
    """Products of D independent Bernoulli variables."""

    components: int
    columns: int

    @property
    def feature_count(self) -> int:
        """F = 1 + D."""
        return 1 + self.columns

    @property
    def plain(self) -> bool:
        """T(x) is the row, behind a 1."""
        return True

    def features(self, x: Array) -> Array:
        """T(x) = [1, x]."""
        return jnp.concatenate([jnp.ones((1, x.shape[0]), x.dtype), x.T])

    def totals(self, x: Array, weights: Array | None) -> Array:
        """Nothing is shared."""
        del weights
        return jnp.zeros((), x.dtype)

    def natural(self, parameters: Parameters) -> Array:
        """η_k = [log π_k + Σ_d log(1 − p_kd), log p_k − log(1 − p_k)]."""
        probs = parameters["probs"]
        against = jnp.log1p(-probs)
        constant = jnp.log(jnp.maximum(parameters["weights"], TINY)) + jnp.sum(against, axis=1)
        return jnp.concatenate([constant[None], (jnp.log(probs) - against).T], axis=0)

    def base(self, parameters: Parameters, totals: Array) -> Array:
        """Nothing is shared."""
        del totals
        return jnp.zeros((), parameters["probs"].dtype)

    def maximise(self, statistics: Statistics, hyper: BernoulliHyper) -> Parameters:
        """M-step in closed form: the mode of each Beta and of the Dirichlet."""
        counts = statistics.sums[0]
        successes = statistics.sums[1:].T + hyper.ones - 1.0
        trials = (counts + hyper.ones + hyper.zeros - 2.0)[:, None]
        probs = jnp.where(trials > 0, successes / jnp.maximum(trials, TINY), 0.5)
        weights = jnp.maximum(counts + hyper.concentration - 1.0, 0.0)
        return {
            "weights": weights / jnp.sum(weights),
            "probs": jnp.clip(probs, hyper.floor, 1.0 - hyper.floor),
        }

    def admit(self, parameters: Parameters, hyper: BernoulliHyper) -> Parameters:
        """Bring the probabilities of a proposal to the floor."""
        return {**parameters, "probs": jnp.clip(parameters["probs"], hyper.floor, 1.0 - hyper.floor)}

    def log_prior(self, parameters: Parameters, hyper: BernoulliHyper) -> Array:
        """Log Dirichlet(π) + Σ log Beta(p), normalised, in nats."""
        alpha, probs = hyper.concentration, parameters["probs"]
        value = jnp.sum((alpha - 1.0) * jnp.log(jnp.maximum(parameters["weights"], TINY)))
        value += gammaln(jnp.sum(alpha)) - jnp.sum(gammaln(alpha))
        density = (hyper.ones - 1.0) * jnp.log(probs) + (hyper.zeros - 1.0) * jnp.log1p(-probs)
        return value + jnp.sum(density - betaln(hyper.ones, hyper.zeros))
