"""Variational Bayes of a mixture, q(z) q(π) Π_k q(θ_k), as EM sees it: a problem with a step.

    q(z_n = k) ∝ exp(E log π_k + E log p(x_n | θ_k))        the E-step of EM at expected natural parameters
    q(π) = Dirichlet(α + n),  q(θ_k) the conjugate posterior  at expected counts n and sums

(Bishop 2006, 10.46 to 10.63). With q(z) optimal, the ELBO is what the same E-step leaves:

    ELBO = Σ_n log Σ_k exp(E log π_k + E log p(x_n | θ_k)) − KL(q(π) ‖ p(π)) − Σ_k KL(q(θ_k) ‖ p(θ_k))

so that the loop of EM, its acceleration and its stopping rule serve as they are; a step never lowers it.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from triptych.inference.cavi import bernoulli, divergences, gaussian
from triptych.inference.em import MixtureKernel
from triptych.inference.em.bernoulli import BernoulliFamily
from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, fold_at
from triptych.inference.em.gaussian import GaussianFamily
from triptych.inference.em.kernel import Start
from triptych.inference.em.standardise import known_variances

__all__ = ["VariationalMixture", "VariationalMixtureKernel"]

COMPONENTS: dict[type, Any] = {GaussianFamily: gaussian, BernoulliFamily: bernoulli}


@partial(jax.tree_util.register_dataclass, data_fields=["data", "constant"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class VariationalMixture:
    """A mixture bound to its data; `constant` takes the ELBO back to the data's units, nats.

    What is climbed: `weights` α (K,) and the numbers of q(θ), in standardised units.
    """

    data: MixtureProblem
    constant: Array

    @property
    def components(self) -> Any:
        """The module of the components' family."""
        return COMPONENTS[type(self.data.family)]

    def step(self, q: Parameters) -> tuple[Parameters, Array, Statistics]:
        """One round of coordinate ascent: q → (q', ELBO at q, expected sums at q)."""
        family, hyper = self.data.family, self.data.hyper
        part = self.components.of(family, q)
        natural, at = self.components.natural(family, part)
        log_weights = divergences.expected_log_weights(jnp.asarray(q["weights"]))
        statistics, value = fold_at(self.data, natural.at[0].add(log_weights))
        elbo = value + family.base(at, statistics.totals) + self.constant
        elbo -= divergences.dirichlet(jnp.asarray(q["weights"]), hyper.concentration)  # type: ignore[attr-defined]
        elbo -= self.components.divergence(family, part, hyper)
        return self.update(statistics), elbo, statistics

    def update(self, statistics: Statistics) -> dict[str, Array]:
        """Give the best q(π) q(θ) at expected sums."""
        hyper: Any = self.data.hyper
        part = self.components.posterior(self.data.family, statistics, hyper)
        numbers = {name: value for name, value in part._asdict().items() if value is not None}
        return {"weights": hyper.concentration + statistics.sums[0], **numbers}

    def admit(self, q: Parameters) -> Parameters:
        """Refuse, by NaN, a proposal that is no distribution."""
        return self.components.admit(self.data.family, q)


@dataclasses.dataclass(frozen=True)
class VariationalMixtureKernel:
    """A mixture bound to its data, for the search of EM, with the way back to the data's units."""

    base: MixtureKernel

    @property
    def problem(self) -> VariationalMixture:
        """The pytree with the step."""
        return VariationalMixture(self.base.problem, jnp.asarray(self.base.jacobian))  # type: ignore[arg-type]

    @property
    def count(self) -> float:
        """Number of rows."""
        return self.base.count

    @property
    def epsilon(self) -> float:
        """Machine precision of the rows."""
        return self.base.epsilon

    @property
    def supports(self) -> dict[str, Any]:
        """Name → constraint of what is climbed."""
        family = self.base.problem.family
        return {"weights": constraints.positive, **COMPONENTS[type(family)].supports(family)}

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Give EM's starts as q: the posterior at the responsibilities that each start has."""
        start = self.base.starts(key, number, init)
        q = _from_parameters(self.problem, jax.tree.map(jnp.asarray, dict(start.parameters)))
        return start._replace(parameters=q)

    def sample(self, key: jax.Array, rows: int) -> VariationalMixtureKernel:
        """Give the same problem on a random subset of the rows."""
        small: Any = self.base.sample(key, rows)
        return self if small is self.base else VariationalMixtureKernel(small)

    def posterior(self, q: Parameters) -> Posterior:
        """Give q(π) q(θ) in the units of the data."""
        family = self.base.problem.family
        components = COMPONENTS[type(family)]
        part, known = components.of(family, q), None
        if isinstance(family, GaussianFamily):
            moved = {"means": part.location}
            if part.spread is not None:
                moved["covariances"] = part.spread
            moved = self.base.outward(moved)
            part = part._replace(location=moved["means"], spread=moved.get("covariances"))
            if family.known is not None:
                known = (np.asarray(known_variances(self.base.model.scale, 1.0, family.components)),)  # type: ignore[attr-defined]
        return Posterior(family, np.asarray(q["weights"]), jax.tree.map(np.asarray, part), known or ())


@jax.jit
def _from_parameters(problem: VariationalMixture, parameters: Parameters) -> Any:
    def one(point: Parameters) -> dict[str, Array]:
        return problem.update(problem.data.expect(point)[0])

    return jax.lax.map(one, parameters)


@partial(jax.tree_util.register_dataclass, data_fields=["weights", "part", "known"], meta_fields=["family"])
@dataclasses.dataclass(frozen=True)
class Posterior:
    """q(π) q(θ) of a mixture, in the units of the data; `known` holds the known variances, if any."""

    family: Any
    weights: np.ndarray
    part: Any
    known: tuple[np.ndarray, ...]

    def draw(self, key: jax.Array) -> dict[str, jax.Array]:
        """Draw site → array."""
        first, second = jax.random.split(key)
        components = COMPONENTS[type(self.family)]
        weights = jax.nn.softmax(jax.random.loggamma(first, jnp.asarray(self.weights)))
        return {"weights": weights, **components.draw(second, self.family, self.part, *self.known)}

    def log_density(self, theta: Parameters) -> jax.Array:
        """Log q(π) + log q(θ), nats."""
        from numpyro.distributions import Dirichlet

        value = Dirichlet(jnp.asarray(self.weights)).log_prob(theta["weights"])
        components = COMPONENTS[type(self.family)]
        return value + components.log_density(self.family, self.part, theta, *self.known)

    def means(self) -> dict[str, np.ndarray]:
        """E_q of every site."""
        found = COMPONENTS[type(self.family)].means(self.family, self.part)
        weights = self.weights / np.sum(self.weights)
        return {"weights": weights, **{site: np.asarray(value) for site, value in found.items()}}
