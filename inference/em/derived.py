"""EM for a program that nobody wrote a kernel for: E-step by enumeration, M-step read off the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.expected import Joint, joint_of
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.gaussian_step import Completions, GaussianStep, gaussian_step
from triptych.inference.em.kernel import Call, Kernel, Review, Start
from triptych.inference.em.maximiser import Block, Point, maximise, read_blocks
from triptych.inference.em.posterior import around_marginal
from triptych.inference.em.roles import roles_of
from triptych.inference.laplace import Laplace, laplace_from_density
from triptych.inference.survey import Parameter, survey
from triptych.models.errors import InputError

__all__ = ["DerivedKernel", "DerivedProblem", "derive"]

SHARPNESS = (50.0, 20.0, 10.0, 5.0, 2.0)  # powers of the posterior on the way from a random partition


class EStep(Protocol):
    """What the M-step needs of an E-step: what it found, and the expected log joint under it."""

    def infer(self, parameters: Parameters, args: Any, kwargs: Any) -> tuple[Any, Array]:
        """Give the posterior of the latents at θ, and the objective there (nats)."""
        ...

    def expected(self, parameters: Parameters, posterior: Any, args: Any, kwargs: Any) -> Array:
        """Give Q(θ'), nats."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """What is static of a derived problem, compared by identity."""

    e_step: EStep
    likelihood: EStep
    blocks: tuple[Block, ...]
    sites: Mapping[str, Parameter]

    @property
    def supports(self) -> dict[str, Any]:
        """Site → NumPyro constraint, of the sites maximised."""
        return {name: site.support for name, site in self.sites.items()}


@partial(jax.tree_util.register_dataclass, data_fields=["args", "kwargs"], meta_fields=["shape"])
@dataclasses.dataclass(frozen=True)
class DerivedProblem:
    """A program bound to its data: what one derived EM step reads."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Shape

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, Any]:
        """θ → (argmax Q(· | θ), objective at θ in nats, the posterior of the latents)."""
        posterior, objective = self.shape.e_step.infer(parameters, self.args, self.kwargs)
        expected = partial(
            self.shape.e_step.expected, posterior=posterior, args=self.args, kwargs=self.kwargs
        )
        following = maximise(self.shape.blocks, expected, parameters, self.shape.supports)
        return following, objective, posterior


@dataclasses.dataclass(frozen=True)
class DerivedKernel:
    """A program bound to its data; parameters are in the program's own units."""

    model: Callable[..., Any]
    problem: DerivedProblem
    count: float
    epsilon: float
    reasons: Mapping[str, str]  # site → why it is a latent, or a parameter

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Make random posteriors of the latents, then M-steps; every other one ends as a random partition."""
        recipes = ("random_responsibilities", "random_partition")
        if init not in ("portfolio", *recipes):
            raise InputError(
                f"`starts={init!r}` is for mixtures: a program has {' and '.join(map(repr, recipes))}."
            )
        chosen = np.arange(number) % 2 if init == "portfolio" else np.full(number, recipes.index(init))
        keys = jax.random.split(key, number)
        points = _random_starts(self.problem, keys, chosen)
        return Start(points, tuple(recipes[index] for index in chosen))

    def sample(self, key: jax.Array, rows: int) -> Kernel:
        """Give the problem itself: which rows a program could do without is not known."""
        del key, rows
        return self

    def inward(self, parameters: Mapping[str, Any]) -> Parameters:
        """Check that every site that is maximised has a start."""
        sites = self.problem.shape.sites
        missing = [name for name in sites if name not in parameters]
        if missing:
            raise InputError(f"`parameters` lacks {', '.join(missing)}: give a start for every site.")
        return {name: jnp.asarray(parameters[name], jnp.float64) for name in sites}

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Give the parameters as NumPy arrays, with the posterior mean of the continuous latents."""
        natural = {name: np.asarray(value) for name, value in parameters.items()}
        if not isinstance(self.problem.shape.e_step, GaussianStep):
            return natural
        completions = _completions(self.problem, parameters)
        return natural | {name: np.asarray(value).mean(axis=0) for name, value in completions.values.items()}

    @property
    def hessian_work(self) -> float:
        """Rows × parameters²."""
        size = sum(np.prod(site.shape) for site in self.problem.shape.sites.values())
        return self.count * float(size) ** 2

    def approximate(
        self, parameters: Mapping[str, np.ndarray], objective: str, key: jax.Array, draws: int
    ) -> tuple[Laplace, dict[str, np.ndarray]]:
        """Laplace on the marginal; continuous latents exactly, given each draw of the parameters."""
        shape, problem = self.problem.shape, self.problem
        if not isinstance(shape.e_step, GaussianStep):
            return around_marginal(
                self.model, parameters, problem.args, problem.kwargs, objective, key, draws
            )

        def log_density(theta: Parameters) -> Array:
            return shape.e_step.infer(theta, problem.args, problem.kwargs)[1]

        start = {name: parameters[name] for name in shape.sites}
        gaussian = laplace_from_density(log_density, start, shape.supports, objective=objective)
        first, second = jax.random.split(key)
        samples = gaussian.draws(first, draws)
        count = len(next(iter(samples.values()))[0])
        flat = {name: jnp.asarray(value[0]) for name, value in samples.items()}
        latents = _draw_latents(problem, flat, jax.random.split(second, count))
        return gaussian, samples | {name: np.asarray(value)[None] for name, value in latents.items()}

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Give log p(x | θ) at each point."""
        return [Review(float(value), ()) for value in np.asarray(_log_likelihoods(self.problem, parameters))]


@jax.jit
def _log_likelihoods(problem: DerivedProblem, parameters: Parameters) -> Array:
    likelihood = problem.shape.likelihood
    return jax.lax.map(lambda point: likelihood.infer(point, problem.args, problem.kwargs)[1], parameters)


@jax.jit
def _completions(problem: DerivedProblem, parameters: Parameters) -> Completions:
    return problem.shape.e_step.infer(parameters, problem.args, problem.kwargs)[0]


@jax.jit
def _draw_latents(problem: DerivedProblem, samples: Parameters, keys: jax.Array) -> Parameters:
    """One draw of the Gaussian latents for each draw of θ: mean plus noise along the completions' axes."""

    def one(arguments: tuple[Parameters, jax.Array]) -> Parameters:
        theta, key = arguments
        completions, _ = problem.shape.e_step.infer(theta, problem.args, problem.kwargs)
        return problem.shape.e_step.draw(key, completions)  # type: ignore[attr-defined]

    return jax.lax.map(one, (samples, keys))


@jax.jit
def _random_starts(problem: DerivedProblem, keys: jax.Array, partitions: Array) -> Parameters:
    shape, e_step = problem.shape, problem.shape.e_step
    middle = _middle(shape.sites)

    def climbed(weights: Any, parameters: Parameters) -> Parameters:
        expected = partial(e_step.expected, posterior=weights, args=problem.args, kwargs=problem.kwargs)
        return maximise(shape.blocks, expected, parameters, shape.supports)

    def sharpen(parameters: Parameters, sharpness: Array) -> tuple[Parameters, None]:
        # Hard assignments pull components apart that a random posterior left almost alike.
        weights, _ = e_step.infer(parameters, problem.args, problem.kwargs, sharpness)  # type: ignore[call-arg]
        return climbed(weights, parameters), None

    def one(arguments: tuple[jax.Array, Array]) -> Parameters:
        key, partition = arguments
        jitter = _jitter(jax.random.fold_in(key, 1), middle, shape.supports)
        if not isinstance(e_step, Joint):
            return climbed(e_step.infer(jitter, problem.args, problem.kwargs)[0], jitter)
        weights = e_step.noise(key, 1.0 + 3.0 * partition, middle, problem.args, problem.kwargs)
        start = climbed(weights, jitter)
        sharp, _ = jax.lax.scan(sharpen, start, jnp.asarray(SHARPNESS))
        fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(sharp)]))
        return jax.tree.map(lambda a, b: jnp.where((partition > 0) & fine, a, b), sharp, start)

    return jax.lax.map(one, (keys, partitions))


