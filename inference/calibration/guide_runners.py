"""The runner of SVI: one guide in whitened coordinates, compiled once for all data sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from triptych.inference.calibration.compiled import Posterior
from triptych.inference.calibration.runners import Drawn, Runner, as_it_is, runner
from triptych.inference.guide_problem import GAUSSIAN, Problem, optimiser_of
from triptych.inference.guides import Resolved, is_point, place_of, resolve, whitened, whitening
from triptych.inference.svi import SVI, block_length, optimise, run_block
from triptych.models.errors import InputError

__all__: list[str] = []  # registered with `runner`

# Guides that keep nothing of the data they were set up with.
REUSABLE = (*GAUSSIAN, "AutoNormal", "AutoIAFNormal", "AutoBNAFNormal")


@runner.register
def _svi(algorithm: SVI, posterior: Posterior) -> Runner:
    """Fit the guide in whitened coordinates, and draw from it."""
    if is_point(algorithm.guide):
        raise InputError("A point has no posterior to calibrate: choose a guide with a spread.")
    size = posterior.space.size
    guide = _guide(algorithm, whitened(size), size)
    if guide is None:
        return as_it_is(algorithm)
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
        call = (start.density, *place_of(start, matrix))
        problem = Problem(program, resolved, posterior.m, start, matrix, (call, {}), svi)
        found = optimise(algorithm, problem, key_run, None, partial(block, call))
        z = np.asarray(draw(key_draws, dict(found.parameters), call))
        u = start.centre + (z * matrix if matrix.ndim == 1 else z @ matrix.T)
        return Drawn(posterior.natural(u[None]), found.status.ok)

    return run


def _guide(algorithm: SVI, program: Any, size: int) -> tuple[Any, Resolved] | None:
    """Make the guide once; `None` for one that keeps something of the data or is the user's own."""

    class Shape(NamedTuple):
        centre: np.ndarray

    resolved = resolve(algorithm.guide, program, Shape(np.zeros(size)), algorithm.guide_options)  # type: ignore[arg-type]
    return (program, resolved) if not resolved.own and resolved.name in REUSABLE else None
