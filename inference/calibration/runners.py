"""From a method and a data set to draws of its posterior, compiled once for all data sets of one shape.

A method's own `run` does more than draw (it aligns labels, weighs evidence, keeps a `Fit`) and compiles its
loops for the data at hand, which takes seconds each time. The runners here take the same steps, by the same
functions, with the data as arguments. A method without a runner is run as it is.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import partial, singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.calibration.compiled import Posterior
from triptych.inference.curvature import principal_factor
from triptych.inference.em import EM, has_kernel
from triptych.inference.em.derived import DerivedKernel
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.em.regression_kernel import RegressionKernel, log_posterior
from triptych.inference.em.search import long_runs, short_runs
from triptych.inference.gibbs.algorithm import INSTEAD, Gibbs, bound, conjugate_kernel, sample
from triptych.inference.guide_problem import GAUSSIAN, Problem, optimiser_of
from triptych.inference.guides import Resolved, is_point, resolve, whitening
from triptych.inference.laplace import find_mode, hessian
from triptych.inference.laplace_method import Laplace
from triptych.inference.mcmc import DENSE, MCMC, overdispersed
from triptych.inference.posterior import draws as draws_of
from triptych.inference.starts import Start, around
from triptych.inference.status import Status
from triptych.inference.svi import SVI, block_length, optimise, run_block
from triptych.inference.unconstrained import coordinates
from triptych.models.errors import InferenceWarning, InputError

__all__ = ["Drawn", "Runner", "runner"]

# Guides that keep nothing of the data they were set up with.
REUSABLE = (*GAUSSIAN, "AutoNormal", "AutoIAFNormal", "AutoBNAFNormal")


class Drawn(NamedTuple):
    """Draws of a posterior, site → (chain, draw, …), and whether the method called them good."""

    samples: dict[str, np.ndarray]
    ok: bool


Runner = Callable[[jax.Array, tuple[Any, ...], Mapping[str, Any]], Drawn]


@singledispatch
def runner(algorithm: Any, posterior: Posterior) -> Runner:
    """Make the function (key, args, kwargs) → draws of an algorithm; `register` that of another method."""
    del posterior
    if hasattr(algorithm, "run"):
        return _as_it_is(algorithm)
    if not callable(algorithm):
        raise InputError("The algorithm has no `run` and is no function (key, *args) → draws: give one.")
    function: Any = algorithm

    def call(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        found = {site: np.asarray(value)[None] for site, value in function(key, *args, **kwargs).items()}
        return Drawn(found, True)

    return call


def _as_it_is(algorithm: Any) -> Runner:
    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InferenceWarning)  # counted
            fit = algorithm.run(key, *args, **kwargs)
        return Drawn(draws_of(fit), bool(fit.status.ok))

    return run


@runner.register
def _em(algorithm: EM, posterior: Posterior) -> Runner:
    """Climb, and draw from Laplace's Gaussian at the mode next to EM's optimum."""
    if algorithm.objective != "map" or algorithm.draws == 0:
        raise InputError(
            "What is calibrated is a posterior: give EM objective='map' and `draws` around its optimum."
        )
    bound = _binding(algorithm, posterior)
    kernel = bound(posterior.example)
    if type(algorithm) is EM and isinstance(kernel, RegressionKernel):
        return _regression(algorithm, kernel)
    reusable = isinstance(kernel, MixtureKernel) or (
        isinstance(kernel, DerivedKernel) and kernel.exact and not kernel.problem.shape.integrates
    )
    if type(algorithm) is not EM or not reusable:
        return _as_it_is(algorithm)

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        arrays = posterior.arrays(args, kwargs)
        key_climb, key_draws = jax.random.split(key)
        point, ok = _optimum(algorithm, key_climb, bound(arrays))
        target = posterior.target(arrays)
        u = np.asarray(posterior.unconstrain({s: point[s] for s in posterior.space.sites}))
        mode, precision, found = find_mode(target.value_and_grad, target.curvature, u)
        factor, _, _ = principal_factor(precision, posterior.space)
        noise = np.asarray(jax.random.normal(key_draws, (algorithm.draws, factor.shape[1])))
        return Drawn(posterior.natural((mode + noise @ factor.T)[None]), ok and found)

    return run


def _regression(algorithm: EM, example: RegressionKernel) -> Runner:
    """Draw λ and β from Laplace's Gaussian on the log evidence, w and the intercept exactly given them."""
    space = coordinates({site: ((), support) for site, support in example.supports.items()})

    def density(problem: Any, u: Any) -> jax.Array:
        return space.density(partial(log_posterior, problem, example.intercept))(u)

    value_and_grad = jax.jit(jax.value_and_grad(density, argnums=1))
    curvature = jax.jit(lambda problem, u: -hessian(partial(density, problem), u))
    constrain = jax.jit(jax.vmap(space.constrain))

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        key_climb, key_draws = jax.random.split(key)
        kernel: Any = algorithm.bind(*args, **kwargs)
        point, ok = _optimum(algorithm, key_climb, kernel)
        at = partial(value_and_grad, kernel.problem), partial(curvature, kernel.problem)
        mode, precision, found = find_mode(*at, np.log([float(point[site]) for site in space.sites]))
        factor, _, _ = principal_factor(precision, space)
        noise = np.asarray(jax.random.normal(key_draws, (algorithm.draws, factor.shape[1])))
        drawn = constrain(jnp.asarray(mode + noise @ factor.T))
        samples = {site: np.asarray(value)[None] for site, value in drawn.items()}
        return Drawn(kernel.with_weights(key_draws, samples), ok and found)

    return run


