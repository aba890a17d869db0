"""Batch-and-match: a full-rank Gaussian fitted by matching scores, without a step size.

At step t, B draws z_b of q_t = N(μ, Σ) with scores g_b = ∇ log p(z_b), their means z̄ and ḡ and covariances C
and G (divisor B), and the weight λ_t give the next Gaussian as the minimiser of the score-based divergence to
the batch plus KL(q_t ‖ q)/λ_t:

    U = λ G + λ/(1+λ) ḡ ḡᵀ,      V = Σ + λ C + λ/(1+λ) (μ − z̄)(μ − z̄)ᵀ = L Lᵀ
    Σ' = 2 L (I + (I + 4 Lᵀ U L)^½)⁻¹ Lᵀ,      μ' = μ/(1+λ) + λ/(1+λ) (Σ' ḡ + z̄)

λ_t = B p/(t + 1). A Gaussian target is the fixed point, reached exponentially fast from a few standard
deviations away; from far away the covariance collapses first, and the way is long.

D. Cai, C. Modi, L. Pillaud-Vivien, C. C. Margossian, R. M. Gower, D. M. Blei and L. K. Saul (2024), Batch and
match: black-box variational inference with a score-based divergence, ICML, algorithm 1; the square root is
taken of a symmetric matrix here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from triptych.inference.effort import in_order
from triptych.inference.em.family import Array
from triptych.inference.sharing import kept

__all__ = ["WINDOW", "Matched", "divergence", "match", "matched_step"]

WINDOW = 20  # steps compiled as one loop, and averaged
LEAST = 4  # windows before the run may stop: a quarter is one


class Matched(NamedTuple):
    """What the run leaves.

    Attributes
    ----------
    mean, covariance : of the Gaussian, (p,) and (p, p): the average of the second half of the iterates.
    objective : (steps,), the ELBO as each batch estimates it, nats.
    distance : (windows,), the symmetrised KL between the averages of two quarters of the run, nats.
    converged, finite : how it ended.
    """

    mean: np.ndarray
    covariance: np.ndarray
    objective: np.ndarray
    distance: np.ndarray
    converged: bool
    finite: bool


def matched_step(
    mean: Array, covariance: Array, points: Array, scores: Array, weight: Array
) -> tuple[jax.Array, jax.Array]:
    """Give the next mean and covariance from a batch.

    Parameters
    ----------
    points, scores : (B, p). weight : λ.
    """
    share = weight / (1.0 + weight)
    middle, slope = jnp.mean(points, axis=0), jnp.mean(scores, axis=0)
    spread, rough = points - middle, scores - slope
    U = weight * rough.T @ rough / len(points) + share * slope[:, None] * slope
    V = covariance + weight * spread.T @ spread / len(points)
    V += share * (mean - middle)[:, None] * (mean - middle)
    L = jnp.linalg.cholesky(V)
    values, vectors = jnp.linalg.eigh(L.T @ U @ L)
    root = L @ vectors * jnp.sqrt(2.0 / (1.0 + jnp.sqrt(1.0 + 4.0 * jnp.maximum(values, 0.0))))
    following = root @ root.T
    return mean / (1.0 + weight) + share * (following @ slope + middle), following


def match(
    key: jax.Array,
    value_and_grad: Partial,
    mean: np.ndarray,
    covariance: np.ndarray,
    *,
    batch: int,
    steps: int,
    tol: float,
    progress: Callable[[int, int, float], None] | None = None,
) -> Matched:
    """Match from a first Gaussian until the averages of two quarters of the run agree.

    The estimate is the average of the second half of all iterates; the run has converged when the first and
    the second half of that half are closer than `tol` (symmetrised KL, nats a coordinate).

    Parameters
    ----------
    value_and_grad : one z (p,) → log density and score; a pytree (`jax.tree_util.Partial`).
    batch : draws, hence gradients, a step.
    steps : at most; whole windows of `WINDOW`.
    """
    size = len(mean)

    # Its own program, which goes when nobody remembers the run: one for all would keep every density.
    window = kept(("match", value_and_grad.func, batch), lambda: in_order(partial(_window, batch=batch)))
    state: Any = (jnp.asarray(mean, float), jnp.asarray(covariance, float))
    means: list[np.ndarray] = []
    covariances: list[np.ndarray] = []
    objective: list[np.ndarray] = []
    distance: list[float] = []
    for index in range(max(steps // WINDOW, 1)):
        key_window, first = jax.random.fold_in(key, index), jnp.asarray(index * WINDOW)
        state, average, elbo = window(value_and_grad, key_window, state, first)
        if not all(np.all(np.isfinite(part)) for part in average):
            return Matched(mean, covariance, _joined(objective), np.asarray(distance), False, False)
        means.append(np.asarray(average[0]))
        covariances.append(np.asarray(average[1]))
        objective.append(np.asarray(elbo))
        done = index + 1
        if progress is not None:
            progress(done * WINDOW, max(steps // WINDOW, 1) * WINDOW, float(np.mean(elbo)))
        distance.append(_unsettled(means, covariances))
        if done >= LEAST and distance[-1] < tol * size:
            break
    half = slice(len(means) // 2, None)
    converged = distance[-1] < tol * size
    return Matched(
        np.mean(means[half], axis=0),
        np.mean(covariances[half], axis=0),
        _joined(objective),
        np.asarray(distance),
        bool(converged),
        True,
    )


def _window(
    value_and_grad: Partial, key: jax.Array, state: tuple[Any, Any], first: Any, *, batch: int
) -> Any:
    """Take `WINDOW` steps: the last state, the average of all, and the ELBO that each batch estimates."""
    size = state[0].shape[0]

    def step(state: tuple[Any, Any], item: tuple[Any, Any]) -> Any:
        (mean, covariance), (key, index) = state, item
        root = jnp.linalg.cholesky(covariance)
        noise = jax.random.normal(key, (batch, size), mean.dtype)
        points = mean + noise @ root.T
        values, scores = jax.vmap(value_and_grad)(points)
        # A draw without a density says nothing: its score is q's own.
        own = -jax.scipy.linalg.solve_triangular(root.T, noise.T, lower=False).T
        fine = jnp.isfinite(values) & jnp.all(jnp.isfinite(scores), axis=1)
        scores = jnp.where(fine[:, None], scores, own)
        log_det = jnp.sum(jnp.log(jnp.diagonal(root)))
        entropy = 0.5 * size * (1 + np.log(2 * np.pi)) + log_det
        elbo = jnp.mean(values) + entropy
        following = matched_step(mean, covariance, points, scores, batch * size / (index + 1.0))
        return following, (following, elbo)

    indices = first + jnp.arange(WINDOW)
    state, (states, elbo) = jax.lax.scan(step, state, (jax.random.split(key, WINDOW), indices))
    return state, jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), states), elbo


def _unsettled(means: list[np.ndarray], covariances: list[np.ndarray]) -> float:
    """Give the symmetrised KL between the third and the last quarter of the windows' averages."""
    done, quarter = len(means), len(means) // 4
    if not quarter:
        return float("inf")
    early, late = slice(done - 2 * quarter, done - quarter), slice(done - quarter, done)
    return divergence(
        (np.mean(means[early], axis=0), np.mean(covariances[early], axis=0)),
        (np.mean(means[late], axis=0), np.mean(covariances[late], axis=0)),
    )


def divergence(first: tuple[Any, Any], second: tuple[Any, Any]) -> float:
    """KL(q₁ ‖ q₂) + KL(q₂ ‖ q₁) of two Gaussians (mean, covariance), nats."""
    (m, S), (n, T) = first, second
    gap = np.linalg.solve(S, m - n) + np.linalg.solve(T, m - n)
    trace = np.trace(np.linalg.solve(S, T)) + np.trace(np.linalg.solve(T, S))
    return float(0.5 * (trace - 2 * len(m) + (m - n) @ gap))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)
