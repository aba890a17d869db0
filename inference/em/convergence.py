"""When EM may stop: not when one step was small, but when little gain is still to come.

EM converges linearly: with gains g_t = ℓ_t − ℓ_{t−1} and rate c = g_t / g_{t−1} the gain still to come is
g_t c/(1 − c) (Aitken; Böhning, Dietz, Schaub, Schlattmann & Lindsay 1994). A small step at a rate near 1 is a
long way from the top. Where steps were accelerated, the gains of plain ones do not yet show the slowest
rate: it is then taken from the extrapolations, which had to estimate it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from triptych.inference.em.family import Array

__all__ = ["HISTORY", "Rule", "gain_to_come", "noise", "rounding", "slow_gain_to_come", "stalled"]

HISTORY = 4  # gains looked at; the slowest rate among them counts


class Rule(NamedTuple):
    """The stopping rule's numbers: `tolerance` nats still to come; the others set the rounding error."""

    tolerance: Array
    rows: Array
    epsilon: Array


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


def slow_gain_to_come(gains: Array, slowest: Array, blur: Array) -> Array:
    """Estimate the gain still to come, in nats, from two plain steps in a row after accelerated ones.

    Parameters
    ----------
    gains : (2,), NaN where there is none. slowest : 1/(1 − c), c the slowest rate of the parameters seen.
    blur : rounding of a gain, nats; one below it may be as large.

    Returns
    -------
    g r/(1 − r), r the larger of the gains' own rate and c² (gains are squares of distances).
    """
    own = jnp.where(gains[0] > blur, gains[1] / jnp.where(gains[0] > blur, gains[0], 1.0), 0.0)
    rate = jnp.maximum(own, (1.0 - 1.0 / slowest) ** 2)
    last = jnp.maximum(gains[1], blur)
    slow = jnp.where(rate < 1.0, last * rate / jnp.maximum(1.0 - rate, 1e-16), jnp.inf)
    return jnp.where(jnp.all(jnp.isfinite(gains)), slow, jnp.inf)


def rounding(objective: Array, count: Array, epsilon: Array) -> Array:
    """Bound the rounding error of an objective summed over `count` rows in arithmetic of precision `epsilon`.

    A row's log density is a difference of terms some ten times its size, hence the factor.
    """
    return 64.0 * epsilon * (jnp.abs(objective) + count)


def noise(objective: Array, count: Array, epsilon: Array) -> Array:
    """Size of the rounding that independent rows leave in a sum of them, nats."""
    return epsilon * (jnp.abs(objective) + count) / jnp.sqrt(jnp.maximum(count, 1.0))


def stalled(objective: Array, gains: Array, count: Array, epsilon: Array) -> Array:
    """Tell whether the last two gains are no more than the rounding that independent rows leave in a sum."""
    return jnp.max(jnp.abs(gains[-2:])) <= noise(objective, count, epsilon)
