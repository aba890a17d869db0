"""Starting points for a program that nobody wrote starts for: random posteriors, then M-steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.family import Array, Parameters
from triptych.inference.survey import Parameter

if TYPE_CHECKING:
    from triptych.inference.em.e_steps import EStep

__all__ = ["jitter", "middle", "random_start", "scattered"]

SHARPNESS = (50.0, 20.0, 10.0, 5.0, 2.0)  # powers of the posterior on the way from a random partition

MStep = Callable[[Any, Parameters], Parameters]  # (posterior, θ) ↦ θ'


def middle(sites: Mapping[str, Parameter]) -> dict[str, Array]:
    """Give the point of every support that the unconstrained 0 stands for."""
    from numpyro.distributions import biject_to

    values = {}
    for name, site in sites.items():
        transform = biject_to(site.support)
        zero = jnp.zeros(transform.inverse_shape(site.shape), jnp.float64)
        values[name] = jnp.broadcast_to(transform(zero), site.shape)
    return values


def scattered(sites: Mapping[str, Parameter], number: int) -> list[dict[str, np.ndarray]]:
    """Give a point near the middle of every support, and others around it, to probe a program at.

    They are off by 0.1 and 0.4 standard deviations in unconstrained space: enough to tell shapes apart.
    """
    from numpyro.distributions import biject_to

    random = np.random.default_rng(0)
    transforms = {name: biject_to(site.support) for name, site in sites.items()}
    inner = {}
    for name, site in sites.items():
        shape = transforms[name].inverse_shape(site.shape)
        steps = random.standard_normal((number, *shape)) * np.where(np.arange(number) == 0, 0.1, 0.4).reshape(
            -1, *[1] * len(shape)
        )
        steps[1:] += steps[0]
        inner[name] = steps

    @jax.jit
    def outward(u: dict[str, Array]) -> dict[str, Array]:
        return {name: jax.vmap(transforms[name])(value) for name, value in u.items()}

    found = {name: np.asarray(value) for name, value in outward(inner).items()}
    return [
        {name: np.broadcast_to(found[name][i], site.shape) for name, site in sites.items()}
        for i in range(number)
    ]


def jitter(key: jax.Array, parameters: Parameters, supports: Mapping[str, Any]) -> dict[str, Array]:
    """Move a point by a standard deviation of 0.1 in unconstrained space."""
    from numpyro.distributions import biject_to

    moved = {}
    for index, (name, value) in enumerate(parameters.items()):
        transform = biject_to(supports[name])
        inner = transform.inv(value)
        noise = 0.1 * jax.random.normal(jax.random.fold_in(key, index), inner.shape, inner.dtype)
        moved[name] = transform(inner + noise)
    return moved


def random_start(
    key: jax.Array, partition: Any, e_step: EStep, maximise: MStep, point: Parameters, args: Any, kwargs: Any
) -> Parameters:
    """Draw a random posterior and climb from it; `partition` 1 sharpens it on the way, 0 does not.

    Hard assignments pull components apart that a random posterior left almost alike.
    """
    weights = e_step.noise(key, 1.0 + 3.0 * partition, point, args, kwargs)
    start = maximise(weights, point)

    def sharpen(parameters: Parameters, sharpness: Array) -> tuple[Parameters, None]:
        return maximise(e_step.infer(parameters, args, kwargs, sharpness)[0], parameters), None

    sharp, _ = jax.lax.scan(sharpen, start, jnp.asarray(SHARPNESS))
    fine = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(sharp)]))
    return jax.tree.map(lambda a, b: jnp.where((partition > 0) & fine, a, b), sharp, start)
