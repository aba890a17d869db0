"""The sections of a mixture: the data with its components, their looks, and which row belongs where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from triptych.experiments.report import mixtures, rows
from triptych.experiments.report.canvas import COMPONENTS
from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import fixed, number
from triptych.experiments.report.parts import Pens, Picture, Section

__all__ = ["components", "data_and_components", "membership"]

# Columns at most in the table of a Bernoulli mixture, and classes at most in the table of known classes.
MOST_COLUMNS = 40
MOST_CLASSES = 30


def data_and_components(run: Run, pens: Pens) -> Section | None:
    """Draw the rows of a Gaussian mixture with the fitted components."""
    found = {name: one for name, fit in run.fits.items() if (one := mixtures.mixture(fit)) is not None}
    if not found or run.x is None or run.x.shape[1] != next(iter(found.values())).means.shape[1]:
        return None
    draw = {1: _one_column, 2: _two_columns}.get(run.x.shape[1], _many_columns)
    x, filled = _filled(run, run.x)
    section = draw(run, x, found, pens)
    if filled:
        section = section._replace(intro=f"{section.intro} {filled}")
    section = section._replace(intro=section.intro + _sampled(run, len(run.x)))
    if len(run.x) > mixtures.MOST_POINTS and run.x.shape[1] > 1:
        drawn = f" Of {fixed(len(run.x), 0)} rows, {fixed(mixtures.MOST_POINTS, 0)} are drawn."
        section = section._replace(intro=section.intro + drawn)
    return section if section.pictures else None


def _sampled(run: Run, drawn: int) -> str:
    """Say that the rows at hand are a sample of those that were fitted, where they are."""
    if not run.config.get("data", {}).get("blocks"):
        return ""
    total = fixed(run.manifest.get("data", {}).get("rows"), 0)
    return f" The rows were read in blocks: these are {fixed(drawn, 0)} of {total}, drawn at random."


def _filled(run: Run, x: np.ndarray) -> tuple[np.ndarray, str]:
    """Give rows that can be drawn, and what to say of it: missing cells are where the reference puts them."""
    gaps = np.isnan(x)
    if not gaps.any():
        return x, ""
    if run.reference in run.imputations and x.shape[1] > 1:
        count = int(gaps.any(axis=1).sum())
        rows = (
            f"The {count} rows with a missing cell stand"
            if count > 1
            else "The row with a missing cell stands"
        )
        return run.imputations[run.reference].mean, f"{rows} where the reference expects that cell."
    return x[~gaps.any(axis=1)], "Rows with a missing cell are left out."


def _section(intro: str, pictures: Sequence[Picture], **more: Any) -> Section:
    return Section("data", "The data and the fitted components", intro, tuple(pictures), **more)


def _one_column(run: Run, x: np.ndarray, found: Mapping[str, mixtures.Mixture], pens: Pens) -> Section:
    (name,) = column_names(run, 1)
    intro = "The rows as a histogram, and the density that each fit gives them. "
    intro += "The thin lines are the components of the reference."
    spoken = f"Histogram of {name}. {_spoken(found.get(run.reference) or next(iter(found.values())))}"
    image = mixtures.curves(x, found, pens, run.reference, name, spoken)
    return _section(intro, [Picture(image)], wide=True, keyed=True)


def _two_columns(run: Run, x: np.ndarray, found: Mapping[str, mixtures.Mixture], pens: Pens) -> Section:
    del pens
    first, second = column_names(run, 2)
    pictures = []
    for name, one in found.items():
        if name in run.responsibilities:
            spoken = f"{second} against {first} with the components of {name}. {_spoken(one)}"
            image = mixtures.scatter(x, run.responsibilities[name], one, (first, second), spoken)
            pictures.append(Picture(image, name))
    intro = "Each row has the colour of its component, blended where it may belong to several; "
    intro += "the ellipses are one and two standard deviations."
    return _section(intro, pictures)


def _many_columns(run: Run, x: np.ndarray, found: Mapping[str, mixtures.Mixture], pens: Pens) -> Section:
    guide = run.reference if run.reference in found else next(iter(found))
    table = run.responsibilities.get(guide)
    likely = table.argmax(axis=1) if table is not None else np.zeros(len(x), dtype=int)
    names = column_names(run, x.shape[1])
    chosen = mixtures.separating(found[guide], x, 3)
    pictures = []
    for a, b in ((a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]):
        spoken = f"{names[b]} against {names[a]}, with one-standard-deviation ellipses of {', '.join(found)}."
        image = mixtures.overlay(x, likely, found, pens, (a, b), (names[a], names[b]), spoken)
        pictures.append(Picture(image))
    intro = f"The {len(chosen)} columns in which the components differ most, two at a time. "
    intro += "Rows have the colour and shape of their likeliest component; "
    intro += "the ellipses are one standard deviation, in the colours of the fits."
    return _section(intro, pictures, keyed=True)


def column_names(run: Run, count: int) -> tuple[str, ...]:
    """Name the columns of the rows, by number where their names are not known."""
    return run.columns if len(run.columns) == count else tuple(f"column {d}" for d in range(count))


def _spoken(one: mixtures.Mixture) -> str:
    return " ".join(
        f"Component {k}: weight {number(weight, 2)}, mean ({', '.join(map(number, mean))})."
        for k, (weight, mean) in enumerate(zip(one.weights, one.means, strict=True))
    )


def components(run: Run, pens: Pens) -> Section | None:
    """Show the components of pixels as images, those of other binary columns as a table."""
    del pens
    site = {"bernoulli_mixture": "probs", "gaussian_mixture": "means"}.get(run.model, "")
    tables = {
        name: np.asarray(fit.parameters[site]) for name, fit in run.fits.items() if site in fit.parameters
    }
    if not tables:
        return None
    weights = {name: [number(w, 2) for w in run.fits[name].parameters["weights"]] for name in tables}
    width = next(iter(tables.values())).shape[-1]
    names = column_names(run, width)
    title = "What the components look like"
    if _pixels(names):
        intro = "The mean of each component as an image, and its weight. "
        intro += "The same place is the same component under each fit."
        return Section("components", title, intro, images=tuple(_images(site, tables, weights)))
    if site == "means" or width > MOST_COLUMNS:
        return None
    probabilities = tuple(
        {
            "fit": name,
            "columns": names,
            "rows": [
                {"k": k, "weight": weights[name][k], "cells": [(fixed(p, 2), f"{p:.3f}") for p in row]}
                for k, row in enumerate(table)
            ],
        }
        for name, table in tables.items()
    )
    return Section("components", title, "How probable a 1 is, by component.", probabilities=probabilities)


def _pixels(names: Sequence[str]) -> bool:
    """Whether the columns are the pixels of a square image: pixel0, pixel1, … or p0, p1, …."""
    square = len(names) >= 16 and round(len(names) ** 0.5) ** 2 == len(names)
    return square and all(re.fullmatch(r"(pixel|px|p)[_0-9]+", name) for name in names)


def _images(
    site: str, tables: Mapping[str, np.ndarray], weights: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    ends = [float(end(table)) for table in tables.values() for end in (np.min, np.max)]
    low, high = (0.0, 1.0) if site == "probs" else (min(ends), max(ends))
    return [
        {
            "fit": name,
            "components": [
                {
                    "image": rows.image(row, low, high),
                    "text": f"{name}, component {k}",
                    "weight": weights[name][k],
                }
                for k, row in enumerate(table)
            ],
        }
        for name, table in tables.items()
    ]


def membership(run: Run, pens: Pens) -> Section | None:
    """Show how surely each row belongs to each component, and how that goes with known classes."""
    del pens
    if not run.responsibilities or run.chain:
        return None
    found = run.responsibilities
    guide = found[run.reference] if run.reference in found else next(iter(found.values()))
    order = rows.arranged(guide)
    pictures = []
    for name, table in found.items():
        unsure = 100 * float(np.mean(table.max(axis=1) < 0.9))
        caption = f"{number(unsure, 2)} % of the rows belong to no component with more than 90 %."
        shares = ", ".join(number(share, 2) for share in table.mean(axis=0))
        image = rows.strip(table, order, f"Responsibilities under {name}: shares {shares}. {caption}")
        pictures.append(Picture(image, name, caption))
    intro = "Every row is a thin column, split between the components as the fit would split it. "
    intro += "The order is the same for all fits." + _sampled(run, len(guide))
    count = guide.shape[1]
    colours = ((COMPONENTS[k % len(COMPONENTS)], f"component {k}") for k in range(count))
    legend = tuple(colours) if count <= len(COMPONENTS) else ()
    counts = _classes(run, guide.argmax(axis=1), count)
    return Section(
        "rows", "Which row belongs where", intro, tuple(pictures), counts=counts, legend=legend, wide=True
    )


def _classes(run: Run, likely: np.ndarray, count: int) -> dict[str, Any] | None:
    """Count the rows of each known class by their likeliest component."""
    if run.target is None or len(run.target) != len(likely):
        return None
    labels = np.array([f"{v:g}" if isinstance(v, float | np.floating) else str(v) for v in run.target])
    names = sorted(set(labels.tolist()), key=lambda name: (len(name), name))
    if not 1 < len(names) <= MOST_CLASSES:
        return None
    table = []
    for name in names:
        counts = np.bincount(likely[labels == name], minlength=count)
        table.append({"name": name, "cells": [(str(n), f"{n / counts.sum():.3f}") for n in counts]})
    return {"components": list(range(count)), "rows": table}
