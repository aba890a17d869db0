"""`numpyro.param` sites taken as parameters with a flat prior, so that every method sees them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.primitives import Messenger

__all__ = ["Lift"]


class _Declared(dist.ImproperUniform):
    """The flat density over a constraint; "drawn", it gives the value that the program declared."""

    pytree_data_fields = ("declared",)

    def __init__(self, support: Any, declared: jax.Array) -> None:
        self.declared = declared
        super().__init__(support, (), jnp.shape(declared))

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        del key
        return jnp.broadcast_to(self.declared, sample_shape + jnp.shape(self.declared))


class Lift(Messenger):
    """Turn `numpyro.param(name, value, constraint=...)` into a sample site of flat density."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        super().__init__()

    def process_message(self, msg: Any) -> None:
        """Exchange the site; a name that comes again is the same site."""
        if msg["type"] != "param":
            return
        name = msg["name"]
        if name in self.seen:  # declared twice: one site
            msg["value"], msg["stop"] = self.seen[name]["value"], True
            return
        support = msg["kwargs"].get("constraint", constraints.real)
        declared = jnp.asarray(msg["fn"](*msg["args"]))
        msg.update(
            type="sample",
            fn=_Declared(support, declared.astype(jnp.result_type(declared, float))),
            args=(),
            kwargs={"rng_key": None, "sample_shape": ()},
            intermediates=[],
            infer={},
            is_observed=False,
            cond_indep_stack=[],  # a parameter in a plate is not one a row
            scale=None,
        )
        self.seen[name] = msg
