"""EM of a mixture as a fold over rows: the E-step is a sum, and the M-step reads only the sum.

    table   = η(θ)ᵀ T(x)                       log p(x_n, z_n = k | θ), (K, n)
    r       = softmax over k                   responsibilities
    sums    = T(x) (w r)ᵀ                      one more matrix product, (F, K)
    log p(x|θ) = Σ_n w_n logsumexp_k(table_n) + shared part

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
import numpy as np
from jax import lax

from triptych.inference.em.family import Array, Family, Parameters, Statistics, halved
from triptych.inference.em.transposed_rows import TransposedRows

__all__ = [
    "MixtureProblem",
    "e_step",
    "em_step",
    "expected",
    "fold",
    "fold_at",
    "infer",
    "log_joints",
    "m_step",
    "restricted",
]

NARROW = 32  # numbers a row of T(x) and the table together
PLAIN_ROWS = 2048  # at least, a chunk, where T(x) is the row: nothing is made that a cache should hold
CHUNK_BYTES = 2**22  # T(x) and the table of one chunk stay near the cores; measured best at 2 to 8 MiB
DEVICE_BYTES = 2**27  # the same on a GPU, which a small chunk would not fill
DEVICE_BLOCKS = 128  # parts of a chunk, side by side: a sum over all its rows would keep few cores busy


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "weights", "labels", "centre", "inverse_scale", "totals", "hyper", "constant"],
    meta_fields=["family", "with_prior"],
)
@dataclasses.dataclass(frozen=True)
class MixtureProblem:
    """A mixture bound to its data: all that one EM step reads.

    rows (N, D), weights (N,) or None, labels (N,) or None (−1 where a row has none); a row enters as
    (x − centre) · inverse_scale, in the type of those two (zeros and ones are held as bytes), and transposed
    rows are that already. `totals` are
    the statistics that no responsibility weighs, summed once. `hyper` are the prior's numbers in
    standardised units; `constant` takes the objective back to the data's units (nats). `family` and
    `with_prior` are static.
    """

    rows: Array | TransposedRows
    weights: Array | None
    labels: Array | None
    centre: Array
    inverse_scale: Array
    totals: Array
    hyper: NamedTuple
    constant: Array
    family: Family
    with_prior: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the arithmetic on rows; sums of it are float64."""
        return np.dtype(self.inverse_scale.dtype)

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, Statistics]:
        """One EM step: θ → (θ', objective at θ in nats, statistics at θ)."""
        return em_step(self, parameters)

    def admit(self, parameters: Parameters) -> Parameters:
        """Bring a proposal within the constraints that the M-step keeps; NaN where it cannot be."""
        return self.family.admit(parameters, self.hyper)

    def expect(self, parameters: Parameters) -> tuple[Statistics, Array]:
        """Statistics and log-likelihood of the rows (nats, standardised units)."""
        return fold(self, parameters)

    def take(self, chosen: np.ndarray) -> MixtureProblem:
        """Give the same problem on some of the rows."""
        weights = None if self.weights is None else self.weights[chosen]
        labels = None if self.labels is None else self.labels[chosen]
        part = dataclasses.replace(self, rows=self.rows[chosen], weights=weights, labels=labels)
        return dataclasses.replace(part, totals=collect_totals(part))


def em_step(problem: Any, parameters: Parameters) -> tuple[Parameters, Array, Statistics]:
    """One EM step of a problem with `expect`: θ → (θ', objective at θ in nats, statistics at θ)."""
    statistics, objective = infer(problem, parameters)
    return m_step(problem.family, statistics, problem.hyper), objective, statistics


def infer(problem: Any, parameters: Parameters) -> tuple[Statistics, Array]:
    """E-step of a problem with `expect`: the statistics at θ, and the objective (nats)."""
    statistics, log_likelihood = problem.expect(parameters)
    objective = log_likelihood + problem.constant
    if problem.with_prior:
        objective += problem.family.log_prior(parameters, problem.hyper)
    return statistics, objective


def expected(problem: Any, parameters: Parameters, statistics: Statistics) -> Array:
    """Q(θ') = Σ S·η(θ') + base(θ') + log p(θ'), nats up to a constant: what the M-step maximises."""
    family = problem.family
    value = jnp.sum(statistics.sums * family.natural(parameters)) + family.base(parameters, statistics.totals)
    return value + (family.log_prior(parameters, problem.hyper) if problem.with_prior else 0.0)


def restricted(table: Array, labels: Array) -> Array:
    """Leave a row whose label is known (not −1) no other component: table (…, K), labels (…)."""
    known = labels[..., None]
    return jnp.where((known < 0) | (known == jnp.arange(table.shape[-1])), table, -jnp.inf)


def e_step(
    family: Family,
    natural: Array,
    rows: Array,
    weights: Array | None = None,
    labels: Array | None = None,
) -> tuple[Array, Array]:
    """Compute the expected statistics and the log-likelihood of standardised rows.

    Parameters
    ----------
    natural : (K, F), η(θ)ᵀ. rows : (n, D). weights, labels : (n,) or None.

    Returns
    -------
    sums (F, K) and Σ_n w_n log Σ_k exp(T(x_n)·η_k) (nats), both in the dtype of the rows.
    """
    table, summed = log_joints(family, natural, rows)
    if labels is not None:
        table = restricted(table.T, labels).T
    highest = halved(jnp.maximum, table)
    shifted = jnp.exp(table - highest)
    total = halved(jnp.add, shifted)
    log_rows = highest + jnp.log(total)
    scale = 1.0 / total
    if weights is not None:
        scale *= weights
        log_rows *= weights
    return summed(shifted * scale), jnp.sum(log_rows)


