"""The section of a hidden Markov chain: the series in the colours of its states, and which state when."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas, rows
from triptych.experiments.report.canvas import COMPONENTS, MARKERS, MUTED
from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import number
from triptych.experiments.report.parts import Pens, Picture, Section
from triptych.inference.fit import Fit

__all__ = ["states"]

WIDTH, MOST_POINTS = 480, 1000


def states(run: Run, pens: Pens) -> Section | None:
    """Show a chain's states step by step; nothing for rows that do not hang on each other."""
    del pens
    found = run.responsibilities
    if not run.chain or not found:
        return None
    guide = run.reference if run.reference in found else next(iter(found))
    pictures = []
    if run.series is not None:
        name = run.columns[0] if run.columns and run.columns != ("x0",) else "data"
        spoken = f"{name} over {len(run.series)} steps. {_spoken(run.fits[guide])}"
        heading = f"{name}, in the colours of {guide}" if len(found) > 1 else name
        picture = _series(run.series, found[guide], name, spoken)
        pictures.append(Picture(picture, heading=heading))
    for name, table in found.items():
        unsure = 100 * float(np.mean(table.max(axis=1) < 0.9))
        caption = f"{number(unsure, 2)} % of the steps are in no state with more than 90 %."
        shares = ", ".join(number(share, 2) for share in table.mean(axis=0))
        text = f"Probabilities of the states under {name}: shares {shares}. {caption}"
        image = rows.strip(table, np.arange(len(table)), text, label="step")
        pictures.append(Picture(image, name, caption))
    count = found[guide].shape[1]
    colours = ((COMPONENTS[k % len(COMPONENTS)], f"state {k}") for k in range(count))
    intro = "Every step in its own place in time, split between the states by their probability given the "
    intro += "whole series. The same colour is the same state under each fit."
    return Section(
        "states",
        "Which state, when",
        intro,
        tuple(pictures),
        legend=tuple(colours) if count <= len(COMPONENTS) else (),
        wide=True,
    )


def _spoken(fit: Fit) -> str:
    sites: Mapping[str, np.ndarray] = {name: np.asarray(value) for name, value in fit.parameters.items()}
    small = [f"{name}: {', '.join(map(number, v.ravel()))}." for name, v in sites.items() if v.size <= 16]
    return " ".join(small)


def _series(values: np.ndarray, table: np.ndarray, name: str, text: str) -> Markup:
    """Draw the series, each step in the blend of its states' colours, with the marker of the likeliest."""
    steps, likely, colours = np.arange(len(values)), table.argmax(axis=1), canvas.mix(table)
    size = 11 if len(values) <= 300 else 5
    with canvas.drawing(WIDTH, 150) as (figure, axes):
        if len(values) <= MOST_POINTS // 2:
            axes.plot(steps, values, color=MUTED, linewidth=0.6, alpha=0.6, zorder=1)
        shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_POINTS)).astype(int))
        for k in range(table.shape[1]):
            mine = shown[likely[shown] == k]
            marker = MARKERS[k % len(MARKERS)]
            axes.scatter(
                steps[mine],
                values[mine],
                c=colours[mine],
                s=size,
                marker=marker,
                linewidths=0,
                clip_on=False,
                zorder=2,
            )
        axes.set_xlim(0, len(values))
        axes.locator_params(axis="x", nbins=7)
        axes.set_xlabel("step")
        axes.set_ylabel(name)
        return canvas.picture(figure, text)
