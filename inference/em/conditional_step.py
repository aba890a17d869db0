"""The exact E-step of continuous latents, Gaussian or Gamma given the rest, with discrete ones beside them.

For row n of a plate, c a combination of the values of its discrete latents and u_n its continuous ones,

    ℓ_nc = log ∫ p(x_n, c, u | θ) du,    r_nc = exp ℓ_nc / Σ_c' exp ℓ_nc',
    Q(θ') = Σ_n Σ_c r_nc mean_s log p(x_n, c, u_nc⁽ˢ⁾ | θ') + what belongs to no row,

with completions u_nc⁽ˢ⁾ that integrate the log joint exactly (`conditionals.py`). That the conditional is
Gaussian is proved from the program's jaxpr (`degree.py`); that it is Gamma, and that rows do not meet, is
verified at random points (`proof.py`). Latents that do meet, and those of no plate, are one row: one block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em import conditionals
from triptych.inference.em.completed import Split, log_probabilities, split_by_rows
from triptych.inference.em.family import Array, Parameters
from triptych.inference.survey import Survey

__all__ = ["Completions", "ConditionalStep"]


class Completions(NamedTuple):
    """What stands for a posterior of (u, z).

    `values` site → (C, S, …), S completions of equal weight for each combination of discrete values;
    `weights` (C, N), r_nc; `mean` (C, N, D) and `spread`, what a draw needs.
    """

    values: Mapping[str, Array]
    weights: Array
    mean: Array
    spread: Array


@dataclasses.dataclass(frozen=True, eq=False)
class ConditionalStep:
    """Exact E-step over continuous latents; compared by identity, so that it can be static in `jax.jit`.

    `family` is "gaussian" or "gamma"; `rows` the length of the plate whose rows do not meet (1: all is one
    row); `plate` is set where the log joint itself splits by its rows, as it must where there are `discrete`
    latents to be summed over.
    """

    program: Callable[..., Any]
    sites: Survey
    latents: tuple[str, ...]
    ignored: frozenset[str]
    family: str
    plate: str | None = None
    rows: int = 1
    discrete: tuple[str, ...] = ()

    def log_joint(
        self, latents: Mapping[str, Array], choice: Any, parameters: Parameters, args: Any, kwargs: Any
    ) -> Split:
        """Log p(x, c, u, θ) in nats by rows, what is ignored left out; `choice` numbers the combination c."""
        values = {**parameters, **latents, **self._discrete_values(choice)}
        factors = log_probabilities(self.program, args, kwargs, values)
        return split_by_rows(factors, self.plate, self.rows, self.ignored)

    def infer(
        self, parameters: Parameters, args: Any, kwargs: Any, sharpness: Any = 1.0
    ) -> tuple[Completions, Array]:
        """E-step: the completions of p(u, z | x, θ), and log p(x | θ) plus the priors kept (nats).

        `sharpness` β takes the posterior of the discrete latents to the power β.
        """

        def one(choice: Array) -> conditionals.Conditional:
            def density(flat: Array) -> Array:
                return self.log_joint(self.unflatten(flat), choice, parameters, args, kwargs).rows

            return getattr(conditionals, self.family)(density, self.shape)

        found = jax.vmap(one)(jnp.arange(self.combinations))
        zero = self.unflatten(found.mean[0])
        rest = self.log_joint(zero, 0, parameters, args, kwargs).rest
        values = jax.vmap(jax.vmap(self.unflatten))(found.points)
        weights = jax.nn.softmax(sharpness * found.log_evidence, axis=0)
        objective = jnp.sum(jax.nn.logsumexp(found.log_evidence, axis=0)) + rest
        return Completions(values, weights, found.mean, found.spread), objective

    def expected(self, parameters: Parameters, posterior: Completions, args: Any, kwargs: Any) -> Array:
        """Q(θ'): the expected log joint under the completions (nats)."""

        def of_choice(values: Mapping[str, Array], choice: Array, weight: Array) -> tuple[Array, Array]:
            def one(completion: Mapping[str, Array]) -> Split:
                return self.log_joint(completion, choice, parameters, args, kwargs)

            split = jax.vmap(one)(values)
            # A combination of weight 0 may be impossible (−∞); it must not count, nor make the gradient NaN.
            local = jnp.where(weight > 0, jnp.mean(split.rows, axis=0), 0.0)
            return jnp.sum(weight * local), split.rest[0]

        local, rest = jax.vmap(of_choice)(posterior.values, jnp.arange(self.combinations), posterior.weights)
        return jnp.sum(local) + rest[0]

    def noise(
        self, key: jax.Array, scale: Any, parameters: Parameters, args: Any, kwargs: Any
    ) -> Completions:
        """Give the completions at θ with random weights of the discrete combinations."""
        posterior, _ = self.infer(parameters, args, kwargs)
        noise = scale * jax.random.normal(key, posterior.weights.shape)
        return posterior._replace(weights=jax.nn.softmax(noise, axis=0))

    def means(self, posterior: Completions) -> dict[str, Array]:
        """Posterior mean of each continuous latent, over the discrete ones too."""
        return self.unflatten(jnp.einsum("cn,cnd->nd", posterior.weights, posterior.mean))

    def responsibilities(self, posterior: Completions) -> dict[str, Array]:
        """Posterior of each discrete latent, (N, K), summed over the others."""
        table = jnp.moveaxis(posterior.weights, 0, -1).reshape(self.rows, *self._sizes)
        axes = range(1, 1 + len(self.discrete))
        return {
            name: jnp.sum(table, axis=tuple(other for other in axes if other != axis))
            for axis, name in zip(axes, self.discrete, strict=True)
        }

    def draw(self, key: jax.Array, posterior: Completions) -> dict[str, Array]:
        """One draw of the continuous latents, each row's from one combination of the discrete ones."""
        first, second = jax.random.split(key)
        choice = jax.random.categorical(first, jnp.log(posterior.weights), axis=0)
        row = jnp.arange(self.rows)
        sample = getattr(conditionals, f"draw_{self.family}")
        return self.unflatten(sample(second, posterior.mean[choice, row], posterior.spread[choice, row]))

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(self.sites.latents[name].size for name in self.discrete)

    @property
    def combinations(self) -> int:
        """The number C of combinations of discrete values."""
        return int(np.prod(self._sizes, dtype=int))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (N, D) of the flat latents."""
        total = sum(int(np.prod(self.sites.parameters[name].shape)) for name in self.latents)
        return self.rows, total // self.rows

    def unflatten(self, flat: Array) -> dict[str, Array]:
        """Split the flat latents (N, D) into sites."""
        values, start = {}, 0
        for name in self.latents:
            shape = self.sites.parameters[name].shape
            size = int(np.prod(shape)) // self.rows
            values[name] = flat[..., start : start + size].reshape(shape)
            start += size
        return values

    def _discrete_values(self, choice: Any) -> dict[str, Array]:
        values = {}
        indices = jnp.unravel_index(choice, self._sizes) if self.discrete else ()
        for name, index in zip(self.discrete, indices, strict=True):
            support = jnp.asarray(self.sites.latents[name].values)
            values[name] = jnp.broadcast_to(support[index], (self.rows, *support.shape[1:]))
        return values
