"""Chains of the No-U-Turn sampler, whose loop is compiled once for all the runs that can use it.

NUTS walks in coordinates z that make the posterior round, u = centre + L z, with masses of one. While the
chains warm up L is found anew (`warmup.py`) between blocks of transitions: it is an argument of what is
compiled, which knows no mass matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from triptych.inference.chained import block_length
from triptych.inference.effort import briefly, options
from triptych.inference.sharing import kept
from triptych.inference.starts import Start
from triptych.inference.warmup import composed, first_root, placed, pulled, rounder, solved, turning_points

__all__ = ["Walk", "walk"]

STEPS = 10  # of a trajectory, about


class Where(NamedTuple):
    """Where NUTS walks: the log density of u = centre + L z, nats, and the two of them."""

    density: Partial
    centre: Any
    root: Any


class Walk(NamedTuple):
    """What NUTS leaves: u (chain, draw, p) and its statistics, name → (chain, draw)."""

    u: np.ndarray
    statistics: dict[str, np.ndarray]


def walk(
    settings: Any,
    start: Start,
    keys: jax.Array,
    points: np.ndarray,
    progress: Callable[[int, int, float], None] | None,
) -> Walk:
    """Run chains from points u (chain, p); a block of transitions is compiled once.

    Parameters
    ----------
    settings : of `MCMC`.
    start : the centre and the scales.
    keys : (chain,).
    progress : called after each block with (transitions done, in all, mean acceptance probability).
    """
    from numpyro.infer.util import ParamInfo

    number, root = jnp.result_type(float), first_root(start)
    # The density at the start is had from what the search has compiled; all else is one small program.
    found = [start.posterior.value_and_grad(u) for u in points]
    values, slopes = (np.asarray(np.stack(part), float) for part in zip(*found, strict=True))
    z = solved(root, points - start.centre)
    info = ParamInfo(*(np.asarray(part, number) for part in (z, -values, -pulled(root, slopes))))
    length, total = block_length(settings.warmup, settings.draws), settings.warmup + settings.draws
    work = start.posterior.numbers * len(points) * STEPS * total
    limits = (settings.warmup, settings.target_accept, settings.max_tree_depth)
    # With its data as leaves, so that what is compiled serves any of the same shape; or a function as it is.
    density = start.density if isinstance(start.density, Partial) else Partial(start.density)
    begin, block = kept(
        ("nuts", density.func, limits, length, tuple(options(work).items())),
        lambda: _compiled(limits, length, work),
    )

    where = Where(density, np.asarray(start.centre, number), np.asarray(root, number))
    state, seen, parts = begin(where, keys, info), [], []
    turns = turning_points(settings.warmup, length)
    for done in range(length, total + 1, length):
        state, shown = block(where, state)
        if progress is not None:
            progress(done, total, float(np.mean(np.asarray(shown["acceptance_rate"]))))
        if done > settings.warmup:
            parts.append(jax.tree.map(np.asarray, shown))
        elif turns:
            seen.append(placed(root, np.asarray(shown["z"], float)))
        if done in turns:
            root, state = _rerooted(root, state, np.concatenate(seen)[turns.pop(done)])
            where = where._replace(root=np.asarray(root, number))
    joined = {name: np.swapaxes(np.concatenate([part[name] for part in parts]), 0, 1) for name in parts[0]}
    joined["tree_depth"] = np.ceil(np.log2(joined["n_steps"] + 1)).astype(int)
    return Walk(start.centre + placed(root, np.asarray(joined.pop("z"), float)), joined)


def _rerooted(root: np.ndarray, state: Any, moves: np.ndarray) -> tuple[np.ndarray, Any]:
    """Give rounder coordinates by draws u − centre (n, chain, p), and the chains' state in them."""
    turn = rounder(np.swapaxes(solved(root, moves), 0, 1), root.ndim == 2)
    parts = {"z": solved(turn, np.asarray(state.z)), "z_grad": pulled(turn, np.asarray(state.z_grad))}
    state = state._replace(**{name: np.asarray(part, state.z.dtype) for name, part in parts.items()})
    return composed(root, turn), state


def _compiled(
    limits: tuple[int, float, int], length: int, work: float
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Give NUTS on z: the first state, and a block of `length` transitions, both at (density, centre, L)."""
    from numpyro.infer import NUTS
    from numpyro.infer.util import ParamInfo

    warmup, accept, depth = limits

    def kernel(where: Where) -> NUTS:
        density, centre, root = where
        return NUTS(
            potential_fn=lambda z: -density(centre + (root * z if root.ndim == 1 else root @ z)),
            adapt_mass_matrix=False,
            target_accept_prob=accept,
            max_tree_depth=depth,
        )

    def begin(where: Where, keys: jax.Array, info: Any) -> Any:
        state = kernel(where).init(keys, warmup, info, (), {})
        # One type from the first block on, so that one program serves them all.
        return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)

    def block(where: Where, state: Any) -> Any:
        # What `begin` sets up in a kernel belongs to its trace, so this trace has a kernel of its own.
        nuts = kernel(where)
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
