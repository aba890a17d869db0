"""Bayes factors: how much more the data speak for one model than for another, as a number and in words."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["BayesFactor", "against", "in_words"]

# Of 2 log B, natural logarithm. Kass & Raftery (1995), Bayes Factors, JASA 90, 773–795, section 3.2.
GRADES = (
    (2.0, "not worth more than a bare mention"),
    (6.0, "positive"),
    (10.0, "strong"),
    (math.inf, "very strong"),
)


class BayesFactor(NamedTuple):
    """The factor p(x | model) / p(x | other): its log10, the error of that if it is known, and in words."""

    log10: float
    error: float | None
    words: str


def against(nats: float, best: float, error: float | None, best_error: float | None) -> BayesFactor:
    """Weigh a model against the best of all.

    Parameters
    ----------
    nats, best : log p(x) of the two, nats.
    error, best_error : their standard errors, nats; `None` where there is none.
    """
    scale = 1 / math.log(10)
    known = error is not None and best_error is not None
    spread = scale * math.hypot(error or 0.0, best_error or 0.0) if known else None
    return BayesFactor(scale * (nats - best), spread, in_words(best - nats))


def in_words(nats: float) -> str:
    """Grade the evidence for the better of two models, `nats` apart, as Kass & Raftery do."""
    return next(words for limit, words in GRADES if 2 * abs(nats) <= limit)
