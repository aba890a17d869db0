"""One look for every picture: drawn by matplotlib, handed out as inline SVG that follows the page's colours.

Each picture is drawn with stand-in colours that become CSS variables, so that one file serves dark, light
and print; text stays text. pyplot is not used, so the user's own figures and backend are left alone.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

__all__ = [
    "COMPONENTS",
    "GRID",
    "INK",
    "MARKERS",
    "MUTED",
    "PAPER",
    "Pen",
    "drawing",
    "mix",
    "pens",
    "picture",
]

# Stand-ins, replaced by var(--name) of style.css.
INK, MUTED, GRID, PAPER = "#0b0b0b", "#7b7b7b", "#dbdbdb", "#fbfbfb"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}

# Okabe & Ito's colours, safe for colour-blind readers; a method keeps its colour everywhere.
_METHODS = {"em": "#0072b2", "svi": "#d55e00", "mcmc": "#009e73"}
_SPARE = ("#cc79a7", "#b38600", "#56b4e9", "#7f6bb5", "#8c564b")
_VARIABLES |= {colour: f"--{method}" for method, colour in _METHODS.items()}
_VARIABLES |= {colour: f"--spare-{i}" for i, colour in enumerate(_SPARE)}
_DASHES: Mapping[str, Any] = {"em": (0, (1.2, 1.4)), "svi": (0, (5, 2)), "mcmc": "solid"}
_SPARE_DASHES: tuple[Any, ...] = (
    "solid",
    (0, (4, 1.5, 1, 1.5)),
    (0, (2.5, 1.5)),
    (0, (7, 2, 2, 2)),
    (0, (3, 3)),
)

# Components are told apart by colour and by marker, on paper and on a dark screen alike.
COMPONENTS = (
    "#4a90d9",
    "#d9675f",
    "#3fa58c",
    "#c79a27",
    "#a466b8",
    "#7f9a3a",
    "#d177a8",
    "#8a7f72",
    "#5fb6c9",
)
MARKERS = "os^Dv<P>X"

# How matplotlib draws; in force only while a picture is made.
_LOOK: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "triptych",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "figure.facecolor": "none",
    "figure.dpi": 72,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 7),
    "axes.unicode_minus": True,
}

_serial = itertools.count()


class Pen(NamedTuple):
    """How one fit is drawn everywhere: its colour (and the CSS variable of it) and its dashes."""

    colour: str
    variable: str
    dashes: Any


def pens(methods: Mapping[str, str]) -> dict[str, Pen]:
    """Give each fit (name → method) its pen; other methods, and a second fit of one, get a spare colour."""
    spare = itertools.cycle(zip(_SPARE, _SPARE_DASHES, strict=True))
    taken: set[str] = set()
    chosen = {}
    for name, method in methods.items():
        known = method in _METHODS and method not in taken
        taken.add(method)
        colour, line = (_METHODS[method], _DASHES[method]) if known else next(spare)
        chosen[name] = Pen(colour, _VARIABLES[colour], line)
    return chosen


def mix(responsibilities: np.ndarray) -> np.ndarray:
    """Blend the component colours by responsibility: (N, K) → (N, 3)."""
    from matplotlib.colors import to_rgb

    count = responsibilities.shape[1]
    palette = np.array([to_rgb(COMPONENTS[k % len(COMPONENTS)]) for k in range(count)])
    return np.clip(responsibilities @ palette, 0.0, 1.0)


@contextmanager
def drawing(
    width: float = 320, height: float = 220, *, margins: tuple[float, float, float, float] | None = None
) -> Iterator[tuple[Any, Any]]:
    """Open a figure of so many CSS pixels; yields (figure, axes) in the look of the page.

    Margins (left, right, bottom, top, in pixels) that are given need not be worked out, which takes as long
    as the drawing.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(_LOOK)):
        figure = Figure(figsize=(width / 72, height / 72), layout=None if margins else "constrained")
        axes = figure.subplots()
        if margins:
            left, right, bottom, top = margins
            figure.subplots_adjust(
                left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height
            )
        yield figure, axes


def picture(figure: Any, text: str) -> Markup:
    """Turn a figure into inline SVG, with `text` for those who cannot see it."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(dict(_LOOK)):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<!--.*?-->", "", buffer.getvalue())
    svg = svg[svg.index("<svg") :]
    width, height = (float(re.search(rf'{side}="([\d.]+)pt"', svg)[1]) for side in ("width", "height"))  # type: ignore[index]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    # Ids are unique on the page; several pictures would otherwise share clip paths and markers.
    prefix = f"p{next(_serial)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r"<[^>]+>", lambda tag: _restyled(tag[0]), svg)
    body = re.sub(r"\s*\n\s*", " ", svg[svg.index(">") + 1 :])
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'viewBox="0 0 {width:g} {height:g}" style="max-width:{width * 1.15:.0f}px" '
        f'aria-label="{escape(text)}"><title>{escape(text)}</title>'
    )
    return Markup(opening + body)


def _restyled(tag: str) -> str:
    """Give a tag of the SVG the page's font and colours, and its coordinates two decimals."""
    tag = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", tag)
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda colour: _variable(colour[0]), tag)
    return re.sub(r"(\d\.\d{2})\d+", r"\1", tag)


def _variable(colour: str) -> str:
    name = _VARIABLES.get(colour)
    return f"var({name})" if name else colour