def _binding(algorithm: EM, posterior: Posterior) -> Callable[[Any], Any]:
    """Give arrays → kernel; a derived one is derived once, what was proved of the program holding for all."""
    program = posterior.m.program
    if has_kernel(algorithm.model) and (algorithm.latents, algorithm.e_step, algorithm.m_step) == (
        None,
        "exact",
        "auto",
    ):
        return lambda arrays: algorithm.bind(*map(np.asarray, arrays))
    first: Any = dataclasses.replace(algorithm, model=program).bind(*posterior.example)

    def again(arrays: Any) -> Any:
        return dataclasses.replace(first, problem=dataclasses.replace(first.problem, args=tuple(arrays)))

    return again


def _optimum(algorithm: EM, key: jax.Array, kernel: Any) -> tuple[dict[str, np.ndarray], bool]:
    """Take EM's short and long runs: the best end point in the user's units, and whether it is one."""
    start = short_runs(algorithm, kernel, *jax.random.split(key))
    ends = long_runs(algorithm, kernel, start, None)
    height = np.where(np.isfinite(ends.objective), ends.objective, -np.inf)
    best = int(np.argmax(height))
    if ends.status[best] is Status.NON_FINITE:
        raise InputError("EM found no point with a finite objective.")
    point = {name: np.asarray(value)[best] for name, value in ends.parameters.items()}
    return kernel.outward(point), ends.status[best].ok


def _beginning(model: Any, posterior: Posterior) -> Callable[[jax.Array, Any], Start]:
    """Give (key, arrays) → the mode next to EM's optimum, or the best of several climbs, and the scales."""
    climber = EM(model, draws=0) if has_kernel(model) else None

    def begin(key: jax.Array, arrays: Any) -> Start:
        if climber is None:
            return posterior.search(key, arrays)
        key_climb, key_mode = jax.random.split(key)
        point, _ = _optimum(climber, key_climb, climber.bind(*map(np.asarray, arrays)))
        u = np.asarray(posterior.unconstrain({s: point[s] for s in posterior.space.sites}), float)
        return around(key_mode, posterior.target(arrays), u)

    return begin


@runner.register
def _laplace(algorithm: Laplace, posterior: Posterior) -> Runner:
    """Draw from the Gaussian at the mode."""
    begin = _beginning(algorithm.model, posterior)

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        key_start, key_draws = jax.random.split(key)
        start = begin(key_start, posterior.arrays(args, kwargs))
        if start.factor is None:
            raise InputError(
                "The parameters are too many for a Hessian: Laplace's approximation has no draws."
            )
        noise = np.asarray(jax.random.normal(key_draws, (algorithm.draws, start.factor.shape[1])))
        return Drawn(posterior.natural((start.centre + noise @ start.factor.T)[None]), True)

    return run


@runner.register
def _mcmc(algorithm: MCMC, posterior: Posterior) -> Runner:
    """Find a mode as `MCMC.run` does, and walk from around it."""
    begin = _beginning(algorithm.model, posterior)

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        key_start, key_jitter, key_run = jax.random.split(key, 3)
        start = begin(key_start, posterior.arrays(args, kwargs))
        points = overdispersed(key_jitter, start, algorithm.chains)
        size = len(start.centre)
        mass = np.eye(size)
        if start.factor is not None and start.factor.shape[1] == size:
            relative = start.factor / start.scale[:, None]
            mass = relative @ relative.T
        z, diverging = _walk(
            start.density,
            start.centre,
            start.scale,
            mass if size <= DENSE else np.diag(mass),
            jax.random.split(key_run, algorithm.chains),
            points,
            settings=(algorithm.warmup, algorithm.draws, algorithm.target_accept, algorithm.max_tree_depth),
        )
        u = start.centre + start.scale * np.asarray(z)
        return Drawn(posterior.natural(u), bool(np.mean(diverging) <= 0.01))

    return run


