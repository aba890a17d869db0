"""EM of a mixture as a fold over rows: the E-step is a sum, and the M-step reads only the sum.

    table   = T(x) · η(θ)                      log p(x_n, z_n = k | θ)
    r       = softmax(table)                   responsibilities
    sums    = Σ_n w_n T(x_n) r_nᵀ              one more matrix product
    log p(x|θ) = Σ_n w_n logsumexp(table_n) + shared part

Rows are taken in chunks, so neither T(x) nor r is ever stored whole: memory beyond the data does not grow
with N·K. Sums of chunks are accumulated in float64 even where the rows are float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from triptych.inference.em.family import Array, Family, Parameters, Statistics

__all__ = ["MixtureProblem", "e_step", "fold", "m_step"]

NARROW = 64  # numbers a row of T(x) and the table together
CHUNK_BYTES = 2**22  # T(x) and the table of one chunk stay near the cores; measured best at 2 to 4 MiB


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "weights", "centre", "inverse_scale", "totals", "hyper", "constant"],
    meta_fields=["family", "with_prior"],
)
@dataclasses.dataclass(frozen=True)
class MixtureProblem:
    """A mixture bound to its data: all that one EM step reads.

    rows (N, D), weights (N,) or None; a row enters as (x − centre) · inverse_scale. `totals` are the
    statistics that no responsibility weighs, summed once. `hyper` are the prior's numbers in standardised
    units; `constant` takes the objective back to the data's units (nats). `family` and `with_prior` are
    static.
    """

    rows: Array
    weights: Array | None
    centre: Array
    inverse_scale: Array
    totals: Array
    hyper: NamedTuple
    constant: Array
    family: Family
    with_prior: bool

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, Statistics]:
        """One EM step: θ → (θ', objective at θ in nats, statistics at θ)."""
        statistics, log_likelihood = fold(self, parameters)
        objective = log_likelihood + self.constant
        if self.with_prior:
            objective += self.family.log_prior(parameters, self.hyper)
        return m_step(self.family, statistics, self.hyper), objective, statistics


def e_step(family: Family, natural: Array, rows: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Compute the expected statistics and the log-likelihood of standardised rows.

    Parameters
    ----------
    natural : (F, K), η(θ). rows : (n, D). weights : (n,) or None.

    Returns
    -------
    sums (F, K) and Σ_n w_n log Σ_k exp(T(x_n)·η_k) (nats), both in the dtype of the rows.
    """
    features = family.features(rows)
    table = features @ natural
    highest = jnp.max(table, axis=1, keepdims=True)
    shifted = jnp.exp(table - highest)
    total = jnp.sum(shifted, axis=1, keepdims=True)
    log_rows = highest + jnp.log(total)
    responsibilities = shifted / total
    if weights is not None:
        responsibilities *= weights[:, None]
        log_rows *= weights[:, None]
    return features.T @ responsibilities, jnp.sum(log_rows)


def m_step(family: Family, statistics: Statistics, hyper: NamedTuple) -> Parameters:
    """Parameters that maximise the expected log-joint (plus log prior): closed form, from the sums alone."""
    return family.maximise(statistics, hyper)


def fold(problem: MixtureProblem, parameters: Parameters) -> tuple[Statistics, Array]:
    """E-step over all rows, chunk by chunk: statistics and log-likelihood (nats, standardised units)."""
    family = problem.family
    natural = family.natural(parameters).astype(problem.rows.dtype)

    def one(chunk: Array, weights: Array | None) -> tuple[Array, Array]:
        return e_step(family, natural, chunk, weights)

    sums, value = over_chunks(problem, one)
    statistics = Statistics(sums, problem.totals)
    return statistics, value + family.base(parameters, problem.totals)


def over_chunks(problem: MixtureProblem, function: Callable[[Array, Array | None], Any]) -> Any:
    """Sum `function(rows, weights)` over chunks of standardised rows, any tree of arrays, in float64."""
    rows, size = problem.rows, chunk_rows(problem.family, problem.rows.dtype.itemsize)
    full, rest = divmod(rows.shape[0], size)

    def one(start: Array | int, length: int) -> Any:
        chunk = lax.dynamic_slice_in_dim(rows, start, length)
        chunk = (chunk - problem.centre) * problem.inverse_scale
        weights = problem.weights
        if weights is not None:
            weights = lax.dynamic_slice_in_dim(weights, start, length)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), function(chunk, weights))

    def add(carry: Any, start: Array | int, length: int) -> Any:
        return jax.tree.map(jnp.add, carry, one(start, length))

    shapes = jax.eval_shape(lambda: one(0, rest or size))
    carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    if full:
        carry = lax.fori_loop(0, full, lambda index, total: add(total, index * size, size), carry)
    return add(carry, full * size, rest) if rest else carry


def chunk_rows(family: Family, itemsize: int) -> int:
    """Rows a chunk, so that its features and its table fit the cache."""
    width = family.feature_count + 2 * family.components
    # A narrow table's arithmetic is too short to hide the loop around it.
    budget = CHUNK_BYTES if width >= NARROW else 2 * CHUNK_BYTES
    return max(256, budget // (width * itemsize))


@jax.jit
def collect_totals(problem: MixtureProblem) -> Array:
    """Σ_n w_n B(x_n) over all rows, chunk by chunk: done once for a data set."""
    return over_chunks(problem, problem.family.totals)
