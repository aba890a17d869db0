"""Runners of the methods that walk: NUTS and Gibbs, their loops compiled once for all data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from triptych.inference.calibration.compiled import Posterior
from triptych.inference.calibration.runners import Drawn, Runner, beginning, optimum, runner
from triptych.inference.em import EM
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.gibbs.algorithm import INSTEAD, Gibbs, bound, conjugate_kernel, sample
from triptych.inference.mcmc import MCMC
from triptych.inference.mcmc import sample as walk_from
from triptych.inference.sharing import sharing

__all__: list[str] = []  # registered with `runner`


@runner.register
def _mcmc(algorithm: MCMC, posterior: Posterior) -> Runner:
    """Find a mode as `MCMC.run` does, and walk from around it."""
    begin = beginning(algorithm.model, posterior)
    compiled: dict[Any, Any] = {}

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        key_start, key_jitter, key_run = jax.random.split(key, 3)
        start = begin(key_start, posterior.arrays(args, kwargs))
        with sharing(compiled):
            walked = walk_from(algorithm, start, key_jitter, key_run, None)
        return Drawn(posterior.natural(walked.u), bool(np.mean(walked.statistics["diverging"]) <= 0.01))

    return run


@runner.register
def _gibbs(algorithm: Gibbs, posterior: Posterior) -> Runner:
    """Sweep from around EM's optimum, as `Gibbs.run` does."""
    climber = EM(algorithm.model, draws=0)

    def run(key: jax.Array, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Drawn:
        key_start, key_run = jax.random.split(key)
        kernel = conjugate_kernel("Gibbs", INSTEAD, algorithm.model, args, kwargs)
        pivot, _ = optimum(climber, key_start, climber.bind(*args, **kwargs))
        mixture = isinstance(kernel, MixtureKernel)
        states = sample(algorithm, bound(kernel), kernel.inward(pivot) if mixture else pivot, key_run, None)
        samples = kernel.outward(states) if mixture else states
        return Drawn({site: np.asarray(samples[site]) for site in posterior.space.sites}, True)

    return run
