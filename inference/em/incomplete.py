"""EM of full and tied Gaussian mixtures with missing cells: the E-step completes the sums, not the rows.

Rows that have the same cells o share everything but their numbers. For them and component k, with μ, Σ,

    x̂ = c + A x,      A = Σ_·o Σ_oo⁻¹,   c = μ − A μ_o       E[x | x_o, z = k]
    C = Σ − A Σ_o·                                            Cov[x | x_o, z = k]

and Σ_n r x̂ = c n + A Σ_n r x,  Σ_n r (x̂x̂ᵀ + C) = A (Σ_n r x xᵀ) Aᵀ + … + n C: the expected statistics of
the complete data are an affine map of those of the observed cells (Little & Rubin 2002, ch. 8; Ghahramani &
Jordan 1994). So rows are taken as in `fold.py`, by two matrix products a block of rows with the same cells,
each block's sums are completed, and the M-step is that of complete data.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.fold import CHUNK_BYTES, em_step, restricted
from triptych.inference.em.gaussian import TINY, GaussianFamily, symmetric
from triptych.models.matrices import inverse
from triptych.models.missing import blocks_of, moments, observed_part

__all__ = ["Block", "IncompleteProblem", "conditionals", "filled", "incomplete_problem"]


class Block(NamedTuple):
    """Blocks of rows with the same cells, stacked.

    `there` (M, D) is 0 or 1; `rows` (M, B, D) are standardised, 0 where there is no cell; `weights` (M, B)
    are 0 where there is no row; `labels` (M, B) or None.
    """

    there: Array
    rows: Array
    weights: Array
    labels: Array | None


class Conditionals(NamedTuple):
    """What the observed cells of a block say of all its cells.

    A and C (M, k, D, D); Σ_oo⁻¹ in `precision`, 0 elsewhere, and log |Σ_oo⁻¹| (M, k). k is K, or 1 where the
    components share Σ.
    """

    regression: Array
    covariance: Array
    precision: Array
    log_det: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "rows",
        "observed",
        "weights",
        "labels",
        "block",
        "centre",
        "inverse_scale",
        "hyper",
        "constant",
    ],
    meta_fields=["family", "with_prior", "chunk"],
)
@dataclasses.dataclass(frozen=True)
class IncompleteProblem:
    """A mixture of full or tied covariance bound to rows with missing cells: all that one EM step reads.

    `rows` (N, D) are filled in by regression, for the starts alone; `observed` (N, D) says where they are
    not. `block` holds the rows as the steps take them, `chunk` blocks at a time. The rest is as in
    `MixtureProblem`.
    """

    rows: Array
    observed: Array
    weights: Array | None
    labels: Array | None
    block: Block
    centre: Array
    inverse_scale: Array
    hyper: Any
    constant: Array
    family: GaussianFamily
    with_prior: bool
    chunk: int

    totals = None  # of tied covariances: they change with the parameters

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, Statistics]:
        """One EM step: θ → (θ', objective at θ in nats, statistics at θ)."""
        return em_step(self, parameters)

    def admit(self, parameters: Parameters) -> Parameters:
        """Bring a proposal within the constraints that the M-step keeps; NaN where it cannot be."""
        return self.family.admit(parameters, self.hyper)

    def expect(self, parameters: Parameters) -> tuple[Statistics, Array]:
        """Give the expected statistics of complete data, and the log-likelihood of the observed cells."""

        def body(index: Array, total: Any) -> Any:
            start = index * self.chunk
            blocks = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, self.chunk), self.block)
            return jax.tree.map(jnp.add, total, e_step(self.family, parameters, blocks))

        K, D = self.family.components, self.family.columns
        zero = (jnp.zeros(K), jnp.zeros((K, D)), jnp.zeros((K, D, D)), jnp.zeros(()))
        counts, first, second, value = lax.fori_loop(0, self.block.there.shape[0] // self.chunk, body, zero)
        parts = [counts[None], first.T]
        totals = jnp.zeros(())
        if self.family.covariance == "tied":
            totals = jnp.sum(second, axis=0)
        else:
            parts.append(second[:, *np.triu_indices(D)].T)
        return Statistics(jnp.concatenate(parts), totals), value

    def take(self, chosen: np.ndarray) -> IncompleteProblem:
        """Give the same problem on some of the rows."""
        rows = np.where(self.observed[chosen], np.asarray(self.rows)[chosen], np.nan)
        weights = None if self.weights is None else np.asarray(self.weights)[chosen]
        labels = None if self.labels is None else np.asarray(self.labels)[chosen]
        same = {
            n: getattr(self, n)
            for n in ("centre", "inverse_scale", "hyper", "constant", "family", "with_prior")
        }
        return incomplete_problem(rows, weights, labels, **same)


def conditionals(covariances: Array, there: Array) -> Conditionals:
    """Regress all columns on those that are there: covariances (k, D, D), there (M, D)."""
    precision, log_det = inverse(observed_part(covariances, there[:, None, :]))
    both = there[:, None, :, None] * there[:, None, None, :]
    identity, precision = jnp.eye(there.shape[1], dtype=covariances.dtype), precision * both
    # What was observed is itself, exactly: rounding must not move it.
    regression = jnp.where(there[:, None, :, None] > 0, identity * both, covariances @ precision)
    neither = (1 - there)[:, None, :, None] * (1 - there)[:, None, None, :]
    return Conditionals(regression, (covariances - regression @ covariances) * neither, precision, log_det)


def e_step(family: GaussianFamily, parameters: Parameters, block: Block) -> tuple[Array, Array, Array, Array]:
    """Give n (K,), Σ r x̂ (K, D) and Σ r (x̂x̂ᵀ + C) (K, D, D) of blocks, and their log-likelihood (nats)."""
    K, D = family.components, family.columns
    means, covariances = parameters["means"], parameters["covariances"].reshape(-1, D, D)
    there = block.there.astype(means.dtype)
    given = conditionals(covariances, there)
    linear = jnp.squeeze(given.precision @ means[:, :, None], -1)
    log_weights = jnp.log(jnp.maximum(parameters["weights"], TINY))
    cells = jnp.sum(there, axis=1)[:, None]
    constant = log_weights + 0.5 * (
        given.log_det - jnp.sum(linear * means, axis=-1) - cells * np.log(2 * np.pi)
    )
    first, second = np.triu_indices(D)
    squares = given.precision[..., first, second] * np.where(first == second, -0.5, -1.0)
    squares = jnp.broadcast_to(squares, (*linear.shape[:2], len(first)))
    natural = jnp.concatenate([constant[..., None], linear, squares], axis=-1).astype(block.rows.dtype)

    whole = GaussianFamily(K, D, "full")
    features = jnp.swapaxes(jax.vmap(whole.features)(block.rows), 1, 2)
    table = features @ jnp.swapaxes(natural, 1, 2)
    if block.labels is not None:
        table = restricted(table, block.labels)
    highest = jnp.max(table, axis=-1, keepdims=True)
    shifted = jnp.exp(table - highest)
    total = jnp.sum(shifted, axis=-1, keepdims=True)
    value = jnp.sum(jnp.squeeze(highest + jnp.log(total), -1) * block.weights)
    responsibilities = shifted / total * block.weights[..., None]
    sums = (jnp.swapaxes(responsibilities, 1, 2) @ features).astype(means.dtype)  # (M, K, F)
    return *_completed(sums, means, given), value.astype(means.dtype)


def _completed(sums: Array, means: Array, given: Conditionals) -> tuple[Array, Array, Array]:
    """Complete the sums (M, K, F) of what was observed, and add them over the blocks."""
    D = means.shape[1]
    counts, seen = sums[..., 0], sums[..., 1 : 1 + D, None]
    squares = symmetric(sums[..., 1 + D :], D)
    offset = means[..., None] - given.regression @ means[..., None]
    moved = given.regression @ seen
    cross = moved @ jnp.swapaxes(offset, -2, -1)
    mass = counts[..., None, None]
    second = given.regression @ squares @ jnp.swapaxes(given.regression, -2, -1)
    second += cross + jnp.swapaxes(cross, -2, -1)
    second += mass * (offset @ jnp.swapaxes(offset, -2, -1) + given.covariance)
    first = jnp.squeeze(mass * offset + moved, -1)
    return jnp.sum(counts, axis=0), jnp.sum(first, axis=0), jnp.sum(second, axis=0)


def filled(x: np.ndarray) -> np.ndarray:
    """Fill NaN cells of `x` (N, D) in by regression on the row's own, under one Gaussian."""
    if not np.any(np.isnan(x)):
        return x
    blocks = blocks_of(x)
    _, mean, deviation, covariance = moments(np.asarray(x, np.float64))
    covariance = covariance + np.diag(1e-9 * deviation**2 + (deviation == 0))
    there = blocks.patterns.astype(float)
    eye = np.eye(x.shape[1])
    inside = covariance * there[:, :, None] * there[:, None, :] + eye * (1 - there)[:, None, :]
    centred = np.where(np.isnan(x), 0.0, x - mean)[blocks.rows] * there[:, None, :]
    guess = np.linalg.solve(inside, np.swapaxes(centred, 1, 2)) * there[:, :, None]
    guess = np.swapaxes(covariance @ guess, 1, 2).reshape(-1, x.shape[1])[blocks.place] + mean
    return np.where(np.isnan(x), guess, x).astype(x.dtype)


def incomplete_problem(
    rows: np.ndarray, weights: np.ndarray | None, labels: np.ndarray | None, **same: Any
) -> IncompleteProblem:
    """Bind rows (N, D) with NaN cells, in the data's units; `same` are the other fields of the problem."""
    blocks = blocks_of(rows)
    size, (K, D) = blocks.rows.shape[1], (same["family"].components, rows.shape[1])
    width = 1 + D + D * (D + 1) // 2 + 2 * K
    # Beside its rows a block has some six matrices for each component.
    chunk = max(1, CHUNK_BYTES // (8 * (size * width + 6 * K * D * D)))
    chunk = min(chunk, len(blocks.patterns))
    short = -len(blocks.patterns) % chunk  # empty blocks, so that all chunks are of one size
    index = np.pad(blocks.rows, ((0, short), (0, 0)), constant_values=-1)
    there = np.pad(blocks.patterns, ((0, short), (0, 0)), constant_values=True).astype(rows.dtype)
    standard = (rows - np.asarray(same["centre"])) * np.asarray(same["inverse_scale"])
    one = np.ones(len(rows)) if weights is None else weights
    block = Block(
        there=jnp.asarray(there),
        rows=jnp.asarray(np.nan_to_num(standard)[index] * there[:, None, :], rows.dtype),
        weights=jnp.asarray(np.where(index < 0, 0.0, one[index]), rows.dtype),
        labels=None if labels is None else jnp.asarray(np.where(index < 0, -1, labels[index])),
    )
    return IncompleteProblem(
        rows=jnp.asarray(filled(rows)),
        observed=jnp.asarray(~np.isnan(rows)),
        weights=None if weights is None else jnp.asarray(weights),
        labels=None if labels is None else jnp.asarray(labels),
        block=block,
        chunk=chunk,
        **same,
    )
