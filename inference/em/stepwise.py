"""Updates of a mixture from one minibatch of rows: stepwise, incremental and variance-reduced EM.

With s̄(θ) the expected statistics a row, θ(s) the M-step from N rows that have s each, and B a minibatch,

    stepwise          s ← (1 − γ_k) s + γ_k s̄_B(θ(s)),   γ_k = (k + 2)^−0.6    (Cappé & Moulines 2009)
    incremental       S ← S − S_b + S_B(θ(S)),   S_b ← S_B(θ(S))               (Neal & Hinton 1998)
    variance-reduced  s ← (1 − ρ) s + ρ [s̄_B(θ(s)) − s̄_B(θ°) + s̄(θ°)]         (Chen, Zhu, Teh & Zhang 2018)

θ° is a point at which s̄ over all rows is known. The M-step is the one of `fold.py`: the statistics are scaled
to N rows before it, so that the prior counts once for all rows. Everything is in standardised units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from triptych.inference.em.family import Array, Family, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, expected, fold_at, m_step, over_chunks

__all__ = [
    "Batch",
    "Incremental",
    "Reduced",
    "Stepwise",
    "a_row",
    "batch_of",
    "blended",
    "free_energy",
    "gather",
    "incremental",
    "least_rows",
    "maximised",
    "reduced",
    "step_size",
    "stepwise",
    "within",
]

EXPONENT = 0.6  # of γ_k; between 1/2 and 1, small ones go with averaging
RECENT = 3.0  # η of the average: θ_j weighs about j^η, so that the way there is forgotten
PULL = 0.3  # ρ
NO_FLOOR = -1e30  # of a covariance or a probability: leaves every M-step as it is


class Batch(NamedTuple):
    """A minibatch: the problem on its rows alone, its number among all minibatches, and how it counts.

    `totals` are its own, Σ_B w_n B(x_n); `rows` n_B; `share` n_B over the rows of a whole minibatch; `whole`
    the rows N that the M-step is to be told of.
    """

    problem: MixtureProblem
    totals: Array
    number: Array
    rows: Array
    share: Array
    whole: Array


class Stepwise(NamedTuple):
    """Statistics a row, θ(s), the average θ̄ of all θ(s), k (minibatches behind s), and those behind θ̄."""

    statistics: Statistics
    parameters: Parameters
    average: Parameters
    updates: Array
    averaged: Array


class Incremental(NamedTuple):
    """The sums of each minibatch, (B, F, K), and the entropies of its responsibilities (B,); S, and θ(S)."""

    parts: jax.Array
    entropies: jax.Array
    sums: Array
    parameters: Parameters


class Reduced(NamedTuple):
    """Statistics a row, θ(s), the anchor θ°, s̄(θ°), and how often s had left the cone."""

    statistics: Statistics
    parameters: Parameters
    anchor: Parameters
    at_anchor: Statistics
    refused: Array


def least_rows(components: int, columns: int) -> int:
    """Rows below which no M-step is taken: max(256, 50 K, 5 K D)."""
    return max(256, 50 * components, 5 * components * columns)


def step_size(updates: Array) -> Array:
    """γ_k = (k + 2)^−0.6 after k minibatches."""
    return (updates + 2.0) ** -EXPONENT


def batch_of(problem: MixtureProblem, number: Any, rows: Array, size: int, whole: Array) -> Batch:
    """Make a minibatch of a problem on its rows; those of weight 0 are there to fill it up to `size`."""
    totals = over_chunks(problem, lambda each, weights, _: problem.family.totals(each, weights))
    return Batch(problem, totals, jnp.asarray(number), rows, rows / size, whole)


def stepwise(batch: Batch, state: Stepwise) -> Stepwise:
    """Take one step of stepwise EM, and average θ over all steps (Polyak & Ruppert; Shamir & Zhang 2013).

    The average is θ̄ ← θ̄ + (η + 1)/(j + η) (θ − θ̄) at its j-th step: late points weigh more.
    """
    return blended(batch, state, a_row(batch, state.parameters)[0])


def blended(batch: Batch, state: Stepwise, statistics: Statistics) -> Stepwise:
    """Take the step of `stepwise` with s̄_B(θ) as it was had."""
    statistics = _between(state.statistics, statistics, step_size(state.updates) * batch.share)
    parameters = maximised(batch, statistics)
    averaged = state.averaged + batch.share
    weight = jnp.minimum((RECENT + 1.0) / (averaged + RECENT), 1.0)
    average = _between(state.average, parameters, weight)
    return Stepwise(statistics, parameters, average, state.updates + batch.share, averaged)


def gather(batch: Batch, state: Incremental) -> Incremental:
    """Fill in the statistics of a minibatch at θ, which stays: the first pass of incremental EM."""
    fresh, entropy = _with_entropy(batch, state.parameters)
    old = state.parts[batch.number]
    return Incremental(
        state.parts.at[batch.number].set(fresh),
        state.entropies.at[batch.number].set(entropy),
        state.sums + (fresh - old),
        state.parameters,
    )


def incremental(batch: Batch, state: Incremental) -> Incremental:
    """Exchange the statistics of a minibatch for those at θ, then take the M-step from all of them.

    `batch.problem.totals` are those of all rows: they do not change with θ.
    """
    state = gather(batch, state)
    problem = batch.problem
    statistics = Statistics(state.sums, problem.totals)
    return state._replace(parameters=m_step(problem.family, statistics, problem.hyper))


def free_energy(problem: MixtureProblem, state: Incremental) -> Array:
    """F = E_q log p(x, z, θ) + H(q), nats, at most the objective at θ: no incremental step lowers it."""
    statistics = Statistics(state.sums, problem.totals)
    return expected(problem, state.parameters, statistics) + jnp.sum(state.entropies) + problem.constant


def reduced(batch: Batch, state: Reduced) -> Reduced:
    """Take one step of variance-reduced EM; the plain minibatch step where the difference leaves the cone."""
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state.parameters, state.anchor)
    fresh, _ = jax.vmap(lambda point: a_row(batch, point))(both)
    here, there = (jax.tree.map(lambda leaf, i=i: leaf[i], fresh) for i in (0, 1))
    corrected = jax.tree.map(lambda a, b, c: a - b + c, here, there, state.at_anchor)
    corrected = _between(state.statistics, corrected, PULL)
    plain = _between(state.statistics, here, PULL)
    good = within(batch.problem, _scaled(corrected, batch.whole))
    statistics = jax.tree.map(lambda a, b: jnp.where(good, a, b), corrected, plain)
    return state._replace(
        statistics=statistics,
        parameters=maximised(batch, statistics),
        refused=state.refused + ~good,
    )


def within(problem: MixtureProblem, statistics: Statistics) -> Array:
    """Tell whether the M-step, its floor taken away, gives a point inside the supports."""
    family: Family = problem.family
    hyper: Any = problem.hyper
    hyper = hyper._replace(floor=jnp.full_like(hyper.floor, NO_FLOOR))
    parameters = m_step(family, statistics, hyper)
    inside = jnp.all(jnp.isfinite(family.natural(parameters)))
    return inside & jnp.all(parameters["weights"] > 0.0)


def a_row(batch: Batch, parameters: Parameters) -> tuple[Statistics, Array]:
    """Give s̄_B(θ), the expected statistics a row, and Σ_B w_n log p(x_n | θ) (nats, standardised units)."""
    problem = batch.problem
    statistics, value = fold_at(problem, problem.family.natural(parameters))
    statistics = Statistics(statistics.sums, batch.totals)
    value += problem.family.base(parameters, batch.totals)
    return _scaled(statistics, 1.0 / batch.rows), value


def _with_entropy(batch: Batch, parameters: Parameters) -> tuple[Array, Array]:
    """Give Σ_B w r T(x) and the entropy of the responsibilities, Σ_B w H(r_n) (nats)."""
    natural = batch.problem.family.natural(parameters)
    statistics, value = fold_at(batch.problem, natural)
    return statistics.sums, value - jnp.sum(statistics.sums * natural)


def maximised(batch: Batch, statistics: Statistics) -> Parameters:
    """Give θ(s): the M-step from N rows of these statistics a row."""
    return m_step(batch.problem.family, _scaled(statistics, batch.whole), batch.problem.hyper)


def _scaled(statistics: Statistics, factor: Any) -> Statistics:
    return jax.tree.map(lambda leaf: leaf * factor, statistics)


def _between(old: Any, new: Any, weight: Any) -> Any:
    return jax.tree.map(lambda a, b: (1.0 - weight) * a + weight * b, old, new)
