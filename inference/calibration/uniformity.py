"""Whether ranks are uniform, and if not, in which direction: too high, too low, too narrow, too wide.

A rank r among L draws becomes the probability integral transform u = (r + v) / (L + 1), v uniform, which is
uniform on (0, 1) if truth and draws have one distribution (Talts et al. 2018, theorem 1).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Verdict", "asymmetry", "band", "judge", "p_value", "pit", "rank_of"]

NULL = 4000  # draws of the null distribution; p-values are multiples of 1 / (NULL + 1)
FLIPS = 999  # sign flips of the test of symmetry
MOST_POINTS = 200  # at which the empirical distribution is looked at
PLAIN = 2.0  # standard errors from which a shift or a width is called by its name


class Verdict(NamedTuple):
    """What the ranks of one quantity say.

    Attributes
    ----------
    p_value : of uniformity.
    asymmetry_p : of symmetry about ½ (VSBC): small where the posterior's location is biased.
    shift : how far the posterior lies above the truth on average, in its own standard deviations.
    width : how many times wider the posterior should be to hold the truth as often as it says; 1 is right.
    direction : "too high", "too low", "too narrow", "too wide" or "misshapen": the way it would be wrong.
    """

    p_value: float
    asymmetry_p: float
    shift: float
    width: float
    direction: str


def rank_of(truth: float, draws: np.ndarray, rng: np.random.Generator) -> int:
    """Give how many draws lie below the truth, ties broken at random: 0 … L."""
    ties = int(np.sum(draws == truth))
    return int(np.sum(draws < truth)) + (int(rng.integers(ties + 1)) if ties else 0)


def pit(ranks: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Give u = (r + v) / (L + 1), (S,), uniform under the null whatever L is."""
    return (np.asarray(ranks) + rng.uniform(size=len(ranks))) / (draws + 1)


def p_value(ranks: np.ndarray, draws: int) -> float:
    """Test that ranks are uniform on 0 … L, by the worst point of their empirical distribution.

    The statistic is γ = min_z 2 min(P(C ≤ c_z), P(C ≥ c_z)), c_z the number of ranks below z and
    C ~ Binomial(S, z / (L + 1)): that of the simultaneous bands of Säilynoja, Bürkner & Vehtari (2022,
    Statistics and Computing 32, section 2.2). Its null distribution is simulated, from a fixed seed.
    """
    observed = _gamma(_counts(np.asarray(ranks)[None], draws), len(ranks), draws)[0]
    null = _null(len(ranks), draws)
    return float((1 + np.sum(null <= observed * (1 + 1e-9))) / (1 + len(null)))


def band(simulations: int, probability: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the simultaneous band of the empirical distribution of S uniform values less the diagonal.

    By `arviz_stats`' own simulation. Returns the points z, and the lower and upper ends at each.
    """
    from arviz_stats.ecdf_utils import ecdf_pit

    rng = np.random.default_rng(0)
    values = (np.arange(simulations) + 0.5) / simulations
    points, _, lower, upper = ecdf_pit(values, probability, 1000, rng=rng)
    return np.asarray(points), np.asarray(lower) - points, np.asarray(upper) - points


def asymmetry(u: np.ndarray) -> float:
    """Test that u is symmetric about ½, the Kolmogorov–Smirnov distance of u from 1 − u by sign flips.

    Yao, Vehtari, Simpson & Gelman (2018, "Yes, but did it work?", ICML, section 4): a variational posterior
    that is too narrow fails every test of uniformity; asymmetry shows that its location is biased.
    Under symmetry each u is as likely as 1 − u, so the flips give an exact p-value.
    """
    rng = np.random.default_rng(0)
    u = np.asarray(u, float)
    grid = np.linspace(0, 0.5, 51)[1:]
    flips = rng.random((FLIPS, len(u))) < 0.5
    every = np.concatenate([u[None], np.where(flips, 1 - u, u)])
    # F(t) − (1 − F(1 − t)): values in the lower tail against those in the upper one.
    lower = (every[:, :, None] < grid).mean(axis=1) if every.size * 50 < 10**7 else None
    if lower is None:
        lower = np.stack([(every < t).mean(axis=1) for t in grid], axis=1)
        upper = np.stack([(every > 1 - t).mean(axis=1) for t in grid], axis=1)
    else:
        upper = (every[:, :, None] > 1 - grid).mean(axis=1)
    distance = np.abs(lower - upper).max(axis=1)
    return float(np.mean(distance >= distance[0] - 1e-12))


def judge(ranks: np.ndarray, draws: int) -> Verdict:
    """Look at the ranks (S,) of one quantity among L draws."""
    u = pit(ranks, draws, np.random.default_rng(0))
    count = len(u)
    normal = stats.norm.ppf(u)
    moved = (0.5 - u.mean()) * np.sqrt(12 * count)
    # Var (u − ½)² = 1/180; its mean is 1/12.
    spread = (np.mean((u - 0.5) ** 2) - 1 / 12) * np.sqrt(180 * count)
    if max(abs(moved), abs(spread)) < PLAIN:
        direction = "misshapen"
    elif abs(moved) >= abs(spread):
        direction = "too high" if moved > 0 else "too low"
    else:
        direction = "too narrow" if spread > 0 else "too wide"
    width = float(normal.std()) if count > 1 else 1.0
    return Verdict(p_value(ranks, draws), asymmetry(u), float(-normal.mean()), width, direction)


def _points(draws: int) -> np.ndarray:
    """Give the ranks z at which those below are counted: 1 … L, or evenly spaced ones of them."""
    return np.unique(np.linspace(1, draws, min(draws, MOST_POINTS)).astype(int))


def _counts(ranks: np.ndarray, draws: int) -> np.ndarray:
    """Count the ranks below each point: (n, S) → (n, points)."""
    histogram = np.apply_along_axis(np.bincount, 1, ranks, minlength=draws + 1)
    return np.cumsum(histogram, axis=1)[:, _points(draws) - 1]


def _gamma(counts: np.ndarray, simulations: int, draws: int) -> np.ndarray:
    table = _tails(simulations, draws)
    return table[np.arange(counts.shape[1]), counts].min(axis=1)


@lru_cache(maxsize=16)
def _tails(simulations: int, draws: int) -> np.ndarray:
    """Give the two-sided tail probability of every count at every point, (points, S + 1)."""
    share = (_points(draws) / (draws + 1))[:, None]
    count = np.arange(simulations + 1)
    binomial: Any = stats.binom
    return 2 * np.minimum(binomial.cdf(count, simulations, share), binomial.sf(count - 1, simulations, share))


@lru_cache(maxsize=16)
def _null(simulations: int, draws: int) -> np.ndarray:
    """Simulate the statistic under uniform ranks, (NULL,)."""
    rng = np.random.default_rng(0)
    parts = [
        _gamma(_counts(rng.integers(draws + 1, size=(500, simulations)), draws), simulations, draws)
        for _ in range(NULL // 500)
    ]
    return np.concatenate(parts)
