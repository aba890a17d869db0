"""The verdict of a page: what cannot be relied on, by name, in the first line; then why, and how far."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import bound
from triptych.inference.balance_words import HOPELESS_KHAT, misses
from triptych.inference.importance import LARGEST_KHAT
from triptych.inference.status import Status
from triptych.inference.verdict import title

__all__ = ["Alert", "Verdict", "verdict"]


# Means (in the reference's sds) and sds (relative) further apart than these are not said to agree.
CLOSE_MEANS, CLOSE_SPREADS = 1.0, 0.5


class Alert(NamedTuple):
    """What must not be overlooked: a title and its text."""

    title: str
    text: str


class Verdict(NamedTuple):
    """The first line, whether it is a warning, what stands behind it, and the other sentences."""

    first: str
    loud: bool
    alerts: tuple[Alert, ...]
    sentences: tuple[str, ...]


def verdict(run: Run) -> Verdict:
    """Say in words what a run is worth.

    The first line names every fit that failed, did not converge or misses part of the posterior, the
    reference first. Where there is none, it says how far the fits are from each other.
    """
    troubles, alerts, mild = [], [], True
    entries = run.manifest.get("fits", {})
    for name in sorted(entries, key=lambda name: name != run.reference):
        who = f"{title(name)}, the reference," if name == run.reference and len(entries) > 1 else title(name)
        fit = run.fits.get(name)
        if fit is None:
            troubles.append(f"{who} failed")
            mild = False
            text = str(entries[name].get("message") or entries[name].get("status") or "")
            alerts.append(Alert(f"{title(name)} failed.", text))
        elif not fit.status.ok:
            few = fit.status is Status.FEW_DRAWS
            troubles.append(f"{who} has {'few draws' if few else 'not converged'} ({_sign(run, name)})")
            mild = mild and few
            worth = "has few draws" if few else "is not to be relied on as it is"
            alerts.append(Alert(f"{who} {worth}.", fit.status.value))
        elif (found := _astray(run, name)) is not None:
            troubles.append(f"{found[0]} misses part of the posterior")
            mild = False
            alerts.append(Alert(f"{title(name)} is not the posterior.", found[1]))
    said = list(run.comparison.sentences) if run.comparison is not None else []
    # The sentences repeat how a fit ended, or that it misses part; on the page that stands in the box.
    texts = [fit.status.value for fit in run.fits.values() if not fit.status.ok]
    texts += [finding.text for fit in run.fits.values() if not fit.status.ok for finding in fit.findings]
    texts += [alert.text for alert in alerts]
    sentences = [bound(text) for text in said if not any(known and known in text for known in texts)]
    if troubles:
        how = "To be taken with care" if mild else "Not to be relied on as it stands"
        loud = f"{how}: {'; '.join(troubles)}."
        return Verdict(bound(loud), True, tuple(alerts), tuple(sentences))
    first = _agreement(run)
    if not sentences or first:
        return Verdict(first, False, (), tuple(sentences))
    return Verdict(sentences[0], False, (), tuple(sentences[1:]))


def _agreement(run: Run) -> str:
    """Say of fits that converged how closely they agree; "" where they do not, or it is said already."""
    if run.comparison is None or len(run.fits) < 2:
        return ""
    frame = run.comparison.parameters
    measured = frame[(frame["method"] != run.reference) & np.isfinite(frame["mean_error"])]
    shift, spread = measured["mean_error"].abs().max(), (measured["sd_ratio"] - 1).abs().max()
    said = any(" agree: " in sentence for sentence in run.comparison.sentences)
    if said or not (shift <= CLOSE_MEANS and spread <= CLOSE_SPREADS):
        return ""
    count = {2: "Both fits", 3: "All three fits"}.get(len(run.fits), f"All {len(run.fits)} fits")
    closely = f"their posterior means agree to {shift:.2f} sd, their sds to {100 * spread:.0f} %."
    return bound(f"{count} converged: {closely}")


def _sign(run: Run, name: str) -> str:
    """Say in a word how the fit ended, with the number that shows it: ESS of few draws, R-hat of chains."""
    status = run.fits[name].status
    column, text = ("ess", "ESS {:.0f}") if status is Status.FEW_DRAWS else ("r_hat", "R-hat {:.2f}")
    known = run.comparison is not None and name in run.comparison.methods.index
    number = run.comparison.methods[column].to_dict()[name] if known and run.comparison else float("nan")
    words = [] if status is Status.FEW_DRAWS else [status.name.lower().replace("_", " ")]
    words += [text.format(number)] if np.isfinite(number) else []
    return ", ".join(words) or "see below"


def _astray(run: Run, name: str) -> tuple[str, str] | None:
    """Give who misses part of the posterior, and the sentence that says so; `None` if nothing is missed."""
    if run.comparison is None or name not in run.comparison.methods.index:
        return None
    row = {str(key): value for key, value in run.comparison.methods.loc[name].to_dict().items()}
    # A k-hat that is only just too large for so few draws, of a q that is near p, is no cause for alarm.
    limit = HOPELESS_KHAT if np.isfinite(row.get("kl", np.nan)) else LARGEST_KHAT
    if not misses(row | {"k_limit": limit}):
        return None
    mark = f"{title(name)}'s "
    known = [text for text in run.comparison.sentences if text.startswith(mark) and "misses part" in text]
    if not known:
        return None
    return known[0].split(" misses part", 1)[0], known[0]
