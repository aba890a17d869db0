"""What importance weights w = p(x, θ) / q(θ), θ ~ q, say: the ELBO, tighter bounds, the evidence, k-hat."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp

from triptych.inference.fit import Bound, Evidence, Route

__all__ = [
    "LARGEST_KHAT",
    "SIZES",
    "bound",
    "evidence",
    "from_weights",
    "largest_khat",
    "of_laplace",
    "smoothed",
]

LARGEST_KHAT = 0.7  # Vehtari, Simpson, Gelman, Yao & Gabry (2024), JMLR 25(72)
SIZES = (1, 10, 100, 1000)
LEAST = 25  # weights to which a tail can be fitted
EQUAL = 1e-8  # nats within which weights are all the same, and have no tail


def smoothed(log_weights: Any) -> tuple[np.ndarray, float]:
    """Smooth the largest weights by a fitted Pareto tail.

    Parameters
    ----------
    log_weights : (S,), nats; −inf, a draw where the density is 0, is left out.

    Returns
    -------
    The log-weights smoothed, in the same units, and k-hat; NaN where there is no tail to fit: fewer than 25
    weights, or all equal (the approximation is exact).
    """
    from arviz_stats.base import array_stats

    weights = np.ravel(np.asarray(log_weights, dtype=float))
    weights = weights[np.isfinite(weights)]
    if len(weights) < LEAST or np.ptp(weights) < EQUAL:
        return weights, float("nan")
    normalised, k = array_stats.psislw(np.max(weights) - weights)  # it takes −log w, as of likelihoods
    normalised = np.asarray(normalised, dtype=float)
    # psislw normalises; the raw weights below the tail, which it leaves alone, give the constant back.
    middle = np.argsort(weights)[: len(weights) // 2]
    return normalised + np.mean(weights[middle] - normalised[middle]), float(np.asarray(k))


def largest_khat(count: int) -> float:
    """Give the k-hat up to which this many weights can be relied on, min(1 − 1 / log₁₀ S, 0.7)."""
    return min(1 - 1 / float(np.log10(max(count, 11))), LARGEST_KHAT)


def evidence(log_weights: Any) -> Route:
    """Give log p(x) = log E_q[w] by Pareto-smoothed importance sampling, nats.

    The standard error is the delta method's, √(Var w / S) / E w; it means nothing where k-hat is above 0.7.
    """
    weights, k = smoothed(log_weights)
    count = np.size(log_weights)
    if len(weights) == 0:
        return Route("importance sampling", float("nan"), None, None)
    value = float(logsumexp(weights) - np.log(count))
    relative = np.append(np.exp(weights - value), np.zeros(count - len(weights)))
    error = float(np.std(relative, ddof=1) / np.sqrt(count)) if count > 1 else None
    return Route("importance sampling", value, error, None if np.isnan(k) else k)


def bound(log_weights: Any, draws: int) -> Bound | None:
    """Give the importance-weighted bound E log (1/K) Σ_k w_k, K = `draws`, by disjoint blocks of weights.

    Y. Burda, R. Grosse and R. Salakhutdinov (2016), Importance weighted autoencoders, ICLR. `None` where
    there are fewer than two blocks, or weights that are not finite.
    """
    weights = np.ravel(np.asarray(log_weights, dtype=float))
    blocks = len(weights) // draws
    if blocks < 2 or not np.all(np.isfinite(weights)):
        return None
    table = logsumexp(weights[: blocks * draws].reshape(blocks, draws), axis=1) - np.log(draws)
    return Bound(draws, float(np.mean(table)), float(np.std(table, ddof=1) / np.sqrt(blocks)))


def from_weights(log_weights: Any, how: str, sizes: Sequence[int] = SIZES, symmetry: float = 0.0) -> Evidence:
    """Build the ledger of an approximation from its importance weights.

    Parameters
    ----------
    log_weights : (S,) log p(x, θ_s) − log q(θ_s), θ_s ~ q, nats; labels counted.
    how : what q is.
    sizes : K of the bounds.
    symmetry : nats that the weights hold for separate copies of the mode.

    Returns
    -------
    The ELBO and the bounds; the evidence, and KL = evidence − ELBO with the error of the difference (the
    same draws are in both), where k-hat is small enough.
    """
    weights = np.ravel(np.asarray(log_weights, dtype=float))
    if weights.size == 0 or not np.all(np.isfinite(weights)):
        lost = int(np.sum(~np.isfinite(weights)))
        return Evidence(method=f"no bound: the density is 0 at {lost} of {weights.size} draws of {how}")
    count = weights.size
    elbo = float(np.mean(weights))
    elbo_error = float(np.std(weights, ddof=1) / np.sqrt(count)) if count > 1 else None
    bounds = tuple(found for found in (bound(weights, size) for size in sizes) if found is not None)
    route = evidence(weights)
    fine = count >= LEAST and (route.k_hat is None or route.k_hat <= largest_khat(count))
    if not fine:
        return Evidence(
            elbo=elbo,
            standard_error=elbo_error,
            method=f"ELBO of {how}, {count} draws",
            elbo_error=elbo_error,
            bounds=bounds,
            routes=(route,),
            symmetry=symmetry,
        )
    difference = np.exp(weights - route.nats) - weights
    return Evidence(
        log_evidence=route.nats,
        elbo=elbo,
        kl=route.nats - elbo,
        standard_error=route.standard_error,
        method=f"importance sampling from {how}, {count} draws",
        elbo_error=elbo_error,
        kl_error=float(np.std(difference, ddof=1) / np.sqrt(count)),
        bounds=bounds,
        routes=(route,),
        symmetry=symmetry,
    )


def of_laplace(log_evidence: float, log_weights: Any, how: str, symmetry: float = 0.0) -> Evidence:
    """Build the ledger of Laplace's approximation: its own log p(x), and what its Gaussian's weights say.

    Parameters
    ----------
    log_evidence : Laplace's, nats, labels counted.
    log_weights : of draws of the Gaussian, as in `from_weights`; `None` where it does not span the space.
    how : where the mode was found.
    symmetry : nats that both hold for separate copies of the mode.
    """
    route = Route(how, log_evidence)
    if log_weights is None:
        return Evidence(log_evidence, method=how, routes=(route,), symmetry=symmetry)
    found = from_weights(log_weights, "Laplace's Gaussian", symmetry=symmetry)
    return dataclasses.replace(
        found, log_evidence=log_evidence, standard_error=None, method=how, routes=(route, *found.routes)
    )
