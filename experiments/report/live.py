"""Pictures that can be looked at closer: their numbers as JSON, which chart.js draws in their place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2.utils
import numpy as np
from markupsafe import Markup

from triptych.experiments.report.canvas import Pen

__all__ = ["Chart", "Line", "dashes", "embedded", "packed", "rounded", "thinned"]

MOST_POINTS = 700  # of a line


class Line(NamedTuple):
    """A line of a chart: its name ("" for none), a CSS colour, x ascending and y, and how it is drawn.

    `step` goes level and then up, `dots` marks the points, `quiet` is drawn thin and left out of the legend,
    `ghost` is not drawn: the cursor alone tells its values; between it and the line called `upto` is shaded.
    """

    name: str
    colour: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    dash: str = ""
    step: bool = False
    dots: bool = False
    quiet: bool = False
    ghost: bool = False
    upto: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
    """The numbers of a picture.

    Attributes
    ----------
    x : what runs along the x axis; `y` likewise.
    lines : what is drawn.
    text : for those who cannot see it.
    log : whether the y axis is logarithmic.
    whole : whether x counts something.
    limits : range of y while nothing is zoomed; that of the lines if left out.
    """

    x: str
    y: str
    lines: tuple[Line, ...]
    text: str
    log: bool = False
    whole: bool = True
    limits: tuple[float, float] | None = None

    @property
    def json(self) -> Markup:
        """The chart as JSON that can stand in a script element."""
        lines = []
        for line in self.lines:
            fields = line._asdict() | {"x": rounded(line.x), "y": rounded(line.y)}
            lines.append({name: value for name, value in fields.items() if value not in (False, "")})
        content = dataclasses.asdict(self) | {"lines": lines}
        return embedded({name: value for name, value in content.items() if value not in (None, False)})


def embedded(content: Any) -> Markup:
    """Write plain data as JSON in which no name can end the script element or open a comment.

    `<`, `>`, `&` and `'` become escapes of JSON; numbers that are not finite are not allowed.
    """
    dense: dict[str, Any] = {"separators": (",", ":"), "allow_nan": False}
    return jinja2.utils.htmlsafe_json_dumps(content, dumps=json.dumps, **dense)


def rounded(values: Sequence[float] | np.ndarray, digits: int = 7) -> list[float | int | None]:
    """Give numbers with so many significant digits, `None` for those that are not finite."""
    found: list[float | int | None] = []
    for value in np.asarray(values, dtype=float).tolist():
        short = float(f"{value:.{digits}g}") if np.isfinite(value) else None
        found.append(int(short) if short is not None and short.is_integer() and abs(short) < 1e9 else short)
    return found


def packed(values: np.ndarray, low: float, high: float) -> list[int | None]:
    """Write numbers between `low` and `high` as 0 … 999: as fine as a screen shows, in three bytes each."""
    span = high - low if high > low else 1.0
    scaled = np.clip((np.asarray(values, dtype=float) - low) / span, 0.0, 1.0) * 999
    return [round(value) if np.isfinite(value) else None for value in scaled.tolist()]


def thinned(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Choose at most so many of `count` places, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def dashes(pen: Pen) -> str:
    """Give a pen's dashes as SVG writes them."""
    return "" if isinstance(pen.dashes, str) else " ".join(f"{2 * length:g}" for length in pen.dashes[1])
