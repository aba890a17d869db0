"""EM for a program that nobody wrote a kernel for: any E-step, with the M-step read off the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from triptych.inference.em.choices import maker_of
from triptych.inference.em.conditional_step import ConditionalStep
from triptych.inference.em.e_steps import Annealed, Bound, HardStep
from triptych.inference.em.expected import Joint
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.kernel import Call, Kernel, Review, Start
from triptych.inference.em.maximiser import Block, Expected, Point, maximise, read_blocks
from triptych.inference.em.posterior import around_marginal
from triptych.inference.em.random_starts import jitter, middle, random_start
from triptych.inference.em.roles import roles_of
from triptych.inference.em.variational import profile
from triptych.inference.laplace import Laplace, laplace_from_density
from triptych.inference.survey import Parameter, survey
from triptych.models.errors import InputError

__all__ = ["DerivedKernel", "DerivedProblem", "derive"]


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


@partial(jax.tree_util.register_dataclass, data_fields=["args", "kwargs"], meta_fields=["shape"])
@dataclasses.dataclass(frozen=True)
class DerivedProblem:
    """A program bound to its data: what one derived EM step reads."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Shape

    def infer(self, parameters: Parameters, sharpness: Any = 1.0) -> tuple[Any, Array]:
        """E-step at θ: the posterior of the latents, and the objective (nats)."""
        return self.shape.e_step.infer(parameters, self.args, self.kwargs, sharpness)

    def expected(self, parameters: Parameters, posterior: Any) -> Array:
        """Q(θ') under a posterior, nats."""
        return self.shape.e_step.expected(parameters, posterior, self.args, self.kwargs)

    def maximise(self, posterior: Any, parameters: Parameters) -> Parameters:
        """M-step: from θ up Q under a posterior; what an E-step keeps beside θ is renewed."""
        shape = self.shape
        expected = partial(self.expected, posterior=posterior)
        if shape.m_step is not None:
            following = {**parameters, **shape.m_step(expected, parameters)}
        else:
            following = maximise(shape.blocks, expected, parameters, shape.supports)
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


