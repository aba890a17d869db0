"""The section on log p(x) = ELBO + KL(q ‖ p): every way by which it was had, and every fit's part in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import INK, MUTED
from triptych.experiments.report.forest import Point, forest
from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import bound, fixed, missing, number
from triptych.experiments.report.parts import Pens, Picture, Section, Table
from triptych.experiments.report.staircase import staircase
from triptych.inference.balance import EXACT
from triptych.inference.balance_words import with_error
from triptych.inference.importance import LARGEST_KHAT
from triptych.inference.verdict import title

__all__ = ["evidence"]


def evidence(run: Run, pens: Pens) -> Section | None:
    """Show the ledger of every fit, the ways to log p(x), how the bounds tighten, and EM's staircase."""
    if run.comparison is None:
        return None
    found = (_ways(run, pens), _bounds(run, pens), *(staircase(run, name, pens) for name in run.fits))
    pictures = tuple(picture for picture in found if picture is not None)
    tables = tuple(table for table in (_ledger(run), _routes(run)) if table is not None)
    if not pictures and not tables:
        return None
    intro = "How probable the data are under the model, log p(x), in nats: the ELBO of any approximation q "
    intro += "falls short of it by KL(q ‖ p), which is how far q is from the posterior."
    return Section("evidence", "The evidence", intro, pictures, tables=tables)


def _ledger(run: Run) -> Table | None:
    if run.comparison is None:
        return None
    frame = run.comparison.methods
    rows = [(str(name), row) for name, row in frame.iterrows()]
    columns = {
        "log p(x)": [_pm(row, "log_evidence") for _, row in rows],
        "ELBO": [_pm(row, "elbo") for _, row in rows],
        "KL(q ‖ p)": [_pm(row, "kl") for _, row in rows],
        "AIC": [fixed(row.get("aic"), 2) for _, row in rows],
        "BIC": [fixed(row.get("bic"), 2) for _, row in rows],
        "ICL": [fixed(row.get("icl"), 2) for _, row in rows],
    }
    columns = {head: cells for head, cells in columns.items() if any(cell != "–" for cell in cells)}
    if not columns:
        return None
    cells = [(rows[i][0], *(column[i] for column in columns.values())) for i in range(len(rows))]
    note = "± is one Monte Carlo standard error. KL is taken against the best of the ways below."
    if {"AIC", "BIC", "ICL"} & set(columns):
        note += " AIC, BIC and ICL are on the −2 log scale: smaller is better."
    return Table("", ("fit", *columns), tuple(cells), note, "The ledger")


def _pm(row: Any, key: str) -> str:
    if missing(row.get(key)):
        return "–"
    error = row.get(f"{key}_error")
    text = with_error(float(row[key]), float("nan") if missing(error) else float(error))
    return bound(text.replace("-", "−"))


def _routes(run: Run) -> Table | None:
    if run.comparison is None or run.comparison.evidence.empty:
        return None
    rows = tuple(
        (
            str(way["fit"]),
            str(way["how"]),
            bound(with_error(way["log_evidence"], way["standard_error"]).replace("-", "−")),
            number(way["k_hat"], 2),
        )
        for way in run.comparison.evidence.to_dict("records")
    )
    note = "The best first; against it every KL is taken. A k-hat above 0.7 is not to be relied on."
    return Table("", ("fit", "how", "log p(x)", "k-hat"), rows, note, "Every way to log p(x)")


def _owner(way: Any) -> str:
    """Say whose way it is, in words."""
    return "exact" if way["fit"] == EXACT else title(str(way["fit"]))


def _ways(run: Run, pens: Pens) -> Picture | None:
    """Draw every estimate of log p(x) with two standard errors, and the ELBOs below it."""
    if run.comparison is None:
        return None
    points = [
        (f"{_owner(way)}: {way['how']}", way["log_evidence"], way["standard_error"], str(way["fit"]), "o")
        for way in run.comparison.evidence.to_dict("records")
        if missing(way["k_hat"]) or way["k_hat"] <= LARGEST_KHAT
    ]
    for name, row in run.comparison.methods.to_dict("index").items():
        if not missing(row.get("elbo")):
            points.append((f"{title(str(name))}: ELBO", row["elbo"], row["elbo_error"], str(name), ">"))
    if len(points) < 2:
        return None
    spoken = "; ".join(f"{text} {with_error(value, error)}" for text, value, error, _, _ in points)
    text = f"Estimates of log p(x) in nats: {spoken}."
    caption = "Circles: estimates of log p(x), with two standard errors. Triangles: ELBOs, which lie below."
    drawn = [
        Point(_short(name), value, error, pens[owner].colour if owner in pens else INK, marker)
        for name, value, error, owner, marker in points
    ]
    image = forest(drawn, "nats", text, at=points[0][1])
    return Picture(image, caption=caption, heading="log p(x)")


def _short(label: str, most: int = 40) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _bounds(run: Run, pens: Pens) -> Picture | None:
    """Draw the importance-weighted bounds by the number of weights: how fast they close on log p(x)."""
    found = {name: fit.evidence.bounds for name, fit in run.fits.items() if len(fit.evidence.bounds) > 1}
    if not found:
        return None
    said = "; ".join(
        f"{title(name)} " + ", ".join(f"{fixed(b.nats, 2)} at K = {b.draws}" for b in bounds)
        for name, bounds in found.items()
    )
    caption = "The bound by the average of K importance weights. It closes on log p(x) (dashed) the faster, "
    caption += "the nearer the approximation is to the posterior."
    best = run.comparison.evidence if run.comparison is not None else None
    with canvas.drawing(440, 240) as (figure, axes):
        for name, bounds in found.items():
            pen = pens[name]
            x, y = [bound.draws for bound in bounds], [bound.nats for bound in bounds]
            errors = [2 * float(np.nan_to_num(bound.standard_error or 0.0)) for bound in bounds]
            axes.errorbar(
                x, y, yerr=errors, color=pen.colour, marker="o", ms=4, elinewidth=1.2, linewidth=1.6
            )
        if best is not None and not best.empty:
            axes.axhline(
                float(best["log_evidence"].iloc[0]), color=MUTED, linewidth=0.9, linestyle=(0, (4, 3))
            )
        axes.set_xscale("log")
        axes.set_xticks([bound.draws for bound in max(found.values(), key=len)])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.set_xlabel("weights, K")
        axes.set_ylabel("bound (nats)")
        axes.grid(axis="y")
        image = canvas.picture(figure, f"Importance-weighted bounds in nats: {said}. {caption}")
    return Picture(image, caption=caption, heading="bounds")
