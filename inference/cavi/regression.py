"""Variational Bayes of a Bayesian linear regression: q(w, b) q(λ) q(β).

    q(w, b) = N, as p(w, b | y, λ, β) at E λ and E β;    q(λ) = Gamma(a + D/2, b + E wᵀw/2);
    q(β) = Gamma(a' + N/2, b' + E|y − b − Xw|²/2)

(Bishop 2006, 10.3, where β is known; Drugowitsch 2013). With q(w, b) optimal the ELBO is the log evidence at
(E λ, E β), with E log in the place of log, less KL(q(λ) ‖ p(λ)) and KL(q(β) ‖ p(β)). The shapes never change:
E λ and E β are all there is to climb.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma
from numpyro.distributions import Gamma, constraints

from triptych.inference.cavi import divergences
from triptych.inference.em import RegressionKernel
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.kernel import Start
from triptych.inference.em.regression import Moments, evidence, expectations
from triptych.inference.gibbs.regression import draw_weights, precisions_given, weights_given

__all__ = ["VariationalRegression", "VariationalRegressionKernel"]


@partial(jax.tree_util.register_dataclass, data_fields=["moments", "prior"], meta_fields=["intercept"])
@dataclasses.dataclass(frozen=True)
class VariationalRegression:
    """A regression bound to its data. prior : (4,), shape and rate of λ, shape and rate of β."""

    moments: Moments
    prior: Array
    intercept: bool

    def step(self, q: Parameters) -> tuple[Parameters, Array, tuple[()]]:
        """One round of coordinate ascent: (E λ, E β) → (the next, ELBO in nats)."""
        precision, noise = q["lambda"], q["beta"]
        square, trace, misfit, spread = expectations(self.moments, precision, noise)
        if self.intercept:
            spread += 1.0 / noise  # N Var(b + x̄ᵀw)
        updated = precisions_given(self.moments, self.prior, square + trace, misfit + spread)
        following = {
            name: shape / rate for name, (shape, rate) in zip(("lambda", "beta"), updated, strict=True)
        }
        return following, self.elbo(precision, noise), ()

    def elbo(self, precision: Array, noise: Array) -> jax.Array:
        """Give the ELBO at E λ and E β, q(w, b) optimal, nats."""
        moments, prior = self.moments, self.prior
        value = evidence(moments, precision, noise)
        if self.intercept:
            # The evidence is at b = ȳ; a flat prior on b multiplies it by √(2π/(βN)).
            value += 0.5 * jnp.log(2 * jnp.pi / (noise * moments.rows))
        shapes = (prior[0] + moments.columns / 2, prior[2] + moments.rows / 2)
        for shape, mean, count, a, b in (
            (shapes[0], precision, moments.columns, prior[0], prior[1]),
            (shapes[1], noise, moments.rows, prior[2], prior[3]),
        ):
            value += count / 2 * (digamma(shape) - jnp.log(shape))
            value -= divergences.gamma(shape, shape / mean, a, b)
        return jnp.asarray(value)


@dataclasses.dataclass(frozen=True)
class VariationalRegressionKernel:
    """A regression bound to its data, for the search of EM."""

    base: RegressionKernel

    @property
    def problem(self) -> VariationalRegression:
        """The pytree with the step."""
        hyper = self.base.problem.hyper
        prior = [hyper.lambda_shape + 1, hyper.lambda_rate, hyper.beta_shape + 1, hyper.beta_rate]
        return VariationalRegression(self.base.problem.moments, jnp.stack(prior), self.base.intercept)

    @property
    def count(self) -> float:
        """Number of rows."""
        return self.base.count

    @property
    def epsilon(self) -> float:
        """Machine precision."""
        return self.base.epsilon

    @property
    def supports(self) -> dict[str, Any]:
        """Name → constraint of what is climbed."""
        return {"lambda": constraints.positive, "beta": constraints.positive}

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Start where EM starts."""
        return self.base.starts(key, number, init)

    def sample(self, key: jax.Array, rows: int) -> VariationalRegressionKernel:
        """Give the problem itself: a step does not depend on the number of rows."""
        del key, rows
        return self

    def posterior(self, q: Parameters) -> Posterior:
        """Give q(w, b) q(λ) q(β)."""
        base = self.base
        place = (np.asarray(base.rotation), np.asarray(base.centre), np.asarray(base.level))
        return Posterior(self.problem, *place, np.asarray(q["lambda"]), np.asarray(q["beta"]))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """q(w, b) q(λ) q(β) at E λ = `precision`, E β = `noise`; w = `rotation` · the weights of `problem`.

    `centre` (D,) and `level` are the means of the columns and of y, where there is an intercept b.
    """

    problem: VariationalRegression
    rotation: np.ndarray
    centre: np.ndarray
    level: np.ndarray
    precision: np.ndarray
    noise: np.ndarray

    @property
    def _gammas(self) -> dict[str, Any]:
        prior, moments = self.problem.prior, self.problem.moments
        shapes = {"lambda": prior[0] + moments.columns / 2, "beta": prior[2] + moments.rows / 2}
        means = {"lambda": self.precision, "beta": self.noise}
        return {site: Gamma(shape, shape / means[site]) for site, shape in shapes.items()}

    def draw(self, key: jax.Array) -> dict[str, jax.Array]:
        """Draw site → array."""
        first, second, third, fourth = jax.random.split(key, 4)
        moments, rotation = self.problem.moments, jnp.asarray(self.rotation)
        w, _ = draw_weights(first, moments, rotation, jnp.asarray(self.precision), jnp.asarray(self.noise))
        gammas = self._gammas
        drawn = {
            "lambda": gammas["lambda"].sample(second),
            "beta": gammas["beta"].sample(third),
            "w": jnp.asarray(w),
        }
        if self.problem.intercept:
            noise = jax.random.normal(fourth, (), drawn["w"].dtype)
            level = self.level + noise / jnp.sqrt(self.noise * moments.rows)
            drawn["intercept"] = level - jnp.asarray(self.centre) @ drawn["w"]
        return drawn

    def log_density(self, theta: Parameters) -> jax.Array:
        """Log q(w, b) + log q(λ) + log q(β), nats."""
        moments, rotation = self.problem.moments, jnp.asarray(self.rotation)
        value = sum((gamma.log_prob(theta[site]) for site, gamma in self._gammas.items()), jnp.zeros(()))
        w = jnp.asarray(theta["w"])
        inside = rotation.T @ w
        mean, variance = weights_given(moments, jnp.asarray(self.precision), jnp.asarray(self.noise))
        value -= 0.5 * jnp.sum(jnp.log(2 * jnp.pi * variance) + (inside - mean) ** 2 / variance)
        outside = rotation.shape[0] - rotation.shape[1]
        value += outside / 2 * jnp.log(self.precision / (2 * jnp.pi))
        value -= self.precision / 2 * (jnp.sum(w**2) - jnp.sum(inside**2))
        if self.problem.intercept:
            total = self.noise * moments.rows
            offset = theta["intercept"] + jnp.asarray(self.centre) @ w - self.level
            value += 0.5 * jnp.log(total / (2 * jnp.pi)) - total / 2 * offset**2
        return jnp.asarray(value)

    def means(self) -> dict[str, np.ndarray]:
        """E_q of every site."""
        inside, _ = weights_given(self.problem.moments, self.precision, self.noise)
        mean = self.rotation @ np.asarray(inside)
        found = {"lambda": self.precision, "beta": self.noise, "w": mean}
        if self.problem.intercept:
            found["intercept"] = np.asarray(self.level - self.centre @ mean)
        return found
