"""A posterior with its data as arguments: what is compiled for one data set serves all of its shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.arguments import with_arrays
from triptych.inference.effort import cells
from triptych.inference.laplace import hessian
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.starts import Start, Target, best_of_points, prior_points
from triptych.inference.unconstrained import Coordinates, coordinates

__all__ = ["Posterior"]

Arrays = tuple[jax.Array, ...]
DATA_SETS = 100  # that what is compiled serves, about


@dataclasses.dataclass(frozen=True, eq=False)
class Posterior:
    """log p(x, θ(u)) + log |∂θ/∂u| of a program, jitted as a function of the data and of u.

    `target(arrays)` closes over the data by `jax.tree_util.Partial`, a tree whose leaves are the arrays:
    handed to a jitted function it is traced once for all data sets of one shape.

    Attributes
    ----------
    model : the program that the user gave.
    m : the marginal of the program as a function of its arrays.
    space : unconstrained coordinates.
    example : the arrays of the example call.
    """

    model: Callable[..., Any]
    m: Marginal
    space: Coordinates
    example: Arrays
    density: Callable[..., jax.Array]
    value_and_grad: Callable[..., Any]
    curvature: Callable[..., jax.Array]
    constrain: Callable[..., dict[str, jax.Array]]
    unconstrain: Callable[..., jax.Array]
    log_joint: Callable[..., tuple[jax.Array, jax.Array]]

    @classmethod
    def of(cls, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Posterior:
        """Bind a program to the shapes of an example call; nothing is compiled yet."""
        program, arrays = with_arrays(model, args, kwargs)
        m = marginal(program)
        structure = m.structure(*arrays)
        space = coordinates({site: (p.shape, p.support) for site, p in structure.parameters.items()})

        def density(arrays: Arrays, u: Any) -> jax.Array:
            return space.density(lambda theta: m.log_density(theta, *arrays))(u)

        def joint(arrays: Arrays, theta: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
            rows = jax.tree.leaves(m.log_likelihood(theta, *arrays))
            likelihood = sum((jnp.sum(row) for row in rows), start=jnp.zeros(()))
            return m.log_density(theta, *arrays), likelihood

        def joints(arrays: Arrays, thetas: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
            return jax.lax.map(partial(joint, arrays), dict(thetas))

        compiled = jax.jit(density)
        return cls(
            model=model,
            m=m,
            space=space,
            example=arrays,
            density=compiled,
            value_and_grad=jax.jit(jax.value_and_grad(compiled, argnums=1)),
            curvature=jax.jit(lambda arrays, u: -hessian(partial(compiled, arrays), u)),
            constrain=jax.jit(jax.vmap(space.constrain)),
            unconstrain=jax.jit(space.unconstrain),
            log_joint=jax.jit(joints),
        )

    def arrays(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arrays:
        """Give the arrays of another call."""
        return with_arrays(self.model, args, kwargs)[1]

    def target(self, arrays: Arrays) -> Target:
        """Give the posterior of one data set."""
        return Target(
            space=self.space,
            density=jax.tree_util.Partial(self.density, arrays),
            value_and_grad=partial(self.value_and_grad, arrays),
            curvature=partial(self.curvature, arrays),
            numbers=DATA_SETS * cells(arrays),
        )

    def search(self, key: jax.Array, arrays: Arrays) -> Start:
        """Find where to begin: `starts.best_of_climbs`, from the same draws of the prior for all data."""
        return best_of_points(key, self.target(arrays), self._prior_points)

    @property
    def _prior_points(self) -> np.ndarray:
        # The prior does not follow the data: drawn once.
        found = self.__dict__.get("_points")
        if found is None:
            found = prior_points(jax.random.key(0), self.m, self.example, {}, self.space)
            self.__dict__["_points"] = found
        return found

    def natural(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """Carry draws (chain, draw, p) back to θ: site → (chain, draw, …)."""
        flat = self.constrain(jnp.asarray(u.reshape(-1, u.shape[-1])))
        return {
            site: np.asarray(value).reshape(*u.shape[:2], *value.shape[1:]) for site, value in flat.items()
        }
