"""Evidences without Monte Carlo: Bayesian linear regression, in closed form and by quadrature.

For fixed λ and β (Bishop 2006, section 3.5), with X = U S Vᵀ centred if there is an intercept, c = Uᵀy and
R = |y − U c|²,

    log p(y | λ, β) = ½ [(N − r) log β − β R − Σ_i (log v_i + c_i²/v_i) − N log 2π],   v_i = 1/β + s_i²/λ,

plus ½ log(2π / (β N)) for an intercept with a flat prior of density 1. λ and β are integrated out over their
Gamma priors by the trapezium rule in (log λ, log β), turned and scaled by the curvature at the mode: on a
smooth function that vanishes at both ends it converges faster than any power of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp

from triptych.inference.em.regression import Moments, decompose
from triptych.inference.fit import Route
from triptych.models.linear_regression import BayesianLinearRegression

__all__ = ["exact_evidence", "log_integral", "regression_evidence"]

STEP = 0.25  # of the grid, in standard deviations at the mode
DROP = 40.0  # nats below the highest value at which the grid ends
WIDEST = 400  # steps to a side, at most


def regression_evidence(moments: Moments, precision: Any, noise: Any, *, intercept: bool) -> np.ndarray:
    """Give log p(y | λ, β), w (and a flat intercept) integrated out, nats, at many λ and β (n,).

    Parameters
    ----------
    moments : of the centred data if there is an intercept, else of the data (`em.regression.decompose`).
    precision, noise : λ and β.
    """
    precision, noise = np.atleast_1d(precision).astype(float), np.atleast_1d(noise).astype(float)
    s2, c2 = np.asarray(moments.singular) ** 2, np.asarray(moments.projected) ** 2
    rows, rank = float(moments.rows), len(s2)
    variances = 1 / noise[:, None] + s2 / precision[:, None]
    value = (rows - rank) * np.log(noise) - noise * float(moments.residual)
    value -= np.sum(np.log(variances) + c2 / variances, axis=1) + rows * np.log(2 * np.pi)
    flat = np.log(2 * np.pi / (noise * rows)) if intercept else 0.0
    return 0.5 * (value + flat)


def exact_evidence(model: Callable[..., Any], args: tuple[Any, ...]) -> Route | None:
    """Give log p(x) of a model whose evidence is known without Monte Carlo; `None` for any other.

    Parameters
    ----------
    model : a `BayesianLinearRegression`.
    args : what it is called with, (X, y).

    Returns
    -------
    The evidence with the error of the quadrature: what halving its step changes.
    """
    if not isinstance(model, BayesianLinearRegression) or len(args) != 2:
        return None
    X, y = (np.asarray(value, dtype=float) for value in args)
    prior = model.prior(X, y)
    if model.intercept:
        moments, _ = decompose(X - X.mean(axis=0), y - y.mean())
    else:
        moments, _ = decompose(X, y)

    def log_density(t: np.ndarray) -> np.ndarray:
        """Log p(y, λ, β) of t = (log λ, log β), (n, 2), the Jacobian λ β with it."""
        value = regression_evidence(moments, np.exp(t[:, 0]), np.exp(t[:, 1]), intercept=model.intercept)
        for axis, (shape, rate) in enumerate(zip(prior[::2], prior[1::2], strict=True)):
            value += shape * (np.log(rate) + t[:, axis]) - gammaln(shape) - rate * np.exp(t[:, axis])
        return value

    variance = (np.sum(moments.projected**2) + moments.residual) / moments.rows
    unit = np.sum(moments.singular**2) / moments.rows / variance
    start = np.log([max(float(unit), 1e-300), 2 / max(float(variance), 1e-300)])
    value, error = log_integral(log_density, start)
    return Route("quadrature over λ and β of the closed form", value, error)


def log_integral(log_density: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> tuple[float, float]:
    """Integrate exp(log_density) over the plane: log ∫∫, nats, and what halving the step changes.

    Parameters
    ----------
    log_density : points (n, 2) → (n,), nats, smooth and with one bulk.
    start : (2,), somewhere in the bulk.
    """

    def negative(t: np.ndarray) -> float:
        value = float(log_density(t[None])[0])
        return -value if np.isfinite(value) else 1e300

    found = minimize(negative, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    top, height = np.asarray(found.x), -float(found.fun)
    axes = _axes(log_density, top)
    reach = [_reach(log_density, top, axes, direction, height) for direction in range(4)]
    first, second = (np.arange(-2 * low, 2 * high + 1) for low, high in (reach[:2], reach[2:]))
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1) * (STEP / 2)
    values = log_density(top + grid.reshape(-1, 2) @ axes.T).reshape(grid.shape[:2])
    cell = 2 * np.log(STEP / 2) + np.linalg.slogdet(axes)[1]
    fine = float(logsumexp(values) + cell)
    coarse = float(logsumexp(values[first % 2 == 0][:, second % 2 == 0]) + cell + np.log(4))
    return fine, abs(fine - coarse)


def _axes(log_density: Callable[[np.ndarray], np.ndarray], top: np.ndarray) -> np.ndarray:
    """Give A, (2, 2), whose columns are the standard deviations' directions at the mode."""
    h = 1e-3
    steps = h * np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)], dtype=float)
    f = log_density(top + steps).reshape(3, 3)
    mixed = (f[2, 2] - f[2, 0] - f[0, 2] + f[0, 0]) / 4
    second = [f[2, 1] - 2 * f[1, 1] + f[0, 1], f[1, 2] - 2 * f[1, 1] + f[1, 0]]
    values, vectors = np.linalg.eigh(-np.array([[second[0], mixed], [mixed, second[1]]]) / h**2)
    return vectors / np.sqrt(np.clip(values, 1e-2, None))


def _reach(
    log_density: Callable[[np.ndarray], np.ndarray],
    top: np.ndarray,
    axes: np.ndarray,
    direction: int,
    height: float,
) -> int:
    """Say how many steps to go in a direction until the density is e^−40 of its top, whatever the other axis.

    The other axis is looked along too, so that a bulk that bends is not cut off.
    """
    axis, sign = divmod(direction, 2)
    other = np.linspace(-16, 16, 65)
    for steps in range(16, WIDEST + 1, 8):
        points = np.empty((len(other), 2))
        points[:, axis], points[:, 1 - axis] = (2 * sign - 1) * steps * STEP, other
        if np.max(log_density(top + points @ axes.T)) < height - DROP:
            return steps
    return WIDEST
