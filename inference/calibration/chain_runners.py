"""Runners of the methods that walk: NUTS and Gibbs, their loops compiled once for all data sets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.calibration.compiled import Posterior
from triptych.inference.calibration.runners import Drawn, Runner, beginning, optimum, runner
from triptych.inference.em import EM
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.gibbs.algorithm import INSTEAD, Gibbs, bound, conjugate_kernel, sample
from triptych.inference.mcmc import MCMC, overdispersed
from triptych.inference.nuts import DENSE

__all__: list[str] = []  # registered with `runner`


@runner.register
def _mcmc(algorithm: MCMC, posterior: Posterior) -> Runner:
    """Find a mode as `MCMC.run` does, and walk from around it."""
    begin = beginning(algorithm.model, posterior)

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
        pivot, _ = optimum(climber, key_start, climber.bind(*args, **kwargs))
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
