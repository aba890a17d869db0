"""A program bound to its data as EM sees it: any E-step, any M-step, starts, and draws of its latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from triptych.inference.effort import in_order
from triptych.inference.em.e_steps import exact_of
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.folded import FoldedStep, Prepared
from triptych.inference.em.maximiser import Block, Expected, maximise
from triptych.inference.em.random_starts import jitter, middle, random_start
from triptych.inference.survey import Parameter

__all__ = [
    "DerivedProblem",
    "Shape",
    "carried",
    "draw_latents",
    "latent_means",
    "log_likelihoods",
    "random_starts",
    "ready",
    "settled_guide",
]

GUIDE_ROUNDS = 20  # E-steps that settle a guide at a θ given alone


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """What is static of a derived problem, compared by identity.

    `m_step` is the user's own, or `None` for the one that `blocks` describes; `annealing` the powers of the
    posterior that a start goes through, and the steps at each.
    """

    e_step: Any
    likelihood: Any
    blocks: tuple[Block, ...]
    sites: Mapping[str, Parameter]
    m_step: Callable[[Expected, Parameters], Parameters] | None = None
    annealing: tuple[tuple[float, ...], int] = ((), 0)

    @property
    def integrates(self) -> bool:
        """Whether continuous latents are integrated out."""
        return hasattr(self.e_step, "means")

    @property
    def supports(self) -> dict[str, Any]:
        """Site → NumPyro constraint, of the sites maximised."""
        return {name: site.support for name, site in self.sites.items()}


@partial(jax.tree_util.register_dataclass, data_fields=["args", "kwargs", "given"], meta_fields=["shape"])
@dataclasses.dataclass(frozen=True)
class DerivedProblem:
    """A program bound to its data: what one derived EM step reads.

    `given` is what the E-step is called with: the arguments, or what it has prepared of them once.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Shape
    given: Any

    def on(self, args: tuple[Any, ...]) -> DerivedProblem:
        """Give the same problem on other data of the same shape."""
        return dataclasses.replace(self, args=args, given=ready(self.shape.e_step, args, self.kwargs))

    def infer(self, parameters: Parameters, sharpness: Any = 1.0) -> tuple[Any, Array]:
        """E-step at θ: the posterior of the latents, and the objective (nats)."""
        return self.shape.e_step.infer(parameters, self.given, self.kwargs, sharpness)

    def expected(self, parameters: Parameters, posterior: Any) -> Array:
        """Q(θ') under a posterior, nats."""
        return self.shape.e_step.expected(parameters, posterior, self.given, self.kwargs)

    def maximise(self, posterior: Any, parameters: Parameters) -> Parameters:
        """M-step: from θ up Q under a posterior; what an E-step keeps beside θ is renewed."""
        shape = self.shape
        expected = partial(self.expected, posterior=posterior)
        if shape.m_step is not None:
            following = {**parameters, **shape.m_step(expected, parameters)}
        else:
            together = isinstance(self.given, Prepared)
            following = maximise(shape.blocks, expected, parameters, shape.supports, together=together)
        carried = shape.e_step.carry(posterior) if hasattr(shape.e_step, "carry") else {}
        return {**following, **carried}

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, Any]:
        """θ → (argmax Q(· | θ), objective at θ in nats, the posterior of the latents)."""
        posterior, objective = self.infer(parameters)
        return self.maximise(posterior, parameters), objective, posterior

    def admit(self, parameters: Parameters) -> Parameters:
        """Make a proposal NaN at the sites where it left the support."""
        inside = {site: jnp.all(one(parameters[site])) for site, one in self.shape.supports.items()}
        return {**parameters, **{s: jnp.where(fine, parameters[s], jnp.nan) for s, fine in inside.items()}}


@in_order
def log_likelihoods(problem: DerivedProblem, parameters: Parameters) -> Array:
    """Give log p(x | θ) at stacked points (R,), nats."""
    likelihood = problem.shape.likelihood
    given = problem.given if isinstance(problem.given, Prepared) else problem.args
    return jax.lax.map(lambda point: likelihood.infer(point, given, problem.kwargs)[1], parameters)


@in_order
def latent_means(problem: DerivedProblem, parameters: Parameters) -> Parameters:
    """Give the posterior mean of each continuous latent at θ."""
    return problem.shape.e_step.means(problem.infer(parameters)[0])


@in_order
def settled_guide(problem: DerivedProblem, parameters: Parameters) -> Parameters:
    """Climb the ELBO over the guide alone, from its beginning."""
    e_step = problem.shape.e_step

    def again(carried: Parameters, _: None) -> tuple[Parameters, None]:
        return e_step.carry(problem.infer({**parameters, **carried})[0]), None

    return jax.lax.scan(again, {name: parameters[name] for name in e_step.begin()}, length=GUIDE_ROUNDS)[0]


@in_order
def draw_latents(problem: DerivedProblem, samples: Parameters, keys: jax.Array) -> Parameters:
    """Draw the continuous latents, once for each draw of θ."""
    e_step = problem.shape.e_step

    def one(arguments: tuple[Parameters, jax.Array]) -> Parameters:
        theta, key = arguments
        if hasattr(e_step, "at"):  # the guide is drawn too
            return e_step.draw(key, e_step.at(theta))
        return e_step.draw(key, problem.infer(theta)[0])

    return jax.lax.map(one, (samples, keys))


@in_order
def random_starts(problem: DerivedProblem, keys: jax.Array, partitions: Array) -> Parameters:
    """Draw starting points, one a key; `partitions` (R,) says which end as a random partition."""
    shape = problem.shape
    point = middle(shape.sites)

    def one(arguments: tuple[jax.Array, Array]) -> Parameters:
        key, partition = arguments
        near = jitter(jax.random.fold_in(key, 1), point, shape.supports) | carried(shape.e_step)
        start = random_start(
            key, partition, shape.e_step, problem.maximise, near, problem.given, problem.kwargs
        )
        return _anneal(problem, jax.random.fold_in(key, 2), start)

    return jax.lax.map(one, (keys, partitions))


def _anneal(problem: DerivedProblem, key: jax.Array, start: Parameters) -> Parameters:
    """Climb with flattened posteriors, less and less; a little noise breaks ties between components."""
    powers, steps = problem.shape.annealing
    if not powers:
        return start
    sites = problem.shape.sites

    def climb(parameters: Parameters, sharpness: Array) -> tuple[Parameters, None]:
        return problem.maximise(problem.infer(parameters, sharpness)[0], parameters), None

    moved = jitter(key, {name: start[name] for name in sites}, problem.shape.supports)
    end, _ = jax.lax.scan(climb, {**start, **moved}, jnp.repeat(jnp.asarray(powers), steps))
    fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(end)]))
    return jax.tree.map(lambda a, b: jnp.where(fine, a, b), end, start)


def ready(e_step: Any, args: Any, kwargs: Any) -> Any:
    """Give what an E-step is called with in place of a program's arguments: prepared once."""
    exact = exact_of(e_step)
    return exact.prepare(args, kwargs) if isinstance(exact, FoldedStep) else args


def carried(e_step: Any) -> dict[str, Array]:
    """Give what an E-step keeps between steps, beside θ, at its beginning."""
    return e_step.begin() if hasattr(e_step, "begin") else {}
