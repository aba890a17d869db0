"""A posterior in the unconstrained space, with the functions of it that every method wants, compiled once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from triptych.inference.curvature import hessian
from triptych.inference.effort import briefly, cells
from triptych.inference.sharing import kept, shared
from triptych.inference.sufficient import log_joint
from triptych.inference.unconstrained import Coordinates, coordinates
from triptych.models.errors import InputError

__all__ = ["Target", "target", "target_of", "unconstrained"]

CLIMBING = 1000  # evaluations of the gradient, about
HESSIANS = 5


@dataclasses.dataclass(frozen=True)
class Target:
    """A posterior in the unconstrained space, with the functions of it that are compiled once."""

    space: Coordinates
    density: Callable[[Any], jax.Array]
    value_and_grad: Callable[[Any], Any]
    curvature: Callable[[Any], Any]
    numbers: int = 0  # that the density reads

    def values(self, points: np.ndarray) -> np.ndarray:
        """Give the density at points (n, p), one by one: there are few, and compiling a batch costs more."""
        return np.array([float(self.value_and_grad(np.asarray(point))[0]) for point in points])


def target(m: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, jacobian: bool = True) -> Target:
    """Give log p(x, θ(u)) of a marginal, in nats, with the log-Jacobian of θ(u) unless told not to.

    Raises
    ------
    InputError : there is nothing to infer.
    """
    structure = m.structure(*args, **kwargs)
    if not structure.parameters:
        raise InputError(
            "The program has no continuous site that is not observed: there is nothing to infer."
        )

    def make() -> Target:
        space = coordinates({site: (p.shape, p.support) for site, p in structure.parameters.items()})
        return target_of(space, log_joint(m, args, kwargs), cells(args, kwargs), jacobian=jacobian)

    return shared(("target", jacobian), m, args, kwargs, make)


def unconstrained(space: Coordinates) -> Callable[[Mapping[str, Any]], jax.Array]:
    """Give θ ↦ u of a change of variables, compiled once for all who ask within `sharing`."""
    return kept(("unconstrain", space.unconstrain), lambda: briefly(space.unconstrain, 0))


def target_of(
    space: Coordinates, log_density: Callable[[Any], Any], numbers: int, *, jacobian: bool = True
) -> Target:
    """Give any log density of named parameters as a target.

    Parameters
    ----------
    space : the change of variables.
    log_density : dict site → array ↦ scalar, nats, in the natural parameters.
    numbers : how many it reads.
    jacobian : whether the log-Jacobian is added.
    """
    # Jitted, so that whoever runs it operation by operation (a guide being set up) compiles one thing.
    density = jax.jit(space.density(log_density, jacobian=jacobian))
    return Target(
        space=space,
        density=density,
        value_and_grad=briefly(jax.value_and_grad(density), numbers * CLIMBING),
        curvature=briefly(lambda u: -hessian(density, u), numbers * HESSIANS * space.size),
        numbers=numbers,
    )
