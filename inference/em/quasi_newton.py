"""A few quasi-Newton steps down a smooth function, never ending above where they began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from triptych.inference.em.family import Array

__all__ = ["descend"]


def descend(loss: Callable[[Any], Array], start: Any, steps: int) -> Any:
    """Take `steps` steps of L-BFGS with a line search (optax); the start is kept if nothing is better."""
    optimiser = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def body(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        point, state = carry
        value, gradient = value_and_grad(point, state=state)
        updates, state = optimiser.update(gradient, state, point, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(point, updates), state), None

    (point, _), _ = jax.lax.scan(body, (start, optimiser.init(start)), None, length=steps)
    better = loss(point) <= loss(start)
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), point, start)
