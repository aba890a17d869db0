"""The Monte Carlo E-step: draws of the latents by NUTS, given θ, with discrete ones summed out exactly.

With u the continuous latents in unconstrained space, chains that never stop walk in p(u | x, θ_t) as θ_t
moves. Their draws of the latest iterations make up a pool, and the M-step climbs

    Q̂(θ') = Σ_a ω_a mean_s log p(x, u_a⁽ˢ⁾, θ'),

ω on the latest draws alone at first (Wei & Tanner 1990, MCEM), then equal on all draws since (Delyon,
Lavielle & Moulines 1999, SAEM with steps 1/t).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from triptych.inference.em.e_steps import Bound, check_range, continuous
from triptych.inference.em.expected import Joint, Weights
from triptych.inference.em.family import Array, Parameters
from triptych.inference.survey import Survey
from triptych.inference.unconstrained import Coordinates

__all__ = ["Chains", "MonteCarlo", "MonteCarloStep", "Pool"]


class Pool(NamedTuple):
    """Draws that stand for a posterior: `flat` (A, S, p) of A iterations, weighted by `shares` (A,)."""

    flat: Array
    shares: Array


class Chains(NamedTuple):
    """Where the walkers are: NumPyro's state of each, stacked along axis 0."""

    states: Any


@dataclasses.dataclass(frozen=True)
class MonteCarlo:
    """Choose the Monte Carlo E-step.

    Parameters
    ----------
    draws : draws of each chain an iteration, in the first round; each further round takes twice as many.
    chains : walkers.
    warmup : steps in which each walker adapts, at the starting point.
    settle, averaged : iterations of a round, first on the latest draws, then averaged.
    rounds : rounds at most.
    tol : the Monte Carlo error of θ, in its standard errors, at which the rounds stop.

    Raises
    ------
    InputError : a setting out of range.
    """

    draws: int = 10
    chains: int = 4
    warmup: int = 200
    settle: int = 15
    averaged: int = 15
    rounds: int = 4
    tol: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (
            ("draws", 1),
            ("chains", 1),
            ("warmup", 10),
            ("settle", 1),
            ("averaged", 4),
            ("rounds", 1),
        ):
            check_range(name, getattr(self, name), least)
        check_range("tol", self.tol, 0.0)

    def make(self, bound: Bound) -> MonteCarloStep:
        """Lay out the walk.

        Raises
        ------
        InputError : there is no continuous latent to draw.
        """
        space, joint = continuous(bound, "monte_carlo")
        return MonteCarloStep(joint, space, self.warmup)


@dataclasses.dataclass(frozen=True, eq=False)
class MonteCarloStep:
    """Draws of the latents of a program; compared by identity, so that it can be static in `jax.jit`."""

    joint: Joint
    space: Coordinates
    warmup: int

    @property
    def sites(self) -> Survey:
        """The program's sites."""
        return self.joint.sites

    def log_joint(self, flat: Array, parameters: Parameters, args: Any, kwargs: Any) -> Array:
        """Log p(x, u, θ) at latents u (p,) in unconstrained space, discrete latents summed out (nats)."""
        values = {**parameters, **self.space.constrain(flat)}
        return self.joint.log_density(values, args, kwargs)

    def potential(self, parameters: Parameters, args: Any, kwargs: Any) -> Callable[[Array], Array]:
        """Give −log p(u | x, θ) up to a constant, with the volume of the change of variables."""

        def of(flat: Array) -> Array:
            return -self.log_joint(flat, parameters, args, kwargs) - self.space.log_jacobian(flat)

        return of

    def warm_up(self, key: jax.Array, chains: int, parameters: Parameters, args: Any, kwargs: Any) -> Chains:
        """Start the walkers near 0 and let them adapt."""
        start, _ = self._kernel(parameters, args, kwargs)
        spots = 0.5 * jax.random.normal(jax.random.fold_in(key, 0), (chains, self.space.size))
        states = jax.vmap(start)(spots, jax.random.split(key, chains))
        return self.walk(Chains(states), self.warmup, parameters, args, kwargs)[0]

    def walk(
        self, chains: Chains, steps: int, parameters: Parameters, args: Any, kwargs: Any
    ) -> tuple[Chains, Array]:
        """Let every walker take `steps` steps at θ; also where they were, (chains, steps, p)."""
        start, sample = self._kernel(parameters, args, kwargs)
        start(jnp.zeros(self.space.size), jax.random.key(0))  # NumPyro's kernel learns its settings here
        energy = jax.value_and_grad(self.potential(parameters, args, kwargs))

        def one(state: Any) -> tuple[Any, Array]:
            value, gradient = energy(state.z)  # θ has moved since
            state = state._replace(potential_energy=value, z_grad=gradient)

            def move(state: Any, _: None) -> tuple[Any, Array]:
                state = sample(state)
                return state, state.z

            return jax.lax.scan(move, state, None, length=steps)

        states, places = jax.vmap(one)(chains.states)
        return Chains(states), places

    def _kernel(self, parameters: Parameters, args: Any, kwargs: Any) -> tuple[Any, Any]:
        from numpyro.infer.hmc import hmc

        initial, sample = hmc(potential_fn=self.potential(parameters, args, kwargs), algo="NUTS")
        return lambda spot, key: initial(spot, self.warmup, rng_key=key), sample

    def posterior(
        self, pool: Pool, parameters: Parameters, args: Any, kwargs: Any
    ) -> tuple[Mapping[str, Array], Weights]:
        """Give the pool's draws as sites, (A, S, …), with the weights of the discrete latents at each."""
        values = jax.vmap(jax.vmap(self.space.constrain))(pool.flat)

        def weights(point: Mapping[str, Array]) -> Weights:
            return self.joint.infer({**parameters, **point}, args, kwargs)[0]

        return values, jax.vmap(jax.vmap(weights))(values)

    def expected(self, parameters: Parameters, posterior: Any, args: Any, kwargs: Any) -> Array:
        """Q̂(θ') under (values, discrete weights, shares), nats."""
        values, weights, shares = posterior

        def one(point: Mapping[str, Array], weight: Weights) -> Array:
            return self.joint.expected({**parameters, **point}, weight, args, kwargs)

        # An iteration that is not in the pool yet is not looked at: its draws may be anything.
        table = jnp.where(shares[:, None] > 0, jax.vmap(jax.vmap(one))(values, weights), 0.0)
        return jnp.sum(shares * jnp.mean(table, axis=1))

    def noise(self, key: jax.Array, scale: Any, parameters: Parameters, args: Any, kwargs: Any) -> Any:
        """Give draws around 0, to read the M-step from."""
        pool = Pool(0.5 * scale * jax.random.normal(key, (1, 8, self.space.size)), jnp.ones(1))
        return (*self.posterior(pool, parameters, args, kwargs), pool.shares)
