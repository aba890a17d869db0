"""What a page is made of: sections, and the pictures in them."""

from __future__ import annotations

from typing import Any, NamedTuple

from markupsafe import Markup

from triptych.experiments.report.canvas import Pen
from triptych.experiments.report.live import Chart

__all__ = ["Pens", "Picture", "Section", "Table"]

Pens = dict[str, Pen]


class Picture(NamedTuple):
    """A picture, the fit it belongs to ("" for all), its heading and note above, its caption below.

    `chart` are its numbers, for a reader who looks closer; where no script runs, and in print, the image
    stands.
    """

    image: Markup
    fit: str = ""
    caption: str = ""
    heading: str = ""
    note: str = ""
    chart: Chart | None = None


class Table(NamedTuple):
    """A plain table: heads, rows of texts (the first cell names the row), and a note below.

    It belongs to a fit, or (`fit` is "") to all of them and has a title.
    """

    fit: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    title: str = ""


class Section(NamedTuple):
    """A part of the page: title, a sentence of introduction, and what is shown.

    `images` are components as pixels, `probabilities` and `counts` tables of shaded cells, `tables` plain
    ones, `legend` pairs of a colour and what it stands for; `keyed` asks for the legend of the fits, `wide`
    for one picture a row; `choice` are the parameters that can be chosen, as JSON.
    """

    anchor: str
    title: str
    intro: str = ""
    pictures: tuple[Picture, ...] = ()
    images: tuple[dict[str, Any], ...] = ()
    probabilities: tuple[dict[str, Any], ...] = ()
    counts: dict[str, Any] | None = None
    tables: tuple[Table, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    keyed: bool = False
    wide: bool = False
    choice: Markup | None = None
