"""Sums over chains: log Σ_{z₂…z_T} Π_t f_t(z_{t−1}, z_t), one step after the other, O(T K²).

Backward, β_{t−1}(i) = log Σ_j exp(f_t(i, j) + β_t(j)); forward, α_t(j) = log Σ_i exp(α_{t−1}(i) + f_t(i, j)).
The gradient with respect to f is the posterior of each pair of states, so forward–backward is never written
(Eisner 2016, "Inside-outside and forward-backward algorithms are just backprop"). One `lax.scan` compiles the
fastest, and on a processor runs the fastest too: an associative scan has logarithmic depth but K times the
work (T = 10⁴, K = 5: 7 ms against 30 ms with gradients).

Tables have axes (batch…, i…, j…): `states` axes of the step before, then as many of this step; any axis may
be of size one where the table does not change along it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["backward", "forward", "log_sum_exp"]

Array = jax.Array


def log_sum_exp(x: Array, axes: tuple[int, ...]) -> Array:
    """Log Σ exp over axes; where every term is −∞ so is the sum, and its gradient is 0 instead of NaN."""
    if not axes:
        return x
    highest = lax.stop_gradient(jnp.max(x, axis=axes, keepdims=True))
    highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
    total = jnp.sum(jnp.exp(x - highest), axis=axes)
    some = total > 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + jnp.squeeze(highest, axes), -jnp.inf)


def backward(
    constant: Array, changing: Sequence[Array], shape: tuple[int, ...], states: int, steps: int
) -> Array:
    """Sum every state but the first out of a chain.

    Parameters
    ----------
    constant : (batch…, i…, j…), the factors that are the same in every step, added up.
    changing : (steps, batch…, i…, j…) each, the others.
    shape : (batch…, j…) whole, of which the answer is.
    states, steps : the number of state axes, and of steps.

    Returns
    -------
    (batch…, i…): log Σ over the later states, for each first state.
    """
    last = tuple(range(-states, 0)) if states else ()

    def step(beta: Array, tables: Sequence[Array]) -> tuple[Array, None]:
        total = sum(tables, start=constant) + _widen(beta, states, before=False)
        return jnp.broadcast_to(log_sum_exp(total, last), shape), None

    start = jnp.zeros(shape, jnp.result_type(constant, *changing))
    return lax.scan(step, start, list(changing), length=steps, reverse=True)[0]


def forward(first: Array, constant: Array, changing: Sequence[Array], states: int, steps: int) -> Array:
    """Give log Σ over the states of the first t factors, for t = 1, …, T: (T, batch…).

    `first` is the factor of the first step, (batch…, j…); the others as in `backward`.
    """
    axes = tuple(range(-2 * states, -states)) if states else ()
    last = tuple(range(-states, 0)) if states else ()

    def step(alpha: Array, tables: Sequence[Array]) -> tuple[Array, Array]:
        total = sum(tables, start=constant) + _widen(alpha, states, before=True)
        alpha = jnp.broadcast_to(log_sum_exp(total, axes), first.shape)
        return alpha, log_sum_exp(alpha, last)

    _, later = lax.scan(step, first, list(changing), length=steps)
    return jnp.concatenate([log_sum_exp(first, last)[None], later])


def _widen(message: Array, states: int, *, before: bool) -> Array:
    """Give a message over one step's states the axes of the other step's, of size one."""
    batch, own = message.shape[: message.ndim - states], message.shape[message.ndim - states :]
    ones = (1,) * states
    return jnp.reshape(message, (*batch, *own, *ones) if before else (*batch, *ones, *own))