def _middle(sites: Mapping[str, Parameter]) -> dict[str, Array]:
    """Give the point of every support that the unconstrained 0 stands for."""
    from numpyro.distributions import biject_to

    values = {}
    for name, site in sites.items():
        transform = biject_to(site.support)
        zero = jnp.zeros(transform.inverse_shape(site.shape), jnp.float64)
        values[name] = jnp.broadcast_to(transform(zero), site.shape)
    return values


def _jitter(key: jax.Array, parameters: Parameters, supports: Mapping[str, Any]) -> dict[str, Array]:
    from numpyro.distributions import biject_to

    moved = {}
    for index, (name, value) in enumerate(parameters.items()):
        transform = biject_to(supports[name])
        inner = transform.inv(value)
        noise = 0.1 * jax.random.normal(jax.random.fold_in(key, index), inner.shape, inner.dtype)
        moved[name] = transform(inner + noise)
    return moved


def derive(model: Callable[..., Any], call: Call) -> DerivedKernel:
    """Derive EM from a program: find its latents, its parameters and how Q can be maximised along each.

    Raises
    ------
    InputError : there is nothing to maximise, or a latent cannot be enumerated; the text names the site.
    """
    if call.sample_weight is not None:
        raise InputError(
            "`sample_weight` needs a hand-written kernel: for a program of your own repeat the rows "
            "(`data: {repeat: column}` in a config)."
        )
    if call.update != "em":
        raise InputError(f"`update={call.update!r}` is for regression: a program has update='em' only.")
    args = jax.tree.map(_array, call.args)
    kwargs = {name: jax.tree.map(_array, value) for name, value in call.kwargs.items()}
    sites = survey(model, args, kwargs)
    if not sites.parameters:
        raise InputError("The program has no continuous site to maximise: EM has nothing to do.")
    roles = roles_of(model, sites, args, kwargs, call.latents)
    maximised = {name: sites.parameters[name] for name in roles.parameters}
    supports = {name: site.support for name, site in maximised.items()}
    key = jax.random.key(0)  # of the probes alone: where a shape is verified, not what is answered
    middle = _jitter(key, _middle(maximised), supports)

    def e_step(ignored: frozenset[str]) -> Any:
        if roles.latents:
            return gaussian_step(model, sites, roles.latents, middle, args, kwargs, ignored)
        return joint_of(model, args, kwargs, ignored)

    likelihood = e_step(frozenset(maximised))
    step = likelihood if call.objective == "mle" else e_step(frozenset())
    if roles.latents:
        posterior = jax.jit(step.infer)(middle, args, kwargs)[0]
    else:
        posterior = jax.jit(partial(step.noise, key, 1.0))(middle, args, kwargs)
    expected = partial(step.expected, posterior=posterior, args=args, kwargs=kwargs)
    blocks = read_blocks(expected, Point(middle, supports), key)
    rows = max([np.prod(shape[:1], dtype=float) for shape in sites.observed.values()] or [1.0])
    leaves = [
        leaf.dtype for leaf in jax.tree.leaves((args, kwargs)) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    epsilon = max([float(jnp.finfo(dtype).eps) for dtype in leaves] or [float(np.finfo(np.float64).eps)])
    problem = DerivedProblem(args, kwargs, Shape(step, likelihood, blocks, maximised))
    return DerivedKernel(model, problem, float(rows), epsilon, roles.reasons)


def _array(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, np.ndarray | np.generic | jax.Array) else value
