"""Sentences of the verdict on the ledger, and on approximations that miss part of the posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from triptych.inference.balance import EXACT
from triptych.inference.fit import Fit
from triptych.inference.importance import LARGEST_KHAT

__all__ = ["HOPELESS_KHAT", "above_the_evidence", "balance", "contradicted", "misses", "title", "uncovered"]

HOPELESS_KHAT = 1.0  # above, importance weights have no mean: most of the posterior is out of reach
LARGEST_KL = 1.0  # nats; a Gaussian with one sd 2.1 times too wide, or 0.22 times, is as far
BEYOND = 4.0  # standard errors

NAMES = {
    "em": "EM",
    "ascent": "gradient ascent",
    "svi": "SVI",
    "mcmc": "MCMC",
    "gibbs": "Gibbs",
    "laplace": "Laplace",
    "cavi": "CAVI",
    "batch_and_match": "batch-and-match",
    "pathfinder": "Pathfinder",
    "chees": "ChEES",
}
# What to try where a guide misses part of the posterior; any other guide: a flow, or MCMC.
CURES = {
    "AutoNormal": "AutoMultivariateNormal, which has correlations",
    "AutoDiagonalNormal": "AutoMultivariateNormal, which has correlations",
    "AutoLowRankMultivariateNormal": "a larger `rank`, or AutoMultivariateNormal",
}


def title(name: str) -> str:
    """Write a fit's name as in a sentence: EM, SVI, MCMC; any other name as it is."""
    return NAMES.get(name.lower(), name)


def misses(method: Mapping[str, Any]) -> bool:
    """Whether an approximation misses part of the posterior: by its weights, or by KL(q ‖ p)."""
    kl, error = method.get("kl", np.nan), np.nan_to_num(method.get("kl_error", 0.0))
    far = np.isfinite(kl) and kl - BEYOND * error > LARGEST_KL
    return bool(method.get("k_hat", 0.0) > method.get("k_limit", LARGEST_KHAT) or far)


def uncovered(name: str, fit: Fit, method: Mapping[str, Any]) -> str:
    """Say that a fit's draws miss part of the posterior, that the approximation is to blame, and a cure."""
    guide = fit.settings.get("guide")
    if guide is not None:
        cure = CURES.get(str(guide), "a normalising flow (AutoBNAFNormal), or MCMC")
        what = f"guide {guide}"
    elif fit.method in ("em", "laplace"):
        cure, what = "SVI or MCMC for its intervals", "Laplace Gaussian around the optimum"
    elif fit.method == "cavi":
        cure, what = "Gibbs or MCMC for its intervals", "factorised q(z) q(θ)"
    elif fit.method == "pathfinder":
        cure, what = "batch-and-match, or MCMC", "pool of Gaussians"
    elif fit.method == "batch_and_match":
        cure, what = "a normalising flow (SVI with AutoBNAFNormal), or MCMC", "Gaussian"
    else:
        cure, what = "another approximation, or MCMC", "approximation"
    signs = []
    if np.isfinite(method["k_hat"]):
        limit = method.get("k_limit", LARGEST_KHAT)
        where = "above" if method["k_hat"] > limit else "within"
        signs.append(f"Pareto k-hat {method['k_hat']:.2f}, {where} {limit:.2g}")
    if np.isfinite(method.get("kl", np.nan)) and method["kl"] > 0:
        signs.append(f"KL(q ‖ p) {with_error(method['kl'], method['kl_error'])} nats")
    return (
        f"{title(name)}'s {what} misses part of the posterior ({'; '.join(signs)}): that is the "
        f"approximation's fault, not the model's. Try {cure}."
    )


def above_the_evidence(
    methods: Mapping[str, Mapping[str, Any]], ways: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Say where an ELBO, a lower bound, lies above the evidence: who gave that has missed a mode."""
    out = []
    for name, row in methods.items():
        kl, error = row.get("kl", np.nan), row.get("kl_error", np.nan)
        if ways and np.isfinite(kl) and kl < -BEYOND * np.nan_to_num(error) - 1e-3:
            out.append(
                f"{title(name)}'s ELBO {row['elbo']:.2f} lies above log p(x) = "
                f"{ways[0]['log_evidence']:.2f} by {_source(ways[0])}, which it cannot: the latter missed a "
                "part of the posterior that the former found."
            )
    return out


def contradicted(ways: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where an estimate is further from the exact evidence than its error bar allows."""
    exact = next((way for way in ways if way["fit"] == EXACT), None)
    out: list[str] = []
    if exact is None:
        return out
    for way in ways:
        error = way["standard_error"]
        if way["fit"] == EXACT or not np.isfinite(error) or way["k_hat"] > LARGEST_KHAT:
            continue
        gap = way["log_evidence"] - exact["log_evidence"]
        if abs(gap) > BEYOND * error + 0.01:
            side = "above" if gap > 0 else "below"
            out.append(
                f"log p(x) by {_source(way)} is {abs(gap):.2f} nats {side} the exact "
                f"{exact['log_evidence']:.2f}, {abs(gap) / error:.0f} of its standard errors: its draws miss "
                "part of the posterior."
            )
    return out


def balance(methods: Mapping[str, Mapping[str, Any]], ways: Sequence[Mapping[str, Any]]) -> list[str]:
    """Give the ledger in words: log p(x), and ELBO + KL of each fit that has an ELBO."""
    if not ways:
        return []
    best = ways[0]
    if not np.isfinite(best["standard_error"]) or best["k_hat"] > LARGEST_KHAT:
        return [
            f"log p(x) is not known: the best there is, {best['log_evidence']:.2f} nats by {_source(best)}, "
            "is an approximation without an error bar."
        ]
    parts = []
    for name, row in methods.items():
        if np.isfinite(row.get("elbo", np.nan)) and np.isfinite(row.get("kl", np.nan)):
            bound, gap = with_error(row["elbo"], row["elbo_error"]), with_error(row["kl"], row["kl_error"])
            parts.append(f"{title(name)} {bound} + {gap}")
    text = f"log p(x) = {with_error(best['log_evidence'], best['standard_error'])} nats by {_source(best)}"
    return [f"{text}; as ELBO + KL(q ‖ p): {', '.join(parts)}." if parts else f"{text}."]


def _source(way: Mapping[str, Any]) -> str:
    return way["how"] if way["fit"] == EXACT else f"{way['how']} ({title(way['fit'])})"


def with_error(value: float, error: float) -> str:
    """Write a number to two digits of its error: −1167.88 ± 0.009."""
    if not (np.isfinite(error) and error > 1e-6):
        return f"{value:.2f}"
    digits = int(np.clip(1 - np.floor(np.log10(error)), 0, 4))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
