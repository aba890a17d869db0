"""What is known of runs that stand side by side: a candidate a run, a row a fit, the answer in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from triptych.experiments.weighing import BayesFactor

__all__ = ["Beside", "Candidate", "Row"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One fit of one run; nats, but for the criteria, which are on the −2 log scale. `None`: not known.

    Attributes
    ----------
    run, fit, method : the labels.
    ok : whether it ended well.
    log_evidence, error : log p(x) by the fit's own way, and its Monte Carlo standard error.
    factor : its Bayes factor against the best run under the same fit.
    elpd, elpd_se : PSIS-LOO, and its standard error over rows.
    difference, difference_se : elpd less that of the best run under the same fit, over paired rows.
    held_out : log predictive density of the rows that were kept aside.
    aic, bic, icl : of EM.
    """

    run: str
    fit: str
    method: str
    ok: bool
    log_evidence: float | None = None
    error: float | None = None
    factor: BayesFactor | None = None
    elpd: float | None = None
    elpd_se: float | None = None
    difference: float | None = None
    difference_se: float | None = None
    held_out: float | None = None
    aic: float | None = None
    bic: float | None = None
    icl: float | None = None


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One run: its best log p(x), how that was had, its Bayes factor, its verdict, and what sets it apart."""

    run: str
    log_evidence: float | None
    error: float | None
    how: str
    factor: BayesFactor | None
    verdict: str
    trouble: str
    settings: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Beside:
    """Runs side by side: a candidate a run, best first; a row a fit; and notes that a reader must know."""

    candidates: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    same_data: bool

    @property
    def first(self) -> str:
        """The answer in a sentence."""
        found = [one for one in self.candidates if one.factor is not None]
        if not self.same_data:
            return "These runs are of different data: their evidence and predictions cannot be compared."
        if len(found) < 2 or found[1].factor is None:
            return "There is no second log p(x) to weigh the first against."
        best, second = found[:2]
        words = second.factor.words  # type: ignore[union-attr]
        doubts = [
            f"{one.run} is not to be relied on ({one.trouble})" for one in (best, second) if one.trouble
        ]
        sure = f" But {', '.join(doubts)}." if doubts else ""
        if words.startswith("not worth"):
            text = (
                f"{best.run} and {second.run} explain the data about equally well: the difference is {words}."
            )
        else:
            text = (
                f"{best.run} explains the data best; the evidence against {second.run}, the next, is {words}."
            )
        return text + sure
