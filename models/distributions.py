"""What NumPyro does not have: a flat distribution that can be simulated, a typed `sample`."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpyro
from numpyro.distributions import Distribution, constraints

__all__ = ["Flat", "draw"]


def draw(name: str, fn: Any, **kwargs: Any) -> jax.Array:
    """Declare a sample site; `numpyro.sample` for values that are arrays, which its own type does not say."""
    return cast(jax.Array, numpyro.sample(name, fn, **kwargs))


class Flat(Distribution):
    """The improper uniform density p(x) ∝ 1 on the real line, which can still be "drawn": it gives 0.

    NumPyro's `ImproperUniform` refuses to be sampled, so a program that has one cannot be simulated or
    traced with a seed. Zero is the convention for "no contribution" (an intercept of 0).

    Parameters
    ----------
    batch_shape : shape of independent copies.
    dtype : of the zeros; `None`: JAX's default.
    """

    pytree_aux_fields = ("dtype",)

    def __init__(
        self, batch_shape: tuple[int, ...] = (), dtype: Any = None, *, validate_args: bool | None = None
    ) -> None:
        self.dtype = dtype
        super().__init__(batch_shape, (), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The real line."""
        return constraints.real

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Give zeros of shape `sample_shape + batch_shape`."""
        del key
        return jnp.zeros(sample_shape + self.batch_shape, self.dtype)

    def log_prob(self, value: Any, intermediates: list[Any] | None = None) -> jax.Array:
        """Give log 1 = 0 everywhere, in nats; the shape is the value's against the batch's."""
        del intermediates
        return jnp.zeros(
            jnp.broadcast_shapes(jnp.shape(value), self.batch_shape), jnp.result_type(value, 1.0)
        )
