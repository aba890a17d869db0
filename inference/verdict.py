"""What a comparison found, in sentences a person can act on, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from triptych.inference.balance_words import (
    HOPELESS_KHAT,
    above_the_evidence,
    balance,
    contradicted,
    misses,
    title,
    uncovered,
)
from triptych.inference.fit import Fit

__all__ = ["sentences", "title"]

# Distances below these are not worth a sentence: a tenth of a standard deviation, a tenth in spread.
SHIFT = 0.1
SPREAD = 0.1
# ... nor are those that the Monte Carlo error explains (in standard errors).
BEYOND_NOISE = 3.0
# A shift of this many standard deviations is another mode, not an inaccuracy.
ANOTHER_MODE = 5.0

COUNTS = {2: "Both agree", 3: "All three agree", 4: "All four agree"}


def sentences(
    fits: Mapping[str, Fit],
    reference: str,
    parameters: Sequence[Mapping[str, Any]],
    methods: Mapping[str, Mapping[str, Any]],
    ways: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, ...]:
    """Say what a comparison found.

    First what cannot be trusted (the reference before the others, then approximations that miss the
    posterior altogether), then the distances that are neither small nor noise, worst first; when there are
    none, that the methods agree, and how closely. Last the ledger, log p(x) = ELBO + KL.

    Parameters
    ----------
    fits : name → fit, labels aligned.
    reference : the name of the reference.
    parameters : the rows of `Comparison.parameters`.
    methods : name → the row of `Comparison.methods`.
    ways : the rows of `Comparison.evidence`.
    """
    doubts = [
        f"{title(name)}{', the reference,' if name == reference else ''} ended badly: {_ending(fit)}"
        for name, fit in sorted(fits.items(), key=lambda item: item[0] != reference)
        if not fit.status.ok
    ]
    hopeless = [name for name in fits if methods[name].get("k_hat", 0.0) > HOPELESS_KHAT]
    doubts += [uncovered(name, fits[name], methods[name]) for name in hopeless]
    doubts += above_the_evidence(methods, ways) + contradicted(ways)
    doubts += _missing(fits, reference)
    measured = [row for row in parameters if row["method"] != reference and np.isfinite(row["mean_error"])]
    judged: list[tuple[float, str]] = []
    for name in fits:
        own = _of_method(name, reference, [row for row in measured if row["method"] == name], methods[name])
        if name not in hopeless and misses(methods[name]):
            # Beside the worst of what it did.
            worst = max((severity for severity, _ in own), default=0.0)
            own.insert(0, (worst, uncovered(name, fits[name], methods[name])))
        judged += own
    judged.sort(key=lambda item: -item[0])
    found = [text for _, text in judged]
    if not found and measured:
        worst = max(measured, key=lambda row: row["wasserstein"])
        count = len({row["method"] for row in measured}) + 1
        opening = COUNTS.get(count, f"All {count} agree")
        found.append(
            f"{opening}: the largest distance is {worst['wasserstein']:.2f} reference sd, "
            f"at {worst['parameter']} under {title(worst['method'])}."
        )
    return tuple(doubts + found + balance(methods, ways))


def _ending(fit: Fit) -> str:
    """Say how a fit ended, with the number that shows it where a finding has one."""
    texts = [finding.text for finding in fit.findings if finding.code == fit.status.name]
    return texts[0] if texts else fit.status.value


def _missing(fits: Mapping[str, Fit], reference: str) -> list[str]:
    here = {name: set(fit.parameters) for name, fit in fits.items()}
    out = []
    for name, sites in here.items():
        absent, extra = sorted(here[reference] - sites), sorted(sites - here[reference])
        if absent:
            out.append(f"{title(name)} has no {', '.join(absent)}: not compared.")
        if extra:
            out.append(f"{', '.join(extra)} of {title(name)} is not in {title(reference)}: not compared.")
    return out


def _of_method(
    name: str, reference: str, rows: Sequence[Mapping[str, Any]], method: Mapping[str, Any]
) -> list[tuple[float, str]]:
    """Give (severity in reference sds, sentence) for one method; a symmetric matrix says everything once."""
    rows = list({(row["site"], row["mean"], row["sd"]): row for row in reversed(rows)}.values())[::-1]
    who, out = title(name), []
    shifted = [row for row in rows if abs(row["mean_error"]) > max(SHIFT, BEYOND_NOISE * row["noise"])]
    if shifted:
        worst = max(shifted, key=lambda row: abs(row["mean_error"]))
        size, where = abs(worst["mean_error"]), "above" if worst["mean_error"] > 0 else "below"
        others = _others(len(shifted) - 1, f"by more than {SHIFT:g} sd")
        if size > ANOTHER_MODE:
            text = (
                f"{who} is at another mode than {title(reference)}: its mean of {worst['parameter']} is "
                f"{size:.1f} reference sd {where}{others}; the log-likelihood at its estimate is "
                f"{method['log_likelihood']:.2f} nats."
            )
        else:
            text = (
                f"{who} puts the mean of {worst['parameter']} {size:.2f} reference sd {where} that of "
                f"{title(reference)}{others}."
            )
        out.append((size, text))
    for side, verb in ((-1, "understates"), (1, "overstates")):
        # The standard error of a log sd ratio is about that of the mean, in sds, divided by √2.
        chosen = [
            row
            for row in rows
            if side * (row["sd_ratio"] - 1) > max(SPREAD, BEYOND_NOISE * row["noise"] / np.sqrt(2))
        ]
        if chosen:
            worst = max(chosen, key=lambda row: abs(row["sd_ratio"] - 1))
            change = 100 * abs(worst["sd_ratio"] - 1)
            others = _others(len(chosen) - 1, f"by more than {100 * SPREAD:.0f} %")
            # An sd wrong by a factor r counts like a shift of |log r| sd.
            severity = abs(float(np.log(max(worst["sd_ratio"], 1e-3))))
            out.append((severity, f"{who} {verb} the sd of {worst['parameter']} by {change:.0f} %{others}."))
    return out


def _others(count: int, how: str) -> str:
    if not count:
        return ""
    return f" ({count} more parameter{'s' if count > 1 else ''} {how})"
