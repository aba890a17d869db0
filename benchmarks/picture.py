"""The picture of the benchmarks: every ratio as a dot with its range, a panel a group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from harness import Row
from matplotlib.figure import Figure

__all__ = ["picture"]

LINE = 0.215  # inches
COLOURS = {
    "scikit-learn": "#0072b2",
    "pomegranate": "#b38600",
    "StepMix": "#cc79a7",
    "BayesianRidge": "#56b4e9",
    "PyMC with nutpie": "#7f6bb5",
}
OTHERS = "#009e73"  # NumPyro, and what has no peer of that name


def picture(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows: filled for float64 (or none named), hollow for float32, a tick at the aim."""
    groups = {
        group: [row for row in rows if row.group == group] for group in dict.fromkeys(r.group for r in rows)
    }
    names = {group: list(dict.fromkeys(_name(row) for row in held)) for group, held in groups.items()}
    heights = [len(each) + 1.6 for each in names.values()]
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.5, 0.9 + LINE * sum(heights)), layout="constrained")
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (group, held) in zip(panels, groups.items(), strict=True):
            places = {name: place for place, name in enumerate(names[group])}
            shared = [name for name in places if len({r.precision for r in held if _name(r) == name}) > 1]
            for row in held:
                shift = 0.0
                if _name(row) in shared:
                    shift = 0.17 if row.precision == "float32" else -0.17
                _draw(axes, row, places[_name(row)] + shift)
            axes.axvline(1, color="0.4", lw=1, zorder=0)
            axes.set_xscale("log")
            axes.set_yticks(range(len(places)), places)
            axes.set_ylim(len(places) - 0.4, -0.6)
            axes.set_title(group, loc="left", fontsize=9, fontweight="bold")
            axes.grid(axis="x", color="0.9", lw=0.6)
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", labelbottom=axes is panels[-1])
        panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        panels[-1].set_xlabel(
            "times as fast as the peer (filled: float64, hollow: float32; black tick: the aim; ▷: at least)"
        )
        figure.savefig(path, dpi=140)


def _name(row: Row) -> str:
    return f"{row.what} · {row.peer}"


def _draw(axes: object, row: Row, place: float) -> None:
    colour = COLOURS.get(row.peer, OTHERS)
    plot = axes.plot  # type: ignore[attr-defined]
    plot([min(row.ratios), max(row.ratios)], [place, place], color=colour, lw=1.6, alpha=0.5)
    face = "white" if row.precision == "float32" else colour
    plot(row.ratio, place, ">" if row.at_least else "o", color=colour, mfc=face, ms=4.5)
    if row.target is not None:
        plot(row.target, place, "|", color="black", ms=8, mew=1.4)