@dataclasses.dataclass(frozen=True)
class DerivedKernel:
    """A program bound to its data; parameters are in the program's own units."""

    model: Callable[..., Any]
    program: Callable[..., Any]  # the model as a function of its arrays alone
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
        points = _starts(self.problem, keys, chosen)
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
        given = {name: jnp.asarray(parameters[name], jnp.float64) for name in sites}
        return given | _carried(self.problem.shape.e_step)

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Give the parameters as NumPy arrays, with the posterior mean of the continuous latents."""
        natural = {name: np.asarray(parameters[name]) for name in self.problem.shape.sites}
        if not self.problem.shape.integrates:
            return natural
        means = _latent_means(self.problem, dict(parameters))
        return natural | {name: np.asarray(value) for name, value in means.items()}

    @property
    def integrated(self) -> dict[str, str]:
        """Latent → how the E-step takes it: said by `explain`."""
        return {}

    @property
    def supports(self) -> dict[str, Any]:
        """Site → NumPyro constraint."""
        return self.problem.shape.supports

    @property
    def exact(self) -> bool:
        """Whether the E-step is the posterior itself, so that Q and the objective belong together."""
        return isinstance(self.problem.shape.e_step, Joint | ConditionalStep)

    @property
    def has_posterior(self) -> bool:
        """Whether draws around the optimum mean something: not where the latents were fixed at their best."""
        return not isinstance(self.problem.shape.e_step, HardStep)

    def natural_errors(self, errors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Give standard errors in the program's own units: they are."""
        return dict(errors)

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
        if not shape.integrates:
            return around_marginal(
                self.program, parameters, problem.args, problem.kwargs, objective, key, draws
            )
        e_step, supports = shape.e_step, dict(shape.supports)
        start = {name: parameters[name] for name in shape.sites}
        if hasattr(e_step, "carry"):  # the guide is a parameter like θ: what it costs θ is in the curvature
            start |= _guide(problem, {**start, **e_step.begin()})
            supports |= dict.fromkeys(e_step.begin(), constraints.real)  # in the guide's own order

        def log_density(theta: Parameters) -> Array:
            if hasattr(e_step, "log_density"):
                return e_step.log_density(theta, problem.args, problem.kwargs)
            return problem.infer(theta)[1]

        gaussian = laplace_from_density(log_density, start, supports, objective=objective)
        carried: dict[str, Any] = {}
        if hasattr(e_step, "carry") and gaussian.factor is not None:
            gaussian, follow = profile(gaussian, tuple(shape.sites))
            carried = follow(gaussian.unconstrained(key, draws)[0])
        drawn = gaussian.draws(key, draws)  # where there is no curvature, the optimum with its guide
        samples = {name: drawn[name] for name in shape.sites}
        count = len(next(iter(samples.values()))[0])
        flat = {name: jnp.asarray(value[0]) for name, value in drawn.items()} | carried
        latents = _draw_latents(problem, flat, jax.random.split(jax.random.fold_in(key, 1), count))
        return gaussian, samples | {name: np.asarray(value)[None] for name, value in latents.items()}

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Give log p(x | θ) at each point."""
        return [Review(float(value), ()) for value in np.asarray(_log_likelihoods(self.problem, parameters))]


@jax.jit
def _log_likelihoods(problem: DerivedProblem, parameters: Parameters) -> Array:
    likelihood = problem.shape.likelihood
    return jax.lax.map(lambda point: likelihood.infer(point, problem.args, problem.kwargs)[1], parameters)


@jax.jit
def _latent_means(problem: DerivedProblem, parameters: Parameters) -> Parameters:
    return problem.shape.e_step.means(problem.infer(parameters)[0])


@jax.jit
def _guide(problem: DerivedProblem, parameters: Parameters) -> Parameters:
    """Climb the ELBO over the guide alone, from its beginning."""
    e_step = problem.shape.e_step

    def again(carried: Parameters, _: None) -> tuple[Parameters, None]:
        return e_step.carry(problem.infer({**parameters, **carried})[0]), None

    return jax.lax.scan(again, {name: parameters[name] for name in e_step.begin()}, length=GUIDE_ROUNDS)[0]


@jax.jit
def _draw_latents(problem: DerivedProblem, samples: Parameters, keys: jax.Array) -> Parameters:
    """One draw of the continuous latents for each draw of θ."""
    e_step = problem.shape.e_step

    def one(arguments: tuple[Parameters, jax.Array]) -> Parameters:
        theta, key = arguments
        if hasattr(e_step, "at"):  # the guide is drawn too
            return e_step.draw(key, e_step.at(theta))
        return e_step.draw(key, problem.infer(theta)[0])

    return jax.lax.map(one, (samples, keys))


@jax.jit
def _starts(problem: DerivedProblem, keys: jax.Array, partitions: Array) -> Parameters:
    shape = problem.shape
    point = middle(shape.sites)

    def one(arguments: tuple[jax.Array, Array]) -> Parameters:
        key, partition = arguments
        near = jitter(jax.random.fold_in(key, 1), point, shape.supports) | _carried(shape.e_step)
        start = random_start(
            key, partition, shape.e_step, problem.maximise, near, problem.args, problem.kwargs
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


def _carried(e_step: Any) -> dict[str, Array]:
    """Give what an E-step keeps between steps, beside θ, at its beginning."""
    return e_step.begin() if hasattr(e_step, "begin") else {}


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
    program, args = with_arrays(model, call.args, call.kwargs)
    kwargs: dict[str, Any] = {}
    sites = survey(program, args, kwargs)
    if not sites.parameters:
        raise InputError("The program has no continuous site to maximise: EM has nothing to do.")
    roles = roles_of(program, sites, args, kwargs, call.latents)
    maximised = {name: sites.parameters[name] for name in roles.parameters}
    supports = {name: site.support for name, site in maximised.items()}
    by_gradient = _by_gradient(call.m_step, maximised)
    key = jax.random.key(0)  # of the probes alone: where a shape is verified, not what is answered
    point = jax.jit(lambda key: jitter(key, middle(maximised), supports))(key)
    maker = maker_of(call.e_step)
    everything = Bound(program, args, kwargs, sites, roles.latents, point, frozenset())
    likelihood = maker.make(everything._replace(ignored=frozenset(maximised)))
    step = likelihood if call.objective == "mle" else maker.make(everything)
    blocks: tuple[Block, ...] = ()
    if by_gradient is not None:
        posterior = jax.jit(partial(step.noise, key, 1.0))(point | _carried(step), args, kwargs)
        expected = partial(step.expected, posterior=posterior, args=args, kwargs=kwargs)
        blocks = read_blocks(expected, Point(point, supports), key, by_gradient)
    own = call.m_step if by_gradient is None else None
    annealing = (maker.powers, maker.steps) if isinstance(maker, Annealed) else ((), 0)
    rows = max([np.prod(shape[:1], dtype=float) for shape in sites.observed.values()] or [1.0])
    dtypes = [array.dtype for array in args if jnp.issubdtype(array.dtype, jnp.floating)]
    epsilon = max(float(jnp.finfo(dtype).eps) for dtype in [*dtypes, np.dtype(np.float64)])
    shape = Shape(step, likelihood, blocks, maximised, own, annealing)
    problem = DerivedProblem(args, kwargs, shape)
    return DerivedKernel(model, program, problem, float(rows), epsilon, roles.reasons)


def _by_gradient(m_step: Any, sites: Mapping[str, Parameter]) -> frozenset[str] | None:
    """Say which sites are climbed by the gradient, whatever their shape; `None`: by the user's own M-step.

    Raises
    ------
    InputError : `m_step` is none of its choices.
    """
    if callable(m_step):
        return None
    if m_step in ("auto", "gradient"):
        return frozenset(sites) if m_step == "gradient" else frozenset()
    choices = m_step if isinstance(m_step, Mapping) else {}
    if not choices or set(choices.values()) - {"auto", "gradient"} or set(choices) - set(sites):
        raise InputError(
            f"`m_step` is {m_step!r}: choose 'auto', 'gradient', one of them for each site (a dict; "
            f"the sites are {', '.join(sites)}), or a function (expected, parameters) → parameters."
        )
    return frozenset(site for site, how in choices.items() if how == "gradient")


def with_arrays(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[jax.Array, ...]]:
    """Give a model as a program of its arrays alone: sizes, names and flags stay what they are."""
    leaves, tree = jax.tree.flatten((args, dict(kwargs)))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | np.generic | jax.Array)]

    def program(*arrays: Any) -> Any:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        given, named = jax.tree.unflatten(tree, filled)
        return model(*given, **named)

    program.__name__ = getattr(model, "__name__", type(model).__name__)
    return program, tuple(jnp.asarray(leaves[place]) for place in places)
