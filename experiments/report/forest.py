"""Numbers with their errors, one below the other: a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import INK, MUTED

__all__ = ["Point", "forest"]


class Point(NamedTuple):
    """One line: its name, the number, its standard error (None or NaN: no bar), and how it is drawn."""

    name: str
    value: float
    error: float | None
    colour: str
    marker: str = "o"


def forest(points: Sequence[Point], label: str, text: str, at: float = 0.0) -> Markup:
    """Draw each number with two standard errors to either side, and a dashed line `at` what they are held to.

    `label` names the axis; `text` says the picture to those who cannot see it.
    """
    with canvas.drawing(440, 56 + 24 * len(points)) as (figure, axes):
        for place, point in enumerate(points):
            reach = 2 * float(np.nan_to_num(point.error or 0.0))
            span = [point.value - reach, point.value + reach]
            axes.plot(span, [place, place], color=point.colour, linewidth=1.8)
            axes.plot([point.value], [place], point.marker, color=point.colour, markersize=6)
        axes.axvline(at, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yticks(range(len(points)), [point.name for point in points], parse_math=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x")
        axes.set_xlabel(label)
        axes.spines["left"].set_visible(False)
        return canvas.picture(figure, text)