def log_joints(family: Family, natural: Array, rows: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Give log p(x_n, z_n = k | θ) but for what components share, from ηᵀ (K, F) and rows (n, D).

    Returns
    -------
    The table (K, n), and the function from weights r (K, n) to the sums Σ_n T(x_n) r_nᵀ (F, K).
    """
    features = family.features(rows)
    if not family.plain:
        return natural @ features, lambda r: features @ r.T
    # T(x) = [1, x, squares]: products with the rows and their squares as they lie, fenced in, since XLA would
    # turn them into the slower ones of transposes; the 1, and |x|², are added.
    columns, fence = rows.shape[1], lax.optimization_barrier
    wide = [slice(start, start + columns) for start in range(1, len(features) - columns + 1, columns)]
    blocks = [fence(features[place].T) for place in wide]
    rest = slice(1 + columns * len(wide), None)
    table = natural[:, :1] + natural[:, rest] @ features[rest]
    for block, place in zip(blocks, wide, strict=True):
        table += fence(block @ natural[:, place].T).T

    def summed(r: Array) -> Array:
        return jnp.concatenate(
            [jnp.sum(r, axis=1)[None], *(fence(r @ block).T for block in blocks), features[rest] @ r.T]
        )

    return table, summed


def m_step(family: Family, statistics: Statistics, hyper: NamedTuple) -> Parameters:
    """Parameters that maximise the expected log-joint (plus log prior): closed form, from the sums alone."""
    return family.maximise(statistics, hyper)


def fold(problem: MixtureProblem, parameters: Parameters) -> tuple[Statistics, Array]:
    """E-step over all rows, chunk by chunk: statistics and log-likelihood (nats, standardised units)."""
    statistics, value = fold_at(problem, problem.family.natural(parameters))
    return statistics, value + problem.family.base(parameters, problem.totals)


def fold_at(problem: MixtureProblem, natural: Array) -> tuple[Statistics, Array]:
    """E-step at natural parameters (F, K), which may be expected ones; Σ b(x, θ) is left out of the value."""
    # Turned once: a product of matrices as they lie is the faster one, in every chunk.
    turned = natural.T.astype(problem.dtype)

    def one(chunk: Array, weights: Array | None, labels: Array | None) -> tuple[Array, Array]:
        return e_step(problem.family, turned, chunk, weights, labels)

    sums, value = over_chunks(problem, one)
    return Statistics(sums, problem.totals), value


def over_chunks(problem: MixtureProblem, function: Callable[[Array, Array | None, Array | None], Any]) -> Any:
    """Sum `function(rows, weights, labels)` over chunks of standardised rows, any tree, in float64."""
    rows, size = problem.rows, chunk_rows(problem.family, problem.dtype.itemsize)
    blocks = 1 if jax.default_backend() == "cpu" else DEVICE_BLOCKS
    full, rest = divmod(rows.shape[0], size)

    def one(start: Array | int, length: int) -> Any:
        if isinstance(rows, TransposedRows):
            chunk = rows.stretch(start, length)
        else:
            chunk = lax.dynamic_slice_in_dim(rows, start, length)
            chunk = (chunk - problem.centre) * problem.inverse_scale
        weights, labels = (
            None if each is None else lax.dynamic_slice_in_dim(each, start, length)
            for each in (problem.weights, problem.labels)
        )
        if blocks == 1 or length % blocks:
            return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), function(chunk, weights, labels))
        split = jax.tree.map(lambda leaf: leaf.reshape(blocks, -1, *leaf.shape[1:]), (chunk, weights, labels))
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0, jnp.float64), jax.vmap(function)(*split))

    def add(carry: Any, start: Array | int, length: int) -> Any:
        return jax.tree.map(jnp.add, carry, one(start, length))

    # Left to itself XLA multiplies float32 on a GPU with 10 bits of mantissa.
    with jax.default_matmul_precision("highest"):
        shapes = jax.eval_shape(lambda: one(0, rest or size))
        carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        if full:
            carry = lax.fori_loop(0, full, lambda index, total: add(total, index * size, size), carry)
        return add(carry, full * size, rest) if rest else carry


def chunk_rows(family: Family, itemsize: int) -> int:
    """Rows a chunk, so that its features and its table fit the cache, or fill a GPU."""
    width = family.feature_count + 2 * family.components
    if jax.default_backend() != "cpu":
        return DEVICE_BLOCKS * max(1, DEVICE_BYTES // (width * itemsize) // DEVICE_BLOCKS)
    # A narrow table's arithmetic is too short to hide the loop around it.
    budget = CHUNK_BYTES if width >= NARROW else 2 * CHUNK_BYTES
    return max(PLAIN_ROWS if family.plain else 256, budget // (width * itemsize))


@jax.jit
def collect_totals(problem: MixtureProblem) -> Array:
    """Σ_n w_n B(x_n) over all rows, chunk by chunk: done once for a data set."""
    return over_chunks(problem, lambda rows, weights, _: problem.family.totals(rows, weights))
