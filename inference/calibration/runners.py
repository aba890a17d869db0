"""From a method and a data set to draws of its posterior, compiled once for all data sets of one shape.

A method's own `run` does more than draw (it aligns labels, weighs evidence, keeps a `Fit`) and compiles its
loops for the data at hand, which takes seconds each time. The runners here take the same steps, by the same
functions, with the data as arguments. A method without a runner is run as it is. Here are those of EM and
Laplace; `chain_runners.py` and `guide_runners.py` register theirs.
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
from triptych.inference.laplace import find_mode, hessian
from triptych.inference.laplace_method import Laplace
from triptych.inference.posterior import draws as draws_of
from triptych.inference.starts import Start, around
from triptych.inference.status import Status
from triptych.inference.unconstrained import coordinates
from triptych.models.errors import InferenceWarning, InputError

__all__ = ["Drawn", "Runner", "as_it_is", "beginning", "optimum", "runner"]


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
        return as_it_is(algorithm)
    if not callable(algorithm):
        raise InputError("The algorithm has no `run` and is no function (key, *args) → draws: give one.")
    function: Any = algorithm

    def call(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        found = {site: np.asarray(value)[None] for site, value in function(key, *args, **kwargs).items()}
        return Drawn(found, True)

    return call


def as_it_is(algorithm: Any) -> Runner:
    """Give the runner of a method that has none of its own: its `run`, whatever that compiles."""

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
        return as_it_is(algorithm)

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        arrays = posterior.arrays(args, kwargs)
        key_climb, key_draws = jax.random.split(key)
        point, ok = optimum(algorithm, key_climb, bound(arrays))
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
        point, ok = optimum(algorithm, key_climb, kernel)
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
        return dataclasses.replace(first, problem=first.problem.on(tuple(arrays)))

    return again


def optimum(algorithm: EM, key: jax.Array, kernel: Any) -> tuple[dict[str, np.ndarray], bool]:
    """Take EM's short and long runs: the best end point in the user's units, and whether it is one."""
    start = short_runs(algorithm, kernel, *jax.random.split(key))
    ends = long_runs(algorithm, kernel, start, None)
    height = np.where(np.isfinite(ends.objective), ends.objective, -np.inf)
    best = int(np.argmax(height))
    if ends.status[best] is Status.NON_FINITE:
        raise InputError("EM found no point with a finite objective.")
    point = {name: np.asarray(value)[best] for name, value in ends.parameters.items()}
    return kernel.outward(point), ends.status[best].ok


def beginning(model: Any, posterior: Posterior) -> Callable[[jax.Array, Any], Start]:
    """Give (key, arrays) → the mode next to EM's optimum, or the best of several climbs, and the scales."""
    climber = EM(model, draws=0) if has_kernel(model) else None

    def begin(key: jax.Array, arrays: Any) -> Start:
        if climber is None:
            return posterior.search(key, arrays)
        key_climb, key_mode = jax.random.split(key)
        point, _ = optimum(climber, key_climb, climber.bind(*map(np.asarray, arrays)))
        u = np.asarray(posterior.unconstrain({s: point[s] for s in posterior.space.sites}), float)
        return around(key_mode, posterior.target(arrays), u)

    return begin


@runner.register
def _laplace(algorithm: Laplace, posterior: Posterior) -> Runner:
    """Draw from the Gaussian at the mode."""
    begin = beginning(algorithm.model, posterior)

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
