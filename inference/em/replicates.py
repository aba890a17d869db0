"""EM on many data sets of one shape, one start each, as one compiled run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.accelerated import Accelerator
from triptych.inference.em.convergence import Rule
from triptych.inference.em.flat import space_of
from triptych.inference.em.loop import STATUSES, begin, step

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM

__all__ = ["climb_each"]

MOST_AT_ONCE = 2e7  # replicates × rows × parameters in one compiled run
BLOCK = 100  # steps between two looks of the host


def climb_each(
    em: EM, kernels: Sequence[Any], parameters: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Climb from one point on every replicate of the data.

    Parameters
    ----------
    em : whose tolerance, steps and acceleration are taken. kernels : bound to the replicates, of one shape.
    parameters : site → where every climb starts, in the user's units.

    Returns
    -------
    Site → the ends (B, …) in the user's units, and which of them converged (B,).
    """
    starts = [kernel.inward(parameters) for kernel in kernels]
    size = sum(np.size(value) for value in starts[0].values())
    together = int(np.clip(MOST_AT_ONCE // max(kernels[0].count * size, 1), 1, len(kernels)))
    accelerator = None
    if em.acceleration != "none":
        accelerator = Accelerator(em.acceleration, space_of(starts[0], kernels[0].supports))
    rule = Rule(*(np.asarray(v, np.float64) for v in (em.tol, kernels[0].count, kernels[0].epsilon)))
    ends, codes = [], []
    for begun in range(0, len(kernels), together):
        chosen = [min(begun + i, len(kernels) - 1) for i in range(together)]  # the last chunk is filled up
        state = _run(
            [em.climbed(kernels[i]) for i in chosen],
            {site: np.stack([np.asarray(starts[i][site]) for i in chosen]) for site in starts[0]},
            rule,
            accelerator,
            em.max_steps,
        )
        for place, i in enumerate(chosen[: len(kernels) - begun]):
            point = {site: np.asarray(value)[place] for site, value in state.best.items()}
            ends.append(kernels[i].outward(point))
            codes.append(int(np.asarray(state.done)[place]))
    good = np.array([STATUSES[code].ok for code in codes])
    return {site: np.stack([np.asarray(end[site]) for end in ends]) for site in ends[0]}, good


def _run(
    problems: Sequence[Any], starts: dict[str, np.ndarray], rule: Rule, accelerator: Any, most: int
) -> Any:
    """Run one start of each problem; leaves that all problems share are not stacked."""
    flat = [jax.tree.flatten(problem) for problem in problems]
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    same = tuple(
        all(leaf is c[0] or np.array_equal(leaf, c[0], equal_nan=True) for leaf in c) for c in columns
    )
    shared = [c[0] for c, one in zip(columns, same, strict=True) if one]
    own = [
        jnp.stack([jnp.asarray(leaf) for leaf in c]) for c, one in zip(columns, same, strict=True) if not one
    ]
    state: Any = begin(starts) if accelerator is None else accelerator.begin(starts)
    state, done = jax.tree.map(jnp.asarray, state), 0
    while done < most and not np.all(np.asarray(state.done) > 0):
        limit = np.int32(min(BLOCK, most - done))
        state = _advance(shared, own, state, rule, limit, same=same, tree=flat[0][1], accelerator=accelerator)
        done += BLOCK
    return state


@partial(jax.jit, static_argnames=("same", "tree", "accelerator"))
def _advance(
    shared: Any, own: Any, state: Any, rule: Rule, limit: Any, *, same: Any, tree: Any, accelerator: Any
) -> Any:
    """Take up to `limit` steps of every replicate not yet stopped."""

    def one(own: Any, state: Any) -> Any:
        ours, theirs = iter(own), iter(shared)
        problem = jax.tree.unflatten(tree, [next(theirs) if it else next(ours) for it in same])
        return (step if accelerator is None else accelerator.step)(problem, state, rule)

    def body(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        return carry[0] + 1, jax.vmap(one)(own, carry[1])

    def go_on(carry: tuple[Any, Any]) -> Any:
        return (carry[0] < limit) & jnp.any(carry[1].done == 0)

    return jax.lax.while_loop(go_on, body, (jnp.zeros((), jnp.int32), state))[1]
