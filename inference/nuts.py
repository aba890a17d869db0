"""Chains of the No-U-Turn sampler, whose loop is compiled once for all the runs that can use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.chained import block_length
from triptych.inference.effort import briefly, options
from triptych.inference.sharing import kept
from triptych.inference.starts import Start

__all__ = ["DENSE", "Walk", "walk"]

STEPS = 10  # of a trajectory, about
DENSE = 50  # coordinates up to which the mass matrix is dense


class Walk(NamedTuple):
    """What NUTS leaves: z (chain, draw, p) and its statistics, name → (chain, draw)."""

    z: np.ndarray
    statistics: dict[str, np.ndarray]


def walk(
    settings: Any,
    start: Start,
    value_and_grad: Callable[[np.ndarray], tuple[Any, Any]],
    keys: jax.Array,
    points: np.ndarray,
    progress: Callable[[int, int, float], None] | None,
) -> Walk:
    """Run chains from points z (chain, p), u = centre + scale · z; a block of transitions is compiled once.

    Parameters
    ----------
    settings : of `MCMC`.
    start : the centre and the scales.
    value_and_grad : of z, the potential −log p in nats, as the search has compiled it.
    keys : (chain,).
    progress : called after each block with (transitions done, in all, mean acceptance probability).
    """
    from numpyro.infer.util import ParamInfo

    size, number = points.shape[1], jnp.result_type(float)
    dense = size <= DENSE
    known = start.factor is not None and start.factor.shape[1] == size
    inverse_mass = np.eye(size) if dense else np.ones(size)
    if known and start.factor is not None:
        relative = start.factor / start.scale[:, None]
        covariance = relative @ relative.T
        inverse_mass = covariance if dense else np.diag(covariance)
    # The potential at the start is had from what the search has compiled; all else is one small program.
    found = [value_and_grad(z) for z in points]
    values, slopes = (np.asarray(np.stack(part), number) for part in zip(*found, strict=True))
    info = ParamInfo(np.asarray(points, number), values, slopes)
    length, total = block_length(settings.warmup, settings.draws), settings.warmup + settings.draws
    work = start.posterior.numbers * len(points) * STEPS * total
    limits = (settings.warmup, settings.target_accept, settings.max_tree_depth)
    where = (np.asarray(start.centre, number), np.asarray(start.scale, number))
    begin, block = kept(
        ("nuts", start.density, limits, length, tuple(options(work).items())),
        lambda: _compiled(start.density, limits, length, work),
    )
    state = begin(where, np.asarray(inverse_mass, number), keys, info)
    parts = []
    for done in range(length, total + 1, length):
        state, shown = block(where, state)
        if progress is not None:
            progress(done, total, float(np.mean(np.asarray(shown["acceptance_rate"]))))
        if done > settings.warmup:
            parts.append(jax.tree.map(np.asarray, shown))
    joined = {name: np.swapaxes(np.concatenate([part[name] for part in parts]), 0, 1) for name in parts[0]}
    joined["tree_depth"] = np.ceil(np.log2(joined["n_steps"] + 1)).astype(int)
    return Walk(joined.pop("z"), joined)


def _compiled(
    density: Callable[[Any], jax.Array], limits: tuple[int, float, int], length: int, work: float
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Give NUTS on z, u = centre + scale · z: the first state, and a block of `length` transitions.

    Where it walks, (centre, scale), and its first mass matrix are arguments: another key finds others.
    """
    from numpyro.infer import NUTS
    from numpyro.infer.util import ParamInfo

    warmup, accept, depth = limits

    def kernel(where: tuple[Any, Any], inverse_mass: Any) -> NUTS:
        centre, scale = where
        return NUTS(
            potential_fn=lambda z: -density(centre + scale * z),
            dense_mass=inverse_mass.ndim == 2,
            inverse_mass_matrix=inverse_mass,
            target_accept_prob=accept,
            max_tree_depth=depth,
        )

    def begin(where: tuple[Any, Any], inverse_mass: Any, keys: jax.Array, info: Any) -> Any:
        state = kernel(where, inverse_mass).init(keys, warmup, info, (), {})
        # One type from the first block on, so that one program serves them all.
        return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)

    def block(where: tuple[Any, Any], state: Any) -> Any:
        # What `begin` sets up in a kernel belongs to its trace, so this trace has a kernel of its own.
        nuts = kernel(where, state.adapt_state.inverse_mass_matrix[0])
        info = ParamInfo(state.z, state.potential_energy, state.z_grad)
        jax.eval_shape(lambda: nuts.init(state.rng_key, warmup, info, (), {}))

        def transition(state: Any, _: None) -> tuple[Any, dict[str, Any]]:
            state = nuts.sample(state, (), {})
            shown = {
                "z": state.z,
                "lp": -state.potential_energy,
                "energy": state.energy,
                "diverging": state.diverging,
                "n_steps": state.num_steps,
                "acceptance_rate": state.accept_prob,
                "step_size": state.adapt_state.step_size,
            }
            return state, shown

        return jax.lax.scan(transition, state, None, length=length)

    return briefly(begin, 0), briefly(block, work)
