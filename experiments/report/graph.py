"""The program as a picture: its sites, what depends on what, and the plates; drawn without graphviz."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from triptych.experiments.report.gather import Run
from triptych.experiments.report.layout import Layout, arrange
from triptych.experiments.report.parts import Pens, Picture, Section
from triptych.inference.arguments import recall

__all__ = ["Structure", "model_graph", "structure"]

# Pixels: of a place in the layout, of a site, and of the room inside a plate's box.
WIDE, HIGH = 150, 104
SITE_WIDE, SITE_HIGH = 124, 46
ROOM = 9
MOST_SITES = 40


class Structure(NamedTuple):
    """Sites in their order, site → parents, site → distribution, plate → sites, and what is observed."""

    sites: tuple[str, ...]
    parents: Mapping[str, Sequence[str]]
    distributions: Mapping[str, str]
    plates: Mapping[str, Sequence[str]]
    observed: frozenset[str]


def model_graph(run: Run, pens: Pens) -> Section | None:
    """Draw the program that was fitted."""
    del pens
    for fit in run.fits.values():
        call = recall(fit.data)
        found = structure(fit.model, *call) if call is not None else None
        if found is not None and 0 < len(found.sites) <= MOST_SITES:
            break
    else:
        return None
    caption = "Shaded: observed. An arrow says what a site depends on; a box is a plate of repeated sites."
    if run.chain:
        caption += " The latent is a chain: each step also depends on the one before."
    picture = Picture(drawn(found, _spoken(found)), caption=caption)
    return Section(
        "model", "The model", "What the program says of where the data come from.", (picture,), wide=True
    )


def structure(
    program: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Structure | None:
    """Read a program's structure by NumPyro; `None` for one that it cannot read.

    Parameters
    ----------
    program : the model, discrete latents and all.
    args, kwargs : what it is called with.
    """
    from numpyro.infer.inspect import get_model_relations

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_model_relations(program, tuple(args), dict(kwargs))
    except Exception:  # a picture less: whatever a program does there, it was fitted
        return None
    own = [site for up in found.get("sample_param", {}).values() for site in up]
    sites = tuple(dict.fromkeys([*own, *found["sample_sample"]]))
    place = {site: i for i, site in enumerate(sites)}
    above = {
        site: [*up, *found.get("sample_param", {}).get(site, ())]
        for site, up in found["sample_sample"].items()
    }
    # Within a scan NumPyro calls every site a parent of every other; a later one it cannot be.
    parents = {
        site: [one for one in dict.fromkeys(up) if place.get(one, len(place)) < place[site]]
        for site, up in above.items()
    }
    distributions = {**dict.fromkeys(own, "parameter"), **found["sample_dist"]}
    plates = {plate: held for plate, held in found["plate_sample"].items() if held}
    return Structure(sites, parents, distributions, plates, frozenset(found["observed"]))


def _spoken(found: Structure) -> str:
    said = []
    for site in found.sites:
        up, plates = found.parents.get(site, ()), [p for p, held in found.plates.items() if site in held]
        text = f"{site}: {'observed, ' if site in found.observed else ''}{found.distributions.get(site, '')}"
        text += f", given {', '.join(up)}" if up else ""
        said.append(text + (f", for each of {' and '.join(plates)}" if plates else ""))
    return f"The model as a graph. {'; '.join(said)}."


def drawn(found: Structure, text: str) -> Markup:
    """Draw a structure as inline SVG in the page's colours; every name is escaped."""
    layout = arrange(found.sites, found.parents, found.plates)
    middle = {site: (x * WIDE, y * HIGH + 12) for site, (x, y) in layout.places.items()}
    width, height = layout.width * WIDE, layout.height * HIGH + 30
    head = _tag("path", d="M0 0.5 L7.5 4 L0 7.5 Z", style="fill: var(--muted)")
    size = {"viewBox": "0 0 8 8", "refX": 7, "refY": 4, "markerWidth": 7, "markerHeight": 7, "orient": "auto"}
    parts = [_tag("title", text), _tag("defs", _tag("marker", head, id="arrow", **size))]
    parts += [_box(box, layout) for box in layout.boxes]
    for site, up in found.parents.items():
        parts += [_arrow(middle[one], middle[site]) for one in up if one in middle and one != site]
    for site in found.sites:
        parts.append(_site(*middle[site], site, found.distributions.get(site, ""), site in found.observed))
    look = {"class": "graph", "role": "img", "aria-label": text, "viewBox": f"0 0 {width:g} {height:g}"}
    space = {"xmlns": "http://www.w3.org/2000/svg", "style": f"max-width: {width:g}px !important"}
    return _tag("svg", Markup("").join(parts), **look, **space)


def _tag(name: str, content: str | Markup = "", **attributes: Any) -> Markup:
    """Write an element; all that is not markup already is escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key, f"{value:g}" if isinstance(value, float) else value)
        for key, value in attributes.items()
    )
    return Markup("<{}{}>{}</{}>").format(name, written, content, name)


def _text(x: float, y: float, text: str, look: str, anchor: str = "middle") -> Markup:
    return _tag("text", text, x=x, y=y, **{"class": look, "text-anchor": anchor})


def _site(x: float, y: float, name: str, distribution: str, observed: bool) -> Markup:
    left, top = x - SITE_WIDE / 2, y - SITE_HIGH / 2
    look = "site seen" if observed else "site"
    shape = {"x": left, "y": top, "width": SITE_WIDE, "height": SITE_HIGH, "rx": 23, "class": look}
    label = _text(x, y - 2.0, _short(name, 14), "name")
    return _tag("rect", **shape) + label + _text(x, y + 13.0, _short(distribution, 18), "kind")


def _box(box: tuple[str, float, float, float, float], layout: Layout) -> Markup:
    plate, left, right, top, bottom = box
    # A box within another is drawn smaller, so that their edges do not meet.
    depth = sum(
        other[1] <= left and right <= other[2] and other[3] <= top and bottom <= other[4] and other is not box
        for other in layout.boxes
    )
    pad = ROOM / 2 + ROOM * depth
    x, y = left * WIDE + pad, top * HIGH + pad + 4
    wide, high = (right - left) * WIDE - 2 * pad, (bottom - top) * HIGH - 2 * pad + 22
    edge = _tag("rect", x=x, y=y, width=wide, height=high, rx=8, **{"class": "plate"})
    return edge + _text(x + wide - 8, y + high - 7, _short(plate, 20), "kind", "end")


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    """Draw an arrow from the edge of one site to that of another; past sites between them in a bow."""
    (x0, y0), (x1, y1) = start, end
    first, last = y0 + SITE_HIGH / 2, y1 - SITE_HIGH / 2 - 1
    bow = (y1 - y0) / HIGH > 1.5 and abs(x1 - x0) < WIDE / 2
    aside = SITE_WIDE * 0.75 if bow else 0.0
    reach = 0.45 * (last - first)
    curve = f"C{x0 + aside:g} {first + reach:g} {x1 + aside:g} {last - reach:g} {x1:g} {last:g}"
    return _tag("path", d=f"M{x0:g} {first:g} {curve}", **{"class": "edge", "marker-end": "url(#arrow)"})


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
