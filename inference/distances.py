"""How far one posterior is from another, a parameter element at a time, in the reference's own units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from triptych.inference.importance import smoothed
from triptych.inference.unconstrained import element_names

__all__ = ["distances", "elements", "khat", "noise_floor", "rhat_and_ess"]

LEVEL = 0.95  # of the equal-tailed intervals
TAILS = (0.05, 0.95)


def elements(samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Split draws into scalars: `means[1,0]` → (chain, draw)."""
    return {
        name: values.reshape(*values.shape[:2], -1)[..., i]
        for site, values in samples.items()
        for i, name in enumerate(element_names(site, values.shape[2:]))
    }


def distances(draws: np.ndarray, reference: np.ndarray | None) -> dict[str, float]:
    """Summarise the draws of one scalar and measure them against the reference's.

    With mean m, standard deviation s and reference mean m*, sd s*:
    mean_error = (m − m*) / s*; sd_ratio = s / s*; wasserstein = W₁ / s*; tail = the larger of
    |q − q*| / s* at 5 % and 95 %; noise = the Monte Carlo standard error of mean_error that both samples'
    sizes leave, √(s²/n + s*²/n*) / s*, n effective.

    Parameters
    ----------
    draws : (chain, draw).
    reference : (chain, draw), or `None` where the reference does not have this scalar.

    Returns
    -------
    mean, sd, lower, upper (95 % equal-tailed), mean_error, sd_ratio, wasserstein, tail, noise; NaN where
    there is nothing to measure against (no reference, or one without spread).
    """
    tail = (1 - LEVEL) / 2
    lower, upper = np.quantile(draws, [tail, 1 - tail])
    mean, sd = float(np.mean(draws)), _sd(draws)
    row = {"mean": mean, "sd": sd, "lower": float(lower), "upper": float(upper)}
    row |= dict.fromkeys(("mean_error", "sd_ratio", "wasserstein", "tail", "noise"), float("nan"))
    if reference is None:
        return row
    unit = _sd(reference)
    if not unit > 0:
        return row
    from scipy.stats import wasserstein_distance

    error = np.hypot(sd / np.sqrt(_effective(draws)), unit / np.sqrt(_effective(reference)))
    return row | {
        "mean_error": (mean - float(np.mean(reference))) / unit,
        "sd_ratio": sd / unit,
        "wasserstein": float(wasserstein_distance(draws.ravel(), reference.ravel())) / unit,
        "tail": float(np.max(np.abs(np.quantile(draws, TAILS) - np.quantile(reference, TAILS)))) / unit,
        "noise": float(error / unit),
    }


def noise_floor(reference: np.ndarray) -> float:
    """Give W₁ between two halves of the reference, in its sds: what "no distance" looks like in its draws.

    The halves are of its chains, or of a single chain's draws; NaN where there is no spread.
    """
    from scipy.stats import wasserstein_distance

    chains, count = reference.shape
    unit = _sd(reference)
    if not unit > 0 or reference.size < 4:
        return float("nan")
    if chains > 1:
        first, second = reference[: chains // 2], reference[chains - chains // 2 :]
    else:
        first, second = reference[:, : count // 2], reference[:, count - count // 2 :]
    return float(wasserstein_distance(first.ravel(), second.ravel())) / unit


def rhat_and_ess(samples: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Give the worst rank-normalised split R-hat and the smallest bulk ESS of all elements.

    R-hat is NaN with fewer than two chains. Elements that never move are left out.
    """
    import arviz_stats

    moving = {name: v for name, v in elements(samples).items() if np.ptp(v) > 0}
    if not moving:
        return float("nan"), float("nan")
    stacked = np.stack(list(moving.values()), axis=-1)
    array = xr.DataArray(stacked, dims=("chain", "draw", "element"))
    ess = float(np.nanmin(np.asarray(arviz_stats.ess(array))))
    if stacked.shape[0] < 2:
        return float("nan"), ess
    return float(np.nanmax(np.asarray(arviz_stats.rhat(array)))), ess


def khat(log_weights: Any) -> float:
    """Give the Pareto k-hat of importance weights: below 0.7, the draws can stand in for the posterior.

    Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25(72). NaN where
    there is no tail to fit: fewer than 25 weights, or all equal (the approximation is exact).
    """
    return smoothed(log_weights)[1]


def _sd(draws: np.ndarray) -> float:
    return float(np.std(draws, ddof=1)) if draws.size > 1 else 0.0


def _effective(draws: np.ndarray) -> float:
    from arviz_stats.base import array_stats

    if draws.shape[0] == 1 or draws.shape[1] < 4 or np.ptp(draws) == 0:
        return float(draws.size)  # one chain: Laplace's or a guide's draws, independent
    value = float(np.asarray(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean")))
    return value if np.isfinite(value) else float(draws.size)
