"""Posterior predictive checks: statistics of the data among those of replicates, by the kind of data."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Check", "Kind", "checks", "kind_of", "words"]

Kind = str  # "continuous", "counts" or "binary"
MOST_PAIRS = 120  # of binary columns, looked at two by two
EXTREME = 0.02  # two-sided p-value from which a statistic is called out


class Check(NamedTuple):
    """One statistic of the data against the same of the replicates.

    Attributes
    ----------
    statistic : what, in words: "sd of waiting".
    observed : of the data. low, high : the middle 95 % of the replicates.
    p : P(T(x*) ≥ T(x) | x), ties counted half (Gelman, Meng & Stern 1996).
    """

    statistic: str
    observed: float
    low: float
    high: float
    p: float

    @property
    def tail(self) -> float:
        """Give 2 min(p, 1 − p): small where the data are unlike the replicates."""
        return 2 * min(self.p, 1 - self.p)


def kind_of(data: np.ndarray, replicates: np.ndarray) -> Kind:
    """Tell binary cells, counts (whole numbers from 0 on) and continuous ones apart, NaN left aside.

    Whole numbers of which the replicates are not whole (ages under a normal distribution) are continuous.
    """
    values = np.concatenate([np.ravel(data), np.ravel(replicates)]).astype(float)
    values = values[~np.isnan(values)]
    if values.size and np.all((values == 0) | (values == 1)):
        return "binary"
    return "counts" if np.all((values >= 0) & (values == np.floor(values))) else "continuous"


def checks(data: np.ndarray, replicates: np.ndarray, columns: Sequence[str] = ()) -> tuple[Check, ...]:
    """Compare the statistics of a data site with those of its replicates.

    Continuous: mean, sd, least, largest and skewness of each column. Counts: mean, sd, largest, share of
    zeros, dispersion (variance / mean). Binary: mean of each column, sd of the rows' sums, share of rows that
    are all 0 and all 1, and of each pair of columns the share of rows that have both.

    Parameters
    ----------
    data : (N,) or (N, D), NaN where a cell is missing: it is left out of the replicates too.
    replicates : (S, N) or (S, N, D).
    columns : names of the columns.
    """
    table = np.asarray(data, float).reshape(len(data), -1)
    drawn = np.asarray(replicates, float).reshape(len(replicates), *table.shape)
    # A draw of θ from beyond the support's edge (an approximation's) has no data.
    drawn = drawn[np.all(np.isfinite(drawn) | np.isnan(table), axis=(1, 2))]
    if not len(drawn):
        return ()
    drawn = np.where(np.isnan(table), np.nan, drawn)
    kind = kind_of(table, drawn)
    if kind == "binary" and table.shape[1] == 1:
        kind = "counts"
    names = [columns[d] if d < len(columns) else f"column {d}" for d in range(table.shape[1])]
    if table.shape[1] == 1 and not columns:
        names = ["the data"]
    if kind == "binary":
        return _binary(table, drawn, names)
    statistics = CONTINUOUS if kind == "continuous" else COUNTS
    return tuple(
        _check(f"{what} of {name}", of(table[:, d]), of(drawn[:, :, d]))
        for d, name in enumerate(names)
        for what, of in statistics.items()
    )


def _check(statistic: str, observed: Any, drawn: np.ndarray) -> Check:
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size else (np.nan, np.nan)
    # Rounding must not decide between "the same" and "larger".
    close = np.isclose(drawn, observed, rtol=1e-9, atol=0)
    p = float(np.mean(np.where(close, 0.5, drawn > observed))) if drawn.size else float("nan")
    return Check(statistic, float(observed), float(low), float(high), p)


def _skewness(x: np.ndarray) -> Any:
    centred = x - np.nanmean(x, axis=-1, keepdims=True)
    variance = np.nanmean(centred**2, axis=-1)
    return np.nanmean(centred**3, axis=-1) / np.where(variance > 0, variance, np.nan) ** 1.5


def _mean(x: np.ndarray) -> Any:
    return np.nanmean(x, axis=-1)


Statistics = Mapping[str, Callable[[np.ndarray], Any]]
CONTINUOUS: Statistics = {
    "mean": _mean,
    "sd": lambda x: np.nanstd(x, axis=-1),
    "minimum": lambda x: np.nanmin(x, axis=-1),
    "maximum": lambda x: np.nanmax(x, axis=-1),
    "skewness": _skewness,
}
COUNTS: Statistics = {
    "mean": _mean,
    "sd": lambda x: np.nanstd(x, axis=-1),
    "maximum": lambda x: np.nanmax(x, axis=-1),
    "share of zeros": lambda x: np.nanmean(np.where(np.isnan(x), np.nan, x == 0), axis=-1),
    "dispersion (variance / mean)": lambda x: np.nanvar(x, axis=-1) / np.maximum(_mean(x), 1e-300),
}


def _binary(table: np.ndarray, drawn: np.ndarray, names: Sequence[str]) -> tuple[Check, ...]:
    own, theirs = np.nansum(table, axis=-1), np.nansum(drawn, axis=-1)
    full = (~np.isnan(table)).sum(axis=-1)
    found = [
        _check(f"mean of {name}", _mean(table[:, d]), _mean(drawn[:, :, d])) for d, name in enumerate(names)
    ]
    found += [
        _check("sd of the rows' sums", own.std(), theirs.std(axis=-1)),
        _check("share of rows that are all 0", np.mean(own == 0), np.mean(theirs == 0, axis=-1)),
        _check("share of rows that are all 1", np.mean(own == full), np.mean(theirs == full, axis=-1)),
    ]
    pairs = list(itertools.combinations(range(len(names)), 2))
    step = -(-len(pairs) // MOST_PAIRS) if pairs else 1
    found += [
        _check(
            f"share of rows with both {names[i]} and {names[j]}",
            _mean(table[:, i] * table[:, j]),
            _mean(drawn[:, :, i] * drawn[:, :, j]),
        )
        for i, j in pairs[::step]
    ]
    return tuple(found)


def words(found: Sequence[Check]) -> str:
    """Name the statistic that the replicates match worst."""
    known = [check for check in found if np.isfinite(check.p)]
    if not known:
        return ""
    worst = min(known, key=lambda check: check.tail)
    out = [check for check in known if check.tail < EXTREME]
    span = f"{worst.low:.4g} to {worst.high:.4g}"
    if not out:
        return (
            f"None of {len(known)} statistics of the data is far from those of the replicates; the worst "
            f"matched is the {worst.statistic}, {worst.observed:.4g} against {span} in 95 % of them."
        )
    more = f", and {len(out) - 1} more of {len(known)} statistics" if len(out) > 1 else ""
    side = "above" if worst.p < 0.5 else "below"
    reach = f"Bayesian p-value {worst.p:.3f}" if worst.tail > 0 else "none of them reaches it"
    return (
        f"The model does not reproduce the {worst.statistic}{more}: {worst.observed:.4g} in the data "
        f"is {side} what the replicates have, {span} in 95 % of them ({reach})."
    )
