"""EM for a program that nobody wrote a kernel for: E-step by enumeration, M-step read off the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.expected import Joint, joint_of
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.kernel import Call, Kernel, Review, Start
from triptych.inference.em.maximiser import Block, Point, maximise, read_blocks
from triptych.models.errors import InputError

__all__ = ["DerivedKernel", "DerivedProblem", "derive"]

SHARPNESS = (50.0, 20.0, 10.0, 5.0, 2.0)  # powers of the posterior on the way from a random partition


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """What is static of a derived problem, compared by identity."""

    joint: Joint
    blocks: tuple[Block, ...]

    @property
    def supports(self) -> dict[str, Any]:
        """Site → NumPyro constraint."""
        return {name: site.support for name, site in self.joint.sites.parameters.items()}


@partial(
    jax.tree_util.register_dataclass, data_fields=["args", "kwargs"], meta_fields=["shape"]
)
@dataclasses.dataclass(frozen=True)
class DerivedProblem:
    """A program bound to its data: what one derived EM step reads."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Shape

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, Any]:
        """θ → (argmax Q(· | θ), objective at θ in nats, the cells' weights)."""
        joint = self.shape.joint
        weights, objective = joint.weigh(parameters, self.args, self.kwargs)
        expected = partial(joint.expected, weights=weights, args=self.args, kwargs=self.kwargs)
        following = maximise(self.shape.blocks, expected, parameters, self.shape.supports)
        return following, objective, weights


@dataclasses.dataclass(frozen=True)
class DerivedKernel:
    """A program bound to its data; parameters are in the program's own units."""

    model: Callable[..., Any]
    problem: DerivedProblem
    likelihood: Joint
    count: float
    epsilon: float

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Random posteriors of the latents, then M-steps; every other start is sharpened into a random partition."""
        recipes = ("random_responsibilities", "random_partition")
        if init not in ("portfolio", *recipes):
            raise InputError(f"`starts={init!r}` is for mixtures: a program has {' and '.join(map(repr, recipes))}.")
        chosen = np.arange(number) % 2 if init == "portfolio" else np.full(number, recipes.index(init))
        keys = jax.random.split(key, number)
        points = _random_starts(self.problem, keys, chosen)
        return Start(points, tuple(recipes[index] for index in chosen))

    def sample(self, key: jax.Array, rows: int) -> Kernel:
        """Give the problem itself: which rows a program could do without is not known."""
        del key, rows
        return self

    def inward(self, parameters: Mapping[str, Any]) -> Parameters:
        """Check that every site has a start."""
        sites = self.problem.shape.joint.sites.parameters
        missing = [name for name in sites if name not in parameters]
        if missing:
            raise InputError(f"`parameters` lacks {', '.join(missing)}: give a start for every site.")
        return {name: jnp.asarray(parameters[name], jnp.float64) for name in sites}

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Give the parameters as NumPy arrays."""
        return {name: np.asarray(value) for name, value in parameters.items()}

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Give log p(x | θ) at each point."""
        values = np.asarray(_log_likelihoods(self.problem, parameters, self.likelihood))
        return [Review(float(value), ()) for value in values]


@partial(jax.jit, static_argnames=("likelihood",))
def _log_likelihoods(problem: DerivedProblem, parameters: Parameters, likelihood: Joint) -> Array:
    return jax.lax.map(lambda point: likelihood.weigh(point, problem.args, problem.kwargs)[1], parameters)


@jax.jit
def _random_starts(problem: DerivedProblem, keys: jax.Array, partitions: Array) -> Parameters:
    joint, shape = problem.shape.joint, problem.shape
    middle = _middle(joint)

    def climbed(weights: Any, parameters: Parameters) -> Parameters:
        expected = partial(joint.expected, weights=weights, args=problem.args, kwargs=problem.kwargs)
        return maximise(shape.blocks, expected, parameters, shape.supports)

    def sharpen(parameters: Parameters, sharpness: Array) -> tuple[Parameters, None]:
        # Hard assignments pull components apart that a random posterior left almost alike.
        weights, _ = joint.weigh(parameters, problem.args, problem.kwargs, sharpness)
        return climbed(weights, parameters), None

    def one(arguments: tuple[jax.Array, Array]) -> Parameters:
        key, partition = arguments
        weights = joint.noise(key, 1.0 + 3.0 * partition, middle, problem.args, problem.kwargs)
        start = climbed(weights, _jitter(jax.random.fold_in(key, 1), middle, shape.supports))
        sharp, _ = jax.lax.scan(sharpen, start, jnp.asarray(SHARPNESS))
        fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(sharp)]))
        return jax.tree.map(lambda a, b: jnp.where((partition > 0) & fine, a, b), sharp, start)

    return jax.lax.map(one, (keys, partitions))


def _middle(joint: Joint) -> dict[str, Array]:
    """The point of every support that the unconstrained 0 stands for."""
    from numpyro.distributions import biject_to

    values = {}
    for name, site in joint.sites.parameters.items():
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
            "`sample_weight` needs a hand-written kernel: in a program of your own weigh rows with "
            "`numpyro.handlers.scale`, or repeat them."
        )
    if call.update != "em":
        raise InputError(f"`update={call.update!r}` is for regression: a program has update='em' only.")
    args = jax.tree.map(_array, call.args)
    kwargs = {name: jax.tree.map(_array, value) for name, value in call.kwargs.items()}
    joint = joint_of(model, args, kwargs, call.objective)
    if not joint.sites.parameters:
        raise InputError("The program has no continuous site to maximise: EM has nothing to do.")
    likelihood = joint if call.objective == "mle" else joint_of(model, args, kwargs, "mle")
    key = jax.random.key(0)  # of the probes alone: where a shape is verified, not what is answered
    middle = _jitter(key, _middle(joint), {n: s.support for n, s in joint.sites.parameters.items()})
    weights = jax.jit(partial(joint.noise, key, 1.0))(middle, args, kwargs)
    supports = {name: site.support for name, site in joint.sites.parameters.items()}
    expected = partial(joint.expected, weights=weights, args=args, kwargs=kwargs)
    blocks = read_blocks(expected, Point(middle, supports), key)
    rows = max([np.prod(shape[:1], dtype=float) for shape in joint.sites.observed.values()] or [1.0])
    leaves = [leaf.dtype for leaf in jax.tree.leaves((args, kwargs)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    epsilon = max([float(jnp.finfo(dtype).eps) for dtype in leaves] or [float(np.finfo(np.float64).eps)])
    return DerivedKernel(model, DerivedProblem(args, kwargs, Shape(joint, blocks)), likelihood, float(rows), epsilon)


def _array(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, np.ndarray | np.generic | jax.Array) else value
