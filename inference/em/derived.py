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

from triptych.inference.arguments import with_arrays
from triptych.inference.em.choices import by_gradient, maker_of
from triptych.inference.em.conditional_step import ConditionalStep
from triptych.inference.em.derived_problem import (
    DerivedProblem,
    Shape,
    carried,
    draw_latents,
    latent_means,
    log_likelihoods,
    random_starts,
    ready,
    settled_guide,
)
from triptych.inference.em.e_steps import Annealed, Bound, HardStep, exact_of
from triptych.inference.em.expected import Joint
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.folded import FoldedStep
from triptych.inference.em.kernel import Call, Kernel, Review, Start
from triptych.inference.em.maximiser import Block, Point, read_blocks
from triptych.inference.em.posterior import around_marginal
from triptych.inference.em.random_starts import scattered
from triptych.inference.em.roles import roles_of
from triptych.inference.em.variational import profile
from triptych.inference.laplace import GaussianApproximation, laplace_from_density
from triptych.inference.survey import survey
from triptych.models.errors import InputError

__all__ = ["DerivedKernel", "derive"]


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
        points = random_starts(self.problem, keys, chosen)
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
        return given | carried(self.problem.shape.e_step)

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Give the parameters as NumPy arrays, with the posterior mean of the continuous latents."""
        natural = {name: np.asarray(parameters[name]) for name in self.problem.shape.sites}
        if not self.problem.shape.integrates:
            return natural
        means = latent_means(self.problem, dict(parameters))
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
        return isinstance(self.problem.shape.e_step, Joint | FoldedStep | ConditionalStep)

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
    ) -> tuple[GaussianApproximation, dict[str, np.ndarray]]:
        """Laplace on the marginal; continuous latents exactly, given each draw of the parameters."""
        shape, problem = self.problem.shape, self.problem
        if not shape.integrates:
            return around_marginal(
                self.program, parameters, problem.args, problem.kwargs, objective, key, draws
            )
        e_step, supports = shape.e_step, dict(shape.supports)
        start = {name: parameters[name] for name in shape.sites}
        if hasattr(e_step, "carry"):  # the guide is a parameter like θ: what it costs θ is in the curvature
            start |= settled_guide(problem, {**start, **e_step.begin()})
            supports |= dict.fromkeys(e_step.begin(), constraints.real)  # in the guide's own order

        def log_density(theta: Parameters) -> Array:
            if hasattr(e_step, "log_density"):
                return e_step.log_density(theta, problem.args, problem.kwargs)
            return problem.infer(theta)[1]

        gaussian = laplace_from_density(log_density, start, supports, objective=objective)
        guides: dict[str, Any] = {}
        if hasattr(e_step, "carry") and gaussian.factor is not None:
            gaussian, follow = profile(gaussian, tuple(shape.sites))
            guides = follow(gaussian.unconstrained(key, draws)[0])
        drawn = gaussian.draws(key, draws)  # where there is no curvature, the optimum with its guide
        samples = {name: drawn[name] for name in shape.sites}
        count = len(next(iter(samples.values()))[0])
        flat = {name: jnp.asarray(value[0]) for name, value in drawn.items()} | guides
        latents = draw_latents(problem, flat, jax.random.split(jax.random.fold_in(key, 1), count))
        return gaussian, samples | {name: np.asarray(value)[None] for name, value in latents.items()}

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Give log p(x | θ) at each point."""
        return [Review(float(value), ()) for value in np.asarray(log_likelihoods(self.problem, parameters))]


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
    climbed = by_gradient(call.m_step, maximised)
    key = jax.random.key(0)  # of the probes alone: where a shape is verified, not what is answered
    first, *others = scattered(maximised, 4)
    point = {
        name: jnp.asarray(value) for name, value in first.items()
    }  # NumPy's cannot be indexed by a tracer
    maker = maker_of(call.e_step)
    everything = Bound(program, args, kwargs, sites, roles.latents, point, frozenset())
    flat = frozenset(maximised)
    if call.objective == "mle":
        step = likelihood = maker.make(everything._replace(ignored=flat))
    else:
        step = maker.make(everything)
        enumerated = isinstance(exact_of(step), Joint | FoldedStep)
        likelihood = step.without(flat) if enumerated else maker.make(everything._replace(ignored=flat))
    blocks: tuple[Block, ...] = ()
    given = ready(step, args, kwargs)
    if climbed is not None:
        posterior = jax.jit(partial(step.noise, key, 1.0))(point | carried(step), given, kwargs)
        expected = partial(step.expected, posterior=posterior, args=given, kwargs=kwargs)
        near = {name: np.stack([one[name] for one in others]) for name in point}
        blocks = read_blocks(expected, Point(point, supports), near, climbed)
    own = call.m_step if climbed is None else None
    annealing = (maker.powers, maker.steps) if isinstance(maker, Annealed) else ((), 0)
    rows = max([np.prod(shape[:1], dtype=float) for shape in sites.observed.values()] or [1.0])
    dtypes = [array.dtype for array in args if jnp.issubdtype(array.dtype, jnp.floating)]
    epsilon = max(float(jnp.finfo(dtype).eps) for dtype in [*dtypes, np.dtype(np.float64)])
    shape = Shape(step, likelihood, blocks, maximised, own, annealing)
    problem = DerivedProblem(args, kwargs, shape, given)
    return DerivedKernel(model, program, problem, float(rows), epsilon, roles.reasons)
