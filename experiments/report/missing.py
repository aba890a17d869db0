"""The section of missing cells: what each fit says that they would have been."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import MUTED, Pen
from triptych.experiments.report.fitted import column_names
from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import fixed, number
from triptych.experiments.report.parts import Pens, Picture, Section
from triptych.inference.imputation import Imputation
from triptych.inference.verdict import title

__all__ = ["missing_cells"]

MOST_COLUMNS = 6
MOST_CELLS = 60  # drawn of a column, evenly spaced in their order


def missing_cells(run: Run, pens: Pens) -> Section | None:
    """Draw the missing cells of each column where the fits put them, between those that were observed."""
    if not run.imputations or run.x is None:
        return None
    guide = run.reference if run.reference in run.imputations else next(iter(run.imputations))
    gaps = np.isnan(run.x)
    names = column_names(run, run.x.shape[1])
    order = np.argsort(-gaps.sum(axis=0), kind="stable")
    shown = [int(d) for d in order if gaps[:, d].any()][:MOST_COLUMNS]
    pictures = []
    for d in shown:
        rows = np.flatnonzero(gaps[:, d])
        rows = rows[np.argsort(run.imputations[guide].mean[rows, d], kind="stable")]
        observed = run.x[~gaps[:, d], d]
        said = "; ".join(
            f"{title(name)} {number(found.mean[rows, d].mean())} ± {number(found.sd[rows, d].mean(), 2)}"
            for name, found in run.imputations.items()
        )
        caption = f"{len(rows)} of {len(run.x)} missing. Mean of those observed: {number(observed.mean())}; "
        caption += f"of those imputed, with the mean sd of one: {said}."
        if len(rows) > MOST_CELLS:
            rows = rows[np.linspace(0, len(rows) - 1, MOST_CELLS).astype(int)]
            caption += f" {MOST_CELLS} are drawn."
        image = _picture(observed, rows, d, run.imputations, pens, names[d], f"{names[d]}: {caption}")
        pictures.append(Picture(image, caption=caption, heading=names[d]))
    whole = int((~gaps.any(axis=1)).sum())
    intro = f"{fixed(gaps.sum(), 0)} cells are missing ({number(100 * gaps.mean(), 2)} %), and "
    intro += (
        f"{fixed(whole, 0)} of {fixed(len(run.x), 0)} rows are whole. No row was dropped and none filled in: "
    )
    intro += (
        "the fits integrate the missing cells out. Afterwards each says what they would have been, given "
    )
    intro += "the row's other cells: mean and one standard deviation, beside the observed cells (grey). "
    intro += "EM's are at its optimum, without the uncertainty of the parameters."
    return Section("missing", "The missing cells", intro, tuple(pictures), keyed=True, wide=True)


def _picture(
    observed: np.ndarray,
    rows: np.ndarray,
    column: int,
    found: Mapping[str, Imputation],
    pens: Mapping[str, Pen],
    name: str,
    text: str,
) -> Markup:
    place = np.arange(len(rows), dtype=float)
    width = 0.6 / max(len(found), 1)
    with canvas.drawing(520, 240) as (figure, axes):
        axes.plot(
            np.full(len(observed), -1.5), observed, "_", color=MUTED, ms=14, markeredgewidth=0.8, alpha=0.7
        )
        for k, (fit, one) in enumerate(found.items()):
            at = place + (k - (len(found) - 1) / 2) * width
            axes.errorbar(
                at, one.mean[rows, column], yerr=one.sd[rows, column], fmt="o", ms=2.6, elinewidth=1.0,
                color=pens[fit].colour, alpha=0.9,
            )  # fmt: skip
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_ylabel(name)
        return canvas.picture(figure, text)
