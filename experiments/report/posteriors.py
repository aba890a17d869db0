"""Pictures of the posterior: the fits over each other, one small panel a parameter, and forests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import INK, Pen
from triptych.experiments.report.numbers import number

__all__ = ["density", "forest", "panel", "window"]


def density(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Estimate the density of draws with ArviZ's kernel; `None` where they are all the same."""
    from arviz_stats.base import array_stats

    draws = draws[np.isfinite(draws)]
    if draws.size < 10 or np.ptp(draws) <= 1e-9 * np.max(np.abs(draws)):
        return None
    grid, values, _ = array_stats.kde(draws)
    return np.asarray(grid)[::3], np.asarray(values)[::3]


def panel(
    name: str,
    note: str,
    draws: Mapping[str, np.ndarray],
    points: Mapping[str, float],
    pens: Mapping[str, Pen],
    reference: str,
) -> Markup:
    """Draw the posteriors of one parameter over each other.

    The reference is a filled shape, the others are lines; a triangle on the axis is a fit's point estimate.
    """
    curves = {fit: density(values) for fit, values in draws.items()}
    with canvas.drawing(300, 156, margins=(4, 4, 24, 6)) as (figure, axes):
        for fit in sorted(curves, key=lambda fit: fit != reference):
            curve, pen = curves[fit], pens[fit]
            if curve is None:
                axes.axvline(
                    float(np.mean(draws[fit])), color=pen.colour, linestyle=pen.dashes, linewidth=1.8
                )
                continue
            if fit == reference:
                axes.fill_between(*curve, color=pen.colour, alpha=0.22, linewidth=0)
            axes.plot(
                *curve, color=pen.colour, linestyle=pen.dashes, linewidth=1.5 if fit == reference else 2
            )
        axes.set_ylim(bottom=0)
        low, high = window(draws, reference)
        if high > low:
            axes.set_xlim(low, high)
        for fit, value in points.items():
            if low <= value <= high:
                axes.plot(
                    [value], [0], marker="^", markersize=6, color=pens[fit].colour, clip_on=False, zorder=5,
                    transform=axes.get_xaxis_transform(),
                )  # fmt: skip
        _name_the_absent(axes, draws, pens, low, high)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        spoken = "; ".join(
            f"{fit}: mean {number(np.mean(values))}, sd {number(np.std(values), 2)}"
            for fit, values in draws.items()
        )
        return canvas.picture(figure, f"Posterior of {name}{f' ({note})' if note else ''}. {spoken}.")


def _name_the_absent(
    axes: Any, draws: Mapping[str, np.ndarray], pens: Mapping[str, Pen], low: float, high: float
) -> None:
    """Say at the edge where the fits are that lie outside of the panel."""
    middles = {fit: float(np.mean(values)) for fit, values in draws.items()}
    for side in ("left", "right"):
        absent = [fit for fit, m in middles.items() if (m < low if side == "left" else m > high)]
        for line, fit in enumerate(absent):
            text = f"← {number(middles[fit])}" if side == "left" else f"{number(middles[fit])} →"
            place = (0.01 if side == "left" else 0.99, 0.97 - 0.13 * line)
            look = {"color": pens[fit].colour, "fontsize": 9.5, "fontweight": "bold", "ha": side, "va": "top"}
            axes.text(*place, text, transform=axes.transAxes, **look)


def window(draws: Mapping[str, np.ndarray], reference: str) -> tuple[float, float]:
    """Choose the range to show: all the fits, unless one strays far from the reference."""
    ends = {fit: np.nanquantile(values, [0.002, 0.998]) for fit, values in draws.items()}
    low, high = min(e[0] for e in ends.values()), max(e[1] for e in ends.values())
    if reference in draws:
        middle, sd = float(np.mean(draws[reference])), float(np.std(draws[reference]))
        if sd > 0:
            low, high = max(low, middle - 8 * sd), min(high, middle + 8 * sd)
    margin = 0.04 * (high - low)
    return float(low - margin), float(high + margin)


def forest(
    rows: Sequence[tuple[str, Mapping[str, Any]]], pens: Mapping[str, Pen], label: str, text: str
) -> Markup:
    """Draw means and 95 % intervals, one line a row and fit.

    Parameters
    ----------
    rows : (name, fit → (mean, lower, upper)), top first.
    label : what the axis measures.
    text : for those who cannot see the picture.
    """
    step = 0.8 / max(len(pens), 1)
    with canvas.drawing(460, 40 + 30 * len(rows)) as (figure, axes):
        for row, (_, values) in enumerate(rows):
            for place, (fit, (mean, lower, upper)) in enumerate(values.items()):
                pen, y = pens[fit], row + (place - (len(values) - 1) / 2) * step * 0.8
                axes.plot([lower, upper], [y, y], color=pen.colour, linewidth=1.8)
                axes.plot([mean], [y], "os^Dv"[place % 5], color=pen.colour, markersize=5)
        axes.axvline(0, color=INK, linewidth=0.6, zorder=0)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.set_xlabel(label)
        axes.spines["left"].set_visible(False)
        return canvas.picture(figure, text)
