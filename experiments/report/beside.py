"""The page of several runs side by side: one offline file, in the look of a run's own page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from triptych.experiments.candidates import Beside, Row
from triptych.experiments.refusal import refuse
from triptych.experiments.report.canvas import INK, pens
from triptych.experiments.report.forest import Point, forest
from triptych.experiments.report.numbers import bound, fixed, missing
from triptych.experiments.report.parts import Pens
from triptych.experiments.report.swept import swept
from triptych.experiments.report.template import fill
from triptych.experiments.store import write_text
from triptych.experiments.weighing import BayesFactor
from triptych.inference.balance_words import with_error
from triptych.inference.verdict import title

__all__ = ["factor", "write_page"]

HEADS = {
    "log_evidence": "log p(x)",
    "factor": "log10 Bayes factor",
    "elpd": "elpd (LOO)",
    "difference": "difference",
    "held_out": "held out",
    "aic": "AIC",
    "bic": "BIC",
    "icl": "ICL",
}


def write_page(found: Beside, path: Path) -> Path:
    """Write the page of runs side by side, whole or not at all.

    Raises
    ------
    InputError : it cannot be written there.
    """
    drawn = pens({row.fit: row.method for row in found.rows})
    keys = list(dict.fromkeys(key for one in found.candidates for key in one.settings))
    page = fill(
        "beside.html.j2",
        found=found,
        keys=keys,
        pens=drawn,
        labels={name: title(name) for name in drawn},
        swept=swept(found, drawn),
        pictures=[
            picture for picture in (_evidence(found), _predictions(found, drawn)) if picture is not None
        ],
        heads=[HEADS[name] for name in _known(found)],
        rows=[(row, [_cell(row, name) for name in _known(found)]) for row in found.rows],
        summary=[(one, _pm(one.log_evidence, one.error), factor(one.factor)) for one in found.candidates],
    )
    try:
        write_text(path, page)
    except OSError as error:
        refuse(f"Cannot write {path}: {error.strerror}; give another --output.")
    return path


def _known(found: Beside) -> list[str]:
    """Name the columns that at least one fit has a number in."""
    return [name for name in HEADS if any(getattr(row, name) is not None for row in found.rows)]


def _cell(row: Row, name: str) -> str:
    value = getattr(row, name)
    match name:
        case "log_evidence":
            return _pm(value, row.error)
        case "factor":
            return factor(value)
        case "elpd":
            return _pm(value, row.elpd_se, 1)
        case "difference":
            return "best" if value == 0 and row.difference_se == 0 else _pm(value, row.difference_se, 1)
    return fixed(value, 2)


def _pm(value: float | None, error: float | None, places: int | None = None) -> str:
    """Write a number with its error, to two digits of that or to so many decimals."""
    if value is None or missing(value):
        return "–"
    if places is None or missing(error):
        return bound(with_error(value, float("nan") if error is None else error).replace("-", "−"))
    return bound(f"{fixed(value, places)} ± {fixed(error, places)}")


def factor(found: BayesFactor | None) -> str:
    """Write a Bayes factor against the best."""
    if found is None:
        return "–"
    if found.log10 == 0:
        return "best"
    number = fixed(found.log10, 2) if found.error is None else _pm(found.log10, found.error, 2)
    return f"{number} ({found.words})"


def _evidence(found: Beside) -> dict[str, Any] | None:
    """Draw log p(x) of every run, by its best way, against the best run's."""
    known = [one for one in found.candidates if one.log_evidence is not None]
    if len(known) < 2 or not found.same_data:
        return None
    best = max(one.log_evidence or -np.inf for one in known)
    lines = [(one.run, (one.log_evidence or 0.0) - best, one.error) for one in known]
    said = "; ".join(f"{run} {_pm(gap, error)}" for run, gap, error in lines)
    text = f"log p(x) of each run less that of the best, in nats: {said}."
    points = [Point(_short(run), gap, error, INK) for run, gap, error in lines]
    return {"image": forest(points, "log p(x) less the best's (nats)", text), "heading": "Evidence"}


def _predictions(found: Beside, drawn: Pens) -> dict[str, Any] | None:
    """Draw the differences of elpd, fit by fit."""
    known = [row for row in found.rows if row.difference is not None]
    if len(known) < 2:
        return None
    text = "; ".join(
        f"{row.run}, {title(row.fit)} {_pm(row.difference, row.difference_se, 1)}" for row in known
    )
    points = [
        Point(
            _short(f"{row.run} · {title(row.fit)}"),
            row.difference or 0.0,
            row.difference_se,
            drawn[row.fit].colour,
        )
        for row in known
    ]
    spoken = f"elpd of each fit less that of the best run under the same fit, in nats: {text}."
    return {"image": forest(points, "elpd less the best's (nats)", spoken), "heading": "Predictions"}


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"…{name[-33:]}"
