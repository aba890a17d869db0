"""BIC, elpd and log p(x) against the setting that runs differ in, such as the number of components."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from markupsafe import Markup

from triptych.experiments.candidates import Beside, Row
from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import INK, MARKERS, MUTED, PAPER
from triptych.experiments.report.numbers import fixed
from triptych.experiments.report.parts import Pens
from triptych.inference.verdict import title

__all__ = ["Curve", "Measure", "curves", "scale_of", "swept"]

MOST_TICKS = 12
BESIDE = 0.012  # of the axis, between two lines
WIDE = 100.0  # a ratio of the largest to the smallest value from which the axis is logarithmic


class Measure(NamedTuple):
    """A number of a fit: heading, axis, what it is, its standard error, and whether less is better."""

    heading: str
    label: str
    value: Callable[[Row], float | None]
    error: Callable[[Row], float | None]
    less: bool = False


class Curve(NamedTuple):
    """One line: a fit, the other settings of its runs ("" if none), points (setting, value, error)."""

    fit: str
    others: str
    points: tuple[tuple[float, float, float | None], ...]

    def best(self, less: bool) -> tuple[float, float, float | None]:
        """Give the best point."""
        return (min if less else max)(self.points, key=lambda point: point[1])


MEASURES = (
    Measure("Evidence", "log p(x), nats", lambda row: row.log_evidence, lambda row: row.error),
    Measure(
        "Predictions",
        "elpd (LOO), nats",
        lambda row: row.elpd,
        # The rows of the data are the same: only the error of the difference tells two runs apart.
        lambda row: row.elpd_se if row.difference_se is None else row.difference_se,
    ),
    Measure("BIC", "BIC, −2 log scale", lambda row: row.bic, lambda row: None, less=True),
)


def swept(found: Beside, drawn: Pens) -> dict[str, Any] | None:
    """Give the pictures of the numbers against the setting: its key, pictures as heading and image.

    `None` where the runs are of different data, or no setting has three different numbers.
    """
    key = scale_of(found) if found.same_data else None
    if key is None:
        return None
    pictures = []
    for measure in MEASURES:
        lines = curves(found, key, measure)
        if lines:
            pictures.append({"heading": measure.heading, "image": _picture(lines, key, measure, drawn)})
    return {"key": key, "pictures": pictures} if pictures else None


def scale_of(found: Beside) -> str | None:
    """Name the setting to draw against: numbers, the one of most values; a seed is no scale."""
    keys = dict.fromkeys(key for one in found.candidates for key in one.settings)
    counts: dict[str, int] = {}
    for key in keys:
        values = [_number(one.settings.get(key, "")) for one in found.candidates]
        if key.rpartition(".")[2] != "seed" and all(value is not None for value in values):
            counts[key] = len(set(values))
    best = max(counts, key=lambda key: counts[key], default=None)
    return best if best is not None and counts[best] >= 3 else None


def curves(found: Beside, key: str, measure: Measure) -> list[Curve]:
    """Give the lines of a measure, of two points at least: one a fit and combination of other settings."""
    settings = {one.run: one.settings for one in found.candidates}
    lines: dict[tuple[str, str], dict[float, tuple[float, float | None]]] = {}
    for row in found.rows:
        value, at = measure.value(row), _number(settings[row.run][key])
        if value is None or at is None or not math.isfinite(value):
            continue
        lines.setdefault((row.fit, _others(settings[row.run], key)), {})[at] = (value, measure.error(row))
    return [
        Curve(fit, others, tuple((at, *points[at]) for at in sorted(points)))
        for (fit, others), points in lines.items()
        if len(points) > 1
    ]


def _others(settings: Mapping[str, str], key: str) -> str:
    """Say the other settings of a run, each by the last part of its key."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in settings.items() if name != key)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _picture(lines: list[Curve], key: str, measure: Measure, drawn: Pens) -> Markup:
    """Draw the lines with two standard errors, the best point of each ringed."""
    combinations = list(dict.fromkeys(line.others for line in lines))
    ticks = sorted({point[0] for line in lines for point in line.points})
    columns = 3 if combinations == [""] else 2
    log = ticks[0] > 0 and ticks[-1] / ticks[0] >= WIDE
    with canvas.drawing(330, 236 + 17 * -(-len(lines) // columns)) as (figure, axes):
        for place, line in enumerate(lines):
            # Side by side, so that bars at one value can be told apart.
            shift = 0.0 if log else (place - (len(lines) - 1) / 2) * BESIDE * (ticks[-1] - ticks[0])
            pen, marker = drawn[line.fit], MARKERS[combinations.index(line.others) % len(MARKERS)]
            x, y, errors = zip(*((at + shift, *rest) for at, *rest in line.points), strict=True)
            label = ", ".join(part for part in (title(line.fit), line.others) if part)
            axes.plot(x, y, color=pen.colour, linestyle=pen.dashes, linewidth=1.4, zorder=2)
            axes.plot(x, y, marker, color=pen.colour, markersize=4.5, label=label, zorder=3)
            for at, value, error in zip(x, y, errors, strict=True):
                reach = 2 * (error or 0.0)
                axes.plot([at, at], [value - reach, value + reach], color=pen.colour, linewidth=1.1, zorder=2)
            at, value, _ = line.best(measure.less)
            axes.plot([at + shift], [value], "o", color=INK, mfc="none", markersize=11, mew=1.2, zorder=4)
        if log:
            axes.set_xscale("log")
        elif len(ticks) <= MOST_TICKS:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.locator_params(axis="y", nbins=5)
        axes.grid(axis="y")
        axes.margins(x=0.08, y=0.12)
        axes.set_xlabel(key, parse_math=False)
        axes.set_ylabel(measure.label)
        if len(lines) > 1 or combinations != [""]:
            kind: dict[str, Any] = {"fontsize": 9, "labelcolor": MUTED, "facecolor": PAPER}
            held = figure.legend(loc="outside lower left", ncols=columns, handletextpad=0.2, **kind)
            for text in held.get_texts():
                text.set_parse_math(False)
        return canvas.picture(figure, _spoken(lines, key, measure))


def _spoken(lines: list[Curve], key: str, measure: Measure) -> str:
    """Say the picture: every line's numbers, and its best."""
    said = []
    for line in lines:
        name = ", ".join(part for part in (title(line.fit), line.others) if part)
        numbers = ", ".join(f"{at:g}: {fixed(value, 1)}" for at, value, _ in line.points)
        said.append(f"{name} {numbers}, best at {line.best(measure.less)[0]:g}")
    return f"{measure.label} against {key}: {'; '.join(said)}."
