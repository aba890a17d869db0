"""The M-step of any program: closed forms where they were verified, quasi-Newton steps where not.

Blocks are maximised in turn (real-valued ones first, since a mean's maximum does not hang on its variance,
while the variance's does on the mean). Each leaves Q no lower than before, so EM stays monotone
(Meng & Rubin 1993, ECM).
"""

from __future__ import annotations

import dataclasses
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

__all__ = ["Block", "Expected", "maximise", "read_blocks"]

Expected = Callable[[Parameters], Array]  # θ ↦ Q(θ), the weights fixed
ASCENT_STEPS = 8  # quasi-Newton steps an M-step takes where there is no closed form


@dataclasses.dataclass(frozen=True)
class Block:
    """How one group of sites is maximised: `rule`, and `how` names the shape.

    `rule` is "closed form", "quadratic" or "ascent".
    """

    sites: tuple[str, ...]
    rule: str
    how: str
    reason: str = ""


class Point(NamedTuple):
    """Where a program is probed: parameters and their supports."""

    parameters: Parameters
    supports: Mapping[str, Any]


def _along(expected: Expected, parameters: Parameters, site: str) -> Gradient:
    """∂Q/∂x along one site, the others fixed."""
    return jax.grad(lambda x: expected({**parameters, site: x}))


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
    blocks.sort(key=lambda block: block.rule != "quadratic")
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
        shape = quadratic_shape(gradient, x, points)
        return None if shape is None else Block((site,), "quadratic", shape)
    for form in forms_for(support):
        if agrees(form, gradient, x, list(points)):
            maximum = np.asarray(solve(form, gradient, x))
            if np.all(np.isfinite(maximum)) and np.all(np.asarray(support(maximum))):
                return Block((site,), "closed form", form.name)
    return None


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
    for block in blocks:
        if block.rule == "ascent":
            current = _ascend(expected, current, {site: supports[site] for site in block.sites})
            continue
        (site,) = block.sites
        gradient, x = _along(expected, current, site), current[site]
        if block.rule == "quadratic":
            proposal = newton(gradient, x, block.how, together=together)
        else:
            form = next(form for form in forms_for(supports[site]) if form.name == block.how)
            proposal = solve(form, gradient, x)
        fine = jnp.all(jnp.isfinite(proposal)) & jnp.all(supports[site](proposal))
        current[site] = jnp.where(fine, proposal, x)
    return current


def _ascend(expected: Expected, parameters: Parameters, supports: Mapping[str, Any]) -> dict[str, Array]:
    """Climb Q in unconstrained space by L-BFGS with a line search; the start is kept if nothing is better."""
    space: Coordinates = coordinates({site: (parameters[site].shape, one) for site, one in supports.items()})
    start = space.unconstrain(parameters)

    def loss(u: Array) -> Array:
        return -expected({**parameters, **space.constrain(u)})

    return {**parameters, **space.constrain(descend(loss, start, ASCENT_STEPS))}
