"""The E-step of any program with discrete latents: every factor of the log joint, its cells weighted.

Let log p(x, z, θ) = Σ_f f(z_f, θ), each factor f a table over the latents it meets. With

    log p(x, θ) = log Σ_z exp Σ_f f(z_f, θ)         (NumPyro's enumeration, funsor's elimination)
    w_f = ∂ log p(x, θ) / ∂ f = p(z_f | x, θ)       (the E-step is a gradient, whatever the latents' graph)

the function that the M-step climbs is Q(θ' | θ) = Σ_f Σ_cells w_f f(θ'), and ∇Q(θ | θ) = ∇ log p(x, θ)
(Fisher's identity).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from triptych.inference.em.family import Array, Parameters
from triptych.inference.marginal import LARGEST_TABLE
from triptych.inference.plan import analyse
from triptych.inference.survey import Survey, survey

__all__ = ["Joint", "Weights", "joint_of"]

Weights = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """The factors of a program's log joint; compared by identity, so that it can be static in `jax.jit`.

    `absorbed` are the sites that hang on a discrete latent; `ignored` those left out (priors, under "mle").
    `reason` says why the rows are not folded (`folded.py`), where that was tried.
    """

    program: Callable[..., Any]
    sites: Survey
    absorbed: tuple[str, ...]
    ignored: frozenset[str]
    reason: str = ""

    def without(self, ignored: frozenset[str]) -> Joint:
        """Give the same with the sites `ignored` left out."""
        absorbed = tuple(name for name in self.absorbed if name not in ignored)
        return dataclasses.replace(self, absorbed=absorbed, ignored=ignored)

    def tables(self, parameters: Parameters, args: Any, kwargs: Any) -> dict[str, Any]:
        """Give site → factor (a table with named axes) at θ."""
        from triptych.inference.enumeration import run_enumerated

        factors = run_enumerated(self.program, args, kwargs, self.sites, parameters).factors
        return {name: factor for name, factor in factors.items() if name not in self.ignored}

    def log_marginal(
        self,
        factors: Mapping[str, Any],
        tables: Mapping[str, Array],
        added: Mapping[str, Array] | None = None,
    ) -> Array:
        """Log Σ_z exp Σ_f of the absorbed factors, with `tables` in place of theirs.

        `added` are tables, latent → (places..., K), added to the latents' log probabilities.
        """
        from triptych.inference.chain_elimination import perturbations
        from triptych.inference.elimination import eliminate

        if not self.absorbed:
            return jnp.zeros(())
        present = [factors[name]._replace(table=tables[name]) for name in self.absorbed]
        for name, table in (added or {}).items():
            present += perturbations(name, table, self.sites)
        return eliminate(present, self.sites)

    def log_density(self, parameters: Parameters, args: Any, kwargs: Any) -> Array:
        """Log p(x, θ), the discrete latents summed out and what is ignored left out (nats)."""
        factors = self.tables(parameters, args, kwargs)
        value = self.log_marginal(factors, {name: factors[name].table for name in self.absorbed})
        rest = (jnp.sum(f.table) for name, f in factors.items() if name not in self.absorbed)
        return value + sum(rest, start=jnp.zeros(()))

    def infer(
        self, parameters: Parameters, args: Any, kwargs: Any, sharpness: Any = 1.0
    ) -> tuple[Weights, Array]:
        """E-step: the weight of every cell of every absorbed factor, and the objective at θ (nats).

        `sharpness` β takes the posterior to the power β (normalised): below 1 annealed, far above 1 hard.
        """
        factors = self.tables(parameters, args, kwargs)
        tables = {name: factors[name].table * sharpness for name in self.absorbed}
        value, weights = jax.value_and_grad(lambda t: self.log_marginal(factors, t))(tables)
        rest = sum(
            (jnp.sum(f.table) for name, f in factors.items() if name not in tables), start=jnp.zeros(())
        )
        return weights, value + rest

    def noise(self, key: jax.Array, scale: Any, parameters: Parameters, args: Any, kwargs: Any) -> Weights:
        """Random weights that some posterior could have: those of tables of Gaussian noise."""
        factors = self.tables(parameters, args, kwargs)
        keys = jax.random.split(key, max(len(self.absorbed), 1))
        tables = {
            name: scale * jax.random.normal(one, factors[name].table.shape, factors[name].table.dtype)
            for name, one in zip(self.absorbed, keys, strict=False)
            if name in self.sites.latents and factors[name].chain is None
        }
        zeros = {name: jnp.zeros_like(factors[name].table) for name in self.absorbed}
        chains = {name: latent for name, latent in self.sites.latents.items() if latent.chain is not None}
        keys = jax.random.split(jax.random.fold_in(key, 1), max(len(chains), 1))
        # The steps of a chain get noise of their own, though their transitions are one table for all.
        noise = {
            name: scale * _persistent_noise(one, latent.places)
            for one, (name, latent) in zip(keys, chains.items(), strict=False)
        }
        return jax.grad(lambda t: self.log_marginal(factors, t, noise))({**zeros, **tables})

    def expected(self, parameters: Parameters, posterior: Weights, args: Any, kwargs: Any) -> Array:
        """Q(θ'): the expected log joint under the weights `posterior` (nats)."""
        factors = self.tables(parameters, args, kwargs)
        total = jnp.zeros(())
        for name, factor in factors.items():
            weight = posterior.get(name)
            # A cell of weight 0 may hold −inf; it must not count, nor make the gradient NaN.
            table = factor.table if weight is None else jnp.where(weight > 0, factor.table, 0.0) * weight
            total += jnp.sum(table)
        return total


def _persistent_noise(key: jax.Array, shape: tuple[int, ...]) -> Array:
    """Gaussian noise (T, …) that stays as it is for 1, 3, 9, 27 or 81 steps, as the states of a chain may."""
    first, second = jax.random.split(key)
    stay = 3 ** jax.random.randint(first, (), 0, 5)
    return jax.random.normal(second, shape)[jnp.arange(shape[0]) // stay]


def joint_of(program: Callable[..., Any], args: Any, kwargs: Any, ignored: frozenset[str]) -> Joint:
    """Survey a program and find what hangs on its discrete latents; the sites `ignored` do not count.

    Raises
    ------
    InputError : a latent cannot be enumerated; the text names the site and the way out.
    """
    sites = survey(program, args, kwargs)
    absorbed: tuple[str, ...] = ()
    if sites.latents:
        absorbed = tuple(analyse(program, args, kwargs, sites, LARGEST_TABLE).absorbed)
    return Joint(program, sites, tuple(name for name in absorbed if name not in ignored), ignored)