@runner.register
def _gibbs(algorithm: Gibbs, posterior: Posterior) -> Runner:
    """Sweep from around EM's optimum, as `Gibbs.run` does."""
    climber = EM(algorithm.model, draws=0)

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        key_start, key_run = jax.random.split(key)
        kernel = conjugate_kernel("Gibbs", INSTEAD, algorithm.model, args, kwargs)
        pivot, _ = _optimum(climber, key_start, climber.bind(*args, **kwargs))
        mixture = isinstance(kernel, MixtureKernel)
        states = sample(algorithm, bound(kernel), kernel.inward(pivot) if mixture else pivot, key_run, None)
        samples = kernel.outward(states) if mixture else states
        return Drawn({site: np.asarray(samples[site]) for site in posterior.space.sites}, True)

    return run


@partial(jax.jit, static_argnames=("settings",))
def _walk(
    density: Any, centre: Any, scale: Any, mass: Any, keys: Any, points: Any, *, settings: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    """Run NUTS on z, u = centre + scale · z, as `mcmc` does: z (chain, draw, p) and which steps diverged."""
    from numpyro.infer import NUTS

    warmup, count, accept, depth = settings
    kernel = NUTS(
        potential_fn=lambda z: -density(centre + scale * z),
        dense_mass=mass.ndim == 2,
        inverse_mass_matrix=mass,
        target_accept_prob=accept,
        max_tree_depth=depth,
    )
    state = kernel.init(keys, warmup, points, (), {})
    state = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)

    def transition(state: Any, _: None) -> tuple[Any, tuple[Any, Any]]:
        state = kernel.sample(state, (), {})
        return state, (state.z, state.diverging)

    _, (z, diverging) = jax.lax.scan(transition, state, None, length=warmup + count)
    return jnp.swapaxes(z[warmup:], 0, 1), jnp.swapaxes(diverging[warmup:], 0, 1)


@runner.register
def _svi(algorithm: SVI, posterior: Posterior) -> Runner:
    """Fit the guide in whitened coordinates, and draw from it."""
    if is_point(algorithm.guide):
        raise InputError("A point has no posterior to calibrate: choose a guide with a spread.")
    size = posterior.space.size
    guide = _guide(algorithm, _whitened(size), size)
    if guide is None:
        return _as_it_is(algorithm)
    program, resolved = guide
    svi = optimiser_of(algorithm, program, resolved.guide)
    length = block_length(algorithm.steps)
    block = jax.jit(lambda call, state, rate: run_block(svi, call, {}, state, rate, length))

    @jax.jit
    def draw(key: jax.Array, parameters: Any, call: Any) -> jax.Array:
        from numpyro import handlers

        def one(key: jax.Array) -> jax.Array:
            seeded = handlers.substitute(handlers.seed(resolved.guide, key), data=parameters)
            return handlers.trace(seeded).get_trace(*call)["z"]["value"]

        return jax.lax.map(one, jax.random.split(key, algorithm.draws))

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        key_start, key_run, key_draws = jax.random.split(key, 3)
        start = posterior.search(key_start, posterior.arrays(args, kwargs))
        matrix = whitening(start, algorithm.guide)
        call = (start.density, jnp.asarray(start.centre), jnp.asarray(matrix))
        problem = Problem(program, resolved, posterior.m, start, matrix, (call, {}), svi)
        found = optimise(algorithm, problem, key_run, None, partial(block, call))
        z = np.asarray(draw(key_draws, dict(found.parameters), call))
        u = start.centre + (z * matrix if matrix.ndim == 1 else z @ matrix.T)
        return Drawn(posterior.natural(u[None]), found.status.ok)

    return run


def _whitened(size: int) -> Callable[..., None]:
    """Give the posterior of any data as a program of one site z, u = centre + W z (up to a constant)."""
    import numpyro
    from numpyro.distributions import ImproperUniform, constraints

    def program(density: Any, centre: Any, matrix: Any) -> None:
        z = numpyro.sample("z", ImproperUniform(constraints.real_vector, (), (size,)))
        with numpyro.handlers.block():
            value = density(centre + (matrix * z if matrix.ndim == 1 else matrix @ z))
        numpyro.factor("log_density", value)

    return program


def _guide(algorithm: SVI, program: Any, size: int) -> tuple[Any, Resolved] | None:
    """Make the guide once; `None` for one that keeps something of the data or is the user's own."""

    class Shape(NamedTuple):
        centre: np.ndarray

    resolved = resolve(algorithm.guide, program, Shape(np.zeros(size)), algorithm.guide_options)  # type: ignore[arg-type]
    return (program, resolved) if not resolved.own and resolved.name in REUSABLE else None
