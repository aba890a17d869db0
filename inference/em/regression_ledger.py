"""The ledger of EM for Bayesian linear regression, latent w: three Gaussians in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from triptych.models.errors import InputError
from triptych.models.linear_regression import BayesianLinearRegression

__all__ = ["gaussian_divergence", "regression_ledger", "weights_posterior"]


def weights_posterior(X: np.ndarray, y: np.ndarray, precision: float, noise: float) -> tuple[Any, Any]:
    """Give mean (D,) and covariance (D, D) of p(w | y, λ, β) = N(β S Xᵀy, S), S⁻¹ = λI + βXᵀX."""
    inverse = precision * np.eye(X.shape[1]) + noise * X.T @ X
    covariance = np.linalg.inv(inverse)
    return noise * np.linalg.solve(inverse, X.T @ y), 0.5 * (covariance + covariance.T)


def gaussian_divergence(mean: Any, covariance: Any, other_mean: Any, other_precision: Any) -> float:
    """Give KL(N(m, S) ‖ N(m', P⁻¹)) = ½ [tr PS + (m−m')ᵀP(m−m') − D − log |P| − log |S|], nats."""
    shift = mean - other_mean
    value = np.sum(other_precision * covariance) + shift @ other_precision @ shift - len(mean)
    return float(0.5 * (value - np.linalg.slogdet(other_precision)[1] - np.linalg.slogdet(covariance)[1]))


def regression_ledger(
    model: BayesianLinearRegression, parameters: Mapping[str, Any], X: Any, y: Any, q: Any = None
) -> tuple[float, float, float]:
    """Give log p(y | λ, β), ELBO(q) = E_q[log p(y, w | λ, β)] + H(q) and KL(q ‖ p(w | y, λ, β)), nats.

    The intercept is at its maximum, ȳ for centred columns, as in EM.

    Parameters
    ----------
    parameters : "lambda" and "beta".
    X, y : (N, D), (N,).
    q : `None`, the posterior at θ; another "lambda" and "beta"; or the "mean" (D,) and "covariance" (D, D) of
        a Gaussian.

    Raises
    ------
    InputError : a q that is none of these.
    """
    X, y = np.asarray(X, float), np.asarray(y, float)
    if model.intercept:
        X, y = X - X.mean(axis=0), y - y.mean()
    N, D = X.shape
    precision, noise = float(parameters["lambda"]), float(parameters["beta"])
    mean, covariance = _read(q, X, y, precision, noise)
    # log N(y; 0, I/β + XXᵀ/λ) through the (N, N) matrix: it shares nothing with the other two.
    total = np.eye(N) / noise + X @ X.T / precision
    log_likelihood = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    residual = y - X @ mean
    likelihood = N * np.log(noise / (2 * np.pi)) - noise * (
        residual @ residual + np.sum((X @ covariance) * X)
    )
    prior = D * np.log(precision / (2 * np.pi)) - precision * (mean @ mean + np.trace(covariance))
    entropy = D * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(covariance)[1]
    inverse = precision * np.eye(D) + noise * X.T @ X
    exact = np.linalg.solve(inverse, noise * X.T @ y)
    kl = gaussian_divergence(mean, covariance, exact, inverse)
    return float(log_likelihood), float(0.5 * (likelihood + prior + entropy)), kl


def _read(q: Any, X: np.ndarray, y: np.ndarray, precision: float, noise: float) -> tuple[Any, Any]:
    if q is None:
        return weights_posterior(X, y, precision, noise)
    if isinstance(q, Mapping) and {"lambda", "beta"} <= set(q):
        return weights_posterior(X, y, float(q["lambda"]), float(q["beta"]))
    D = X.shape[1]
    if isinstance(q, Mapping) and {"mean", "covariance"} <= set(q):
        mean, covariance = np.asarray(q["mean"], float), np.asarray(q["covariance"], float)
        if mean.shape == (D,) and covariance.shape == (D, D) and np.all(np.linalg.eigvalsh(covariance) > 0):
            return mean, covariance
    raise InputError(
        "`q` of a regression is the weights' posterior at another {'lambda', 'beta'}, or a Gaussian: "
        f"{{'mean': ({D},), 'covariance': ({D}, {D})}}, positive definite."
    )
