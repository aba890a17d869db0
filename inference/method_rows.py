"""One row a fit: how it ended, its ledger, its predictions, whether it can be told from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from triptych.inference.balance import ledger_of
from triptych.inference.criteria import of_fit
from triptych.inference.distances import elements, khat, rhat_and_ess
from triptych.inference.fit import Fit
from triptych.inference.importance import largest_khat
from triptych.inference.posterior import draws
from triptych.inference.predictive import Loo, difference, loo
from triptych.inference.two_sample import r_star, reference_floor

__all__ = ["method_rows"]


def method_rows(
    fits: Mapping[str, Fit], reference: str, ways: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Give name → the row of `Comparison.methods`.

    Parameters
    ----------
    fits : name → fit, labels aligned.
    reference : the name of the reference.
    ways : the rows of `Comparison.evidence`.
    """
    rows = {}
    predicted = {name: loo(fit.data) for name, fit in fits.items()}
    told_apart = _classified(fits, reference)
    for name, fit in fits.items():
        statistics = fit.data["sample_stats"].dataset if "sample_stats" in fit.data.children else {}
        r_hat = ess = float("nan")
        if fit.method in ("mcmc", "gibbs", "chees") or fit.data["posterior"].sizes.get("chain", 1) > 1:
            invariant = {"lp": statistics["lp"].values} if "lp" in statistics else {}
            r_hat, ess = rhat_and_ess({**draws(fit), **invariant})
        rows[name] = {
            "method": fit.method,
            "status": fit.status.name,
            "ok": fit.status.ok,
            "log_likelihood": fit.log_likelihood,
            **ledger_of(fit, ways),
            **_criteria_of(fit),
            **_prediction_of(predicted[name], predicted[reference]),
            **told_apart[name],
            "r_hat": r_hat,
            "ess": ess,
            **_tail_of(fit),
            "compile": fit.seconds.compile,
            "run": fit.seconds.run,
        }
    return rows


def _tail_of(fit: Fit) -> dict[str, float]:
    """Give k-hat of the fit's importance weights, and how large so many of them let it be.

    Of all weights that the ledger is of, where they are more than the draws that were kept.
    """
    statistics = fit.data["sample_stats"].dataset if "sample_stats" in fit.data.children else {}
    if "log_weight" not in statistics:
        return {"k_hat": float("nan"), "k_limit": float("nan")}
    weights = statistics["log_weight"].values
    known = [route.k_hat for route in fit.evidence.routes if route.k_hat is not None]
    count = max([weights.size, *(2 * bound.draws for bound in fit.evidence.bounds)])
    return {"k_hat": known[-1] if known else khat(weights), "k_limit": largest_khat(count)}


def _criteria_of(fit: Fit) -> dict[str, float]:
    found = of_fit(fit)
    if found is None:
        return dict.fromkeys(("free", "aic", "bic", "icl"), float("nan"))
    return {"free": float(found.free), "aic": found.aic, "bic": found.bic, "icl": found.icl}


def _prediction_of(found: Loo | None, reference: Loo | None) -> dict[str, float]:
    row: dict[str, float] = dict.fromkeys(
        ("elpd", "elpd_se", "elpd_diff", "elpd_diff_se", "bad_k"), float("nan")
    )
    if found is None:
        return row
    row |= {"elpd": found.elpd, "elpd_se": found.se, "bad_k": float(found.bad)}
    if reference is not None and found.pointwise.shape == reference.pointwise.shape:
        row["elpd_diff"], row["elpd_diff_se"] = difference(found, reference)
    return row


def _classified(fits: Mapping[str, Fit], reference: str) -> dict[str, dict[str, float]]:
    """Let a classifier tell each fit's draws from the reference's, over the parameters that both have."""
    scalars = {name: elements(draws(fit)) for name, fit in fits.items()}
    floor, rows = float("nan"), {}
    for name in [reference, *(name for name in fits if name != reference)]:
        shared = [parameter for parameter in scalars[reference] if parameter in scalars[name]]
        own, of_reference = (
            np.stack([scalars[who][parameter] for parameter in shared], axis=-1) if shared else None
            for who in (name, reference)
        )
        value = float("nan")
        if own is not None and of_reference is not None and len(fits) > 1:
            if name == reference:
                floor = reference_floor(of_reference)
            else:
                value = r_star(own, of_reference, floor).accuracy
        rows[name] = {"c2st": value, "c2st_floor": floor}
    return rows
