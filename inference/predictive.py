"""How well each fit predicts a row that it has not seen: leave-one-out by importance sampling (PSIS-LOO)."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

__all__ = ["Loo", "difference", "loo"]

MOST = 4_000_000  # draws × rows of one fit; above, draws are thinned (the tail of each row is fitted apart)
LEAST_DRAWS = 100
MOST_ROWS = 20_000


class Loo(NamedTuple):
    """Expected log predictive density, nats.

    Attributes
    ----------
    elpd, se : Σ_n log p(x_n | x_−n) and its standard error over rows.
    p : effective number of parameters, what fitting the row itself gained.
    bad : rows with Pareto k above 0.7 (or what so few draws allow), whose term is not to be relied on.
    pointwise : (N,), each row's term.
    """

    elpd: float
    se: float
    p: float
    bad: int
    pointwise: np.ndarray


def loo(data: xr.DataTree) -> Loo | None:
    """Give PSIS-LOO of a fit from its pointwise log-likelihood, latents summed out, all data sites together.

    The draws are taken as they are: what is judged is the fit's own posterior, Laplace's or the guide's too.
    Vehtari, Gelman & Gabry (2017), Statistics and Computing 27. `None` where there is no pointwise
    log-likelihood, draws are few or stuck, or the rows are too many.
    """
    import arviz_stats

    if "log_likelihood" not in data.children:
        return None
    table = _rows(data["log_likelihood"].to_dataset())
    if table is None:
        return None
    chains, draws, rows = table.shape
    if chains * draws < LEAST_DRAWS or rows < 2 or rows > MOST_ROWS or not np.all(np.isfinite(table)):
        return None
    step = -(-table.size // MOST)
    table = table[:, ::step]
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({"row": (("chain", "draw"), np.zeros(table.shape[:2]))}),
            "log_likelihood": xr.Dataset({"row": (("chain", "draw", "unit"), table)}),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a large Pareto k: counted in `bad`
        warnings.simplefilter("ignore", RuntimeWarning)  # draws that repeat, of a chain that is stuck
        # Independent draws of one chain have no autocorrelation to allow for.
        try:
            found: Any = arviz_stats.loo(tree, pointwise=True, reff=1.0 if chains == 1 else None)
        except ValueError:  # the tail of a row's weights is one draw, again and again: the chains are stuck
            return None
    terms, k = np.asarray(found.elpd_i, float).ravel(), np.asarray(found.pareto_k, float).ravel()
    limit = min(1 - 1 / np.log10(table.shape[0] * table.shape[1]), 0.7)
    se = float(np.sqrt(len(terms) * np.var(terms)))
    return Loo(float(np.sum(terms)), se, float(found.p), int(np.sum(~(k <= limit))), terms)


def difference(first: Loo, second: Loo) -> tuple[float, float]:
    """Give elpd of the first less that of the second, and its standard error over paired rows, nats."""
    terms = first.pointwise - second.pointwise
    return float(np.sum(terms)), float(np.sqrt(len(terms) * np.var(terms)))


def _rows(dataset: xr.Dataset) -> np.ndarray | None:
    """Put every data site's units side by side: (chain, draw, units)."""
    parts = []
    for values in dataset.data_vars.values():
        array = np.asarray(values.transpose("chain", "draw", ...).values, float)
        parts.append(array.reshape(*array.shape[:2], -1))
    return np.concatenate(parts, axis=-1) if parts else None
