"""The M-step of any program: closed forms where they were verified, quasi-Newton steps where not.

Blocks are maximised in turn (real-valued ones first, since a mean's maximum does not hang on its variance,
while the variance's does on the mean). Each leaves Q no lower than before, so EM stays monotone
(Meng & Rubin 1993, ECM).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.closed_form import Gradient, agrees, forms_for, solve
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.quadratic import newton, quadratic_shape
from triptych.inference.em.quasi_newton import descend
from triptych.inference.unconstrained import Coordinates, coordinates
from triptych.models.matrices import positive_definite

__all__ = ["Block", "Expected", "maximise", "read_blocks"]

Expected = Callable[[Parameters], Array]  # θ ↦ Q(θ), the weights fixed
STILL = 1e-10  # relative change of a gradient that is none
ASCENT_STEPS = 8  # quasi-Newton steps an M-step takes where there is no closed form


@dataclasses.dataclass(frozen=True)
class Block:
    """How one group of sites is maximised: `rule`, and `how` names the shape.

    `rule` is "closed form", "quadratic" or "ascent". Closed forms of the same `turn` do not hang on each
    other's sites, and are found from the same two gradients.
    """

    sites: tuple[str, ...]
    rule: str
    how: str
    reason: str = ""
    turn: int = 0


class Point(NamedTuple):
    """Where a program is probed: parameters and their supports."""

    parameters: Parameters
    supports: Mapping[str, Any]


def read_blocks(
    expected: Expected, point: Point, near: Mapping[str, np.ndarray], by_gradient: Collection[str] = ()
) -> tuple[Block, ...]:
    """Find, site by site, the closed form that Q has; everything else becomes one block of gradient ascent.

    Run once, before the first iteration, on the weights of a random start. `near` has further points, site →
    (P, …). The sites of `by_gradient` are not looked at: they go to the gradient.
    """
    slopes = jax.jit(jax.grad(expected))  # of all sites at once: one program to compile
    blocks, rest = [], []
    for site in point.parameters:

        def gradient(x: Array, site: str = site) -> np.ndarray:
            return np.asarray(slopes({**point.parameters, site: x})[site])

        found = None if site in by_gradient else _read(gradient, point, site, near[site])
        if found is None:
            rest.append(site)
        else:
            blocks.append(found)
    blocks = _in_turns(
        blocks, lambda theta: {s: np.asarray(g) for s, g in slopes(theta).items()}, point, near
    )
    if rest:
        without = [site for site in rest if site not in by_gradient]
        reason = "chosen"
        if without:
            reason = f"Q along {', '.join(without)} is not one of the shapes with a closed form"
        blocks.append(Block(tuple(rest), "ascent", f"L-BFGS, {ASCENT_STEPS} steps", reason))
    return tuple(blocks)


def _read(gradient: Gradient, point: Point, site: str, points: np.ndarray) -> Block | None:
    from numpyro.distributions import constraints

    x, support = np.asarray(point.parameters[site]), point.supports[site]
    base = support
    while isinstance(base, constraints._IndependentConstraint):
        base = base.base_constraint
    if base is constraints.real or base is constraints.real_vector:
        shape = quadratic_shape(gradient, x, list(points))
        return None if shape is None else Block((site,), "quadratic", shape)
    for form in forms_for(support):
        maximum = agrees(form, gradient, x, list(points))
        if maximum is not None and np.all(np.isfinite(maximum)) and np.all(np.asarray(support(maximum))):
            return Block((site,), "closed form", form.name)
    return None


def _in_turns(
    blocks: Sequence[Block], slopes: Callable[[Parameters], Parameters], point: Point, near: Any
) -> list[Block]:
    """Put closed forms into as few turns as their sites allow, real-valued sites first.

    Sites may share a turn if moving one leaves the gradient along the other as it was.
    """
    closed = [block for block in blocks if block.rule == "closed form"]
    if len(closed) < 2:
        return sorted(blocks, key=lambda block: block.rule != "quadratic")
    names = [block.sites[0] for block in closed]
    base = slopes(point.parameters)
    meet = set()
    for site in names:
        moved = slopes({**point.parameters, site: near[site][0]})
        for other in names:
            size = np.max(np.abs(base[other]), initial=1e-300)
            if other != site and not np.max(np.abs(moved[other] - base[other])) < STILL * size:
                meet |= {(site, other), (other, site)}
    turns: list[list[str]] = []
    for site in names:
        free = (turn for turn in turns if not any((site, other) in meet for other in turn))
        turn = next(free, None)
        if turn is None:
            turns.append([site])
        else:
            turn.append(site)
    of = {site: index for index, turn in enumerate(turns) for site in turn}
    numbered = [
        dataclasses.replace(block, turn=of.get(block.sites[0], 0)) if block.rule == "closed form" else block
        for block in blocks
    ]
    return sorted(numbered, key=lambda block: (block.rule != "quadratic", block.turn))


def maximise(
    blocks: Sequence[Block],
    expected: Expected,
    parameters: Parameters,
    supports: Mapping[str, Any],
    *,
    together: bool = False,
) -> Parameters:
    """Maximise Q block by block; a block whose maximum is not finite stays where it is.

    Parameters
    ----------
    together : whether Q reads no rows, so that many of its gradients at once take little memory.
    """
    current = dict(parameters)
    for (rule, _), group in itertools.groupby(blocks, key=lambda block: (block.rule, block.turn)):
        members = list(group)
        if rule == "closed form":
            current |= _at_once(members, expected, current, supports, together)
            continue
        for block in members:
            if rule == "ascent":
                current = _ascend(expected, current, {site: supports[site] for site in block.sites})
                continue
            (site,) = block.sites
            gradient = jax.grad(lambda x, site=site, held=current: expected({**held, site: x}))
            proposal = newton(gradient, current[site], block.how, together=together)
            current[site] = _kept(proposal, current[site], supports[site])
    return current


def _at_once(
    blocks: Sequence[Block], expected: Expected, current: Parameters, supports: Any, together: bool
) -> dict[str, Array]:
    """Give the maxima along sites with closed forms that do not hang on each other, from two gradients."""
    forms = {}
    for block in blocks:
        (site,) = block.sites
        forms[site] = next(form for form in forms_for(supports[site]) if form.name == block.how)
    here = {site: jnp.asarray(current[site]) for site in forms}
    there = {site: form.second(here[site]) for site, form in forms.items()}
    gradient = jax.grad(lambda values: expected({**current, **values}))
    if together:
        both = jax.vmap(gradient)(jax.tree.map(lambda *one: jnp.stack(one), here, there))
        g_here, g_there = ({site: g[i] for site, g in both.items()} for i in range(2))
    else:
        g_here, g_there = gradient(here), gradient(there)
    return {
        site: _kept(
            solve(form, here[site], g_here[site], there[site], g_there[site]), here[site], supports[site]
        )
        for site, form in forms.items()
    }


def _kept(proposal: Array, x: Array, support: Any) -> Array:
    """Give a maximum, or the old value where it is not finite or outside the support."""
    from numpyro.distributions import constraints

    # NumPyro's own answer is from the eigenvalues, which take longer.
    within = positive_definite if support is constraints.positive_definite else support
    return jnp.where(jnp.all(jnp.isfinite(proposal)) & jnp.all(within(proposal)), proposal, x)


def _ascend(expected: Expected, parameters: Parameters, supports: Mapping[str, Any]) -> dict[str, Array]:
    """Climb Q in unconstrained space by L-BFGS with a line search; the start is kept if nothing is better."""
    space: Coordinates = coordinates({site: (parameters[site].shape, one) for site, one in supports.items()})
    start = space.unconstrain(parameters)

    def loss(u: Array) -> Array:
        return -expected({**parameters, **space.constrain(u)})

    return {**parameters, **space.constrain(descend(loss, start, ASCENT_STEPS))}
