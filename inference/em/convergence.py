"""When EM may stop: not when one step was small, but when little gain is still to come.

EM converges linearly: with gains g_t = ℓ_t − ℓ_{t−1} and rate c = g_t / g_{t−1} the gain still to come is
g_t c/(1 − c) (Aitken; Böhning, Dietz, Schaub, Schlattmann & Lindsay 1994). A small step at a rate near 1 is a
long way from the top.
"""

from __future__ import annotations

import jax.numpy as jnp

from triptych.inference.em.family import Array

__all__ = ["HISTORY", "gain_to_come", "rounding", "stalled"]

HISTORY = 4  # gains looked at; the slowest rate among them counts


def gain_to_come(gains: Array) -> Array:
    """Estimate the gain still to come, in nats, from the last gains (oldest first).

    Parameters
    ----------
    gains : (HISTORY,), NaN where there is none yet.

    Returns
    -------
    g c/(1 − c) with the largest of the last rates c; infinite while the gains grow or are too few.
    """
    rates = gains[1:] / gains[:-1]
    rate = jnp.max(jnp.where(gains[:-1] > 0, rates, 0.0))
    known = jnp.all(jnp.isfinite(gains))
    slow = jnp.where(rate < 1.0, gains[-1] * rate / jnp.maximum(1.0 - rate, 1e-16), jnp.inf)
    return jnp.where(known, jnp.maximum(slow, 0.0), jnp.inf)


def rounding(objective: Array, count: Array, epsilon: Array) -> Array:
    """Bound the rounding error of an objective summed over `count` rows in arithmetic of precision `epsilon`.

    A row's log density is a difference of terms some ten times its size, hence the factor.
    """
    return 64.0 * epsilon * (jnp.abs(objective) + count)


def stalled(objective: Array, gains: Array, count: Array, epsilon: Array) -> Array:
    """Tell whether the last two gains are no more than the rounding that independent rows leave in a sum."""
    noise = epsilon * (jnp.abs(objective) + count) / jnp.sqrt(jnp.maximum(count, 1.0))
    return jnp.max(jnp.abs(gains[-2:])) <= noise
