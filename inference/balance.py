"""The ledger across fits: every way to log p(x), the best of them, and KL(q ‖ p) = log p(x) − ELBO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from triptych.inference.arguments import recall
from triptych.inference.exact import exact_evidence
from triptych.inference.fit import Fit
from triptych.inference.importance import LARGEST_KHAT

__all__ = ["COLUMNS", "EXACT", "ledger_of", "routes"]

EXACT = "exact"  # in the place of a fit's name
COLUMNS = ("fit", "how", "log_evidence", "standard_error", "k_hat")


def routes(fits: Mapping[str, Fit], reference: str) -> list[dict[str, Any]]:
    """List every way by which log p(x) was had, the best first.

    A closed form before Monte Carlo, the reference before the others, what converged before what did not, a
    bridge before importance sampling (whose k-hat must be at most 0.7), and Laplace's approximation last.

    Parameters
    ----------
    fits : name → fit.
    reference : the name of the reference.
    """
    rows = []
    call = recall(fits[reference].data)
    if call is not None and not call[1]:
        found = exact_evidence(fits[reference].model, call[0])
        if found is not None:
            rows.append((-1, _row(EXACT, found.how, found.nats, found.standard_error, None)))
    for name, fit in fits.items():
        evidence = fit.evidence
        known = evidence.routes
        for route in known:
            row = _row(name, route.how, route.nats, route.standard_error, route.k_hat)
            rows.append((_rank(name == reference, fit.status.ok, route), row))
        if not known and evidence.log_evidence is not None:
            row = _row(name, evidence.method or "", evidence.log_evidence, evidence.standard_error, None)
            rows.append((6, row))
    rows = [(rank, row) for rank, row in rows if np.isfinite(row["log_evidence"])]
    return [row for _, row in sorted(rows, key=lambda item: item[0])]


def _rank(is_reference: bool, ok: bool, route: Any) -> int:
    if route.standard_error is None:
        return 7  # no Monte Carlo, and no closed form: an approximation
    if route.k_hat is not None and route.k_hat > LARGEST_KHAT:
        return 9
    return (0 if is_reference else 1) + (0 if ok else 8) + (0 if route.how.startswith("bridge") else 2)


def _row(name: str, how: str, nats: float, error: float | None, k_hat: float | None) -> dict[str, Any]:
    nan = float("nan")
    values = (name, how, float(nats), nan if error is None else error, nan if k_hat is None else k_hat)
    return dict(zip(COLUMNS, values, strict=True))


def ledger_of(fit: Fit, ways: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give a fit's row of the ledger: its own evidence and ELBO, and KL against the best evidence of all.

    The error of KL is that of both; where the best evidence is the fit's own, from the same draws as its
    ELBO, it is the smaller error of the difference.
    """
    nan, evidence = float("nan"), fit.evidence
    row: dict[str, Any] = {
        "log_evidence": _number(evidence.log_evidence),
        "log_evidence_error": nan if evidence.log_evidence is None else _number(evidence.standard_error),
        "how": evidence.method or "",
        "elbo": _number(evidence.elbo),
        "elbo_error": nan,
        "kl": _number(evidence.kl),
        "kl_error": _number(evidence.kl_error),
    }
    if evidence.elbo is None:
        return row
    own = evidence.elbo_error
    if own is None and evidence.log_evidence is None:
        own = evidence.standard_error  # a fit of an earlier version
    row["elbo_error"] = _number(own)
    # An approximation without an error bar, such as Laplace's, is no referee.
    best = ways[0] if ways and np.isfinite(ways[0]["standard_error"]) else None
    if best is None or best["k_hat"] > LARGEST_KHAT:
        return row
    if evidence.kl is not None and best["log_evidence"] == evidence.elbo + evidence.kl:
        return row
    row["kl"] = best["log_evidence"] - evidence.elbo
    row["kl_error"] = float(np.hypot(np.nan_to_num(best["standard_error"]), np.nan_to_num(row["elbo_error"])))
    return row


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
