"""The section of posterior predictive checks: the data among data drawn from each fit."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import INK, MUTED, Pen
from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import number
from triptych.experiments.report.parts import Pens, Picture, Section, Table
from triptych.inference.arguments import is_sample, recall
from triptych.inference.precision import matching_precision
from triptych.inference.predictive_checks import Check, checks, kind_of, words
from triptych.inference.replicate import Replicator
from triptych.inference.verdict import title
from triptych.models.errors import InputError

__all__ = ["data_again", "overlay", "rootogram", "row_sums"]

DRAWS = 200
MOST_COLUMNS = 6  # drawn
MOST_ROWS = 6  # of the table of a fit, the worst first
OVERLAID = 30  # replicates drawn as lines
MOST_CURVE = 2000  # rows that a density curve is made of


def data_again(run: Run, pens: Pens) -> Section | None:
    """Draw data from each fit, and compare them with the data by pictures and by statistics."""
    first = run.fits.get(run.reference)
    call = recall(first.data) if first is not None else None
    if first is None or call is None or is_sample(first.data):
        return None
    args, kwargs = call
    seed = int(run.config.get("seed", 0) or 0)
    try:
        with matching_precision(args, kwargs):
            replicator = Replicator.of(first.model, *args, **kwargs)
            drawn = {
                name: replicator.draw(jax.random.key(seed), fit, DRAWS) for name, fit in run.fits.items()
            }
    except InputError:  # a chain, whose steps are not drawn again
        return None
    observed = first.data["observed_data"].dataset if "observed_data" in first.data.children else {}
    tables, said, pictures = [], [], []
    for name, replicates in drawn.items():
        found: list[Check] = []
        for site, values in replicates.items():
            if site.replace("/", ".") not in observed:
                continue
            data = np.asarray(observed[site.replace("/", ".")].values)
            if data.ndim not in (1, 2):
                continue
            names = _names(run, site, data)
            found += checks(data, values, names)
            if name == run.reference:
                pictures += _pictures(data, values, names, pens[name])
        if found:
            said.append(f"{title(name)}: {words(found)}")
            tables.append(_table(name, found))
    if not tables:
        return None
    intro = "Data drawn from each fit (discrete latents drawn anew) beside the data. " + " ".join(said)
    return Section("predictive", "Data from the fits", intro, pictures=tuple(pictures), tables=tuple(tables))


def _names(run: Run, site: str, data: np.ndarray) -> tuple[str, ...]:
    if data.ndim == 2 and data.shape[1] == len(run.columns):
        return run.columns
    if data.ndim == 1 or data.shape[1] == 1:
        target = run.manifest.get("data", {}).get("target")
        return (str(target) if site == "y" and target else site,)
    return tuple(f"{site}[{d}]" for d in range(data.shape[1]))


def _table(name: str, found: list[Check]) -> Table:
    worst = sorted((check for check in found if np.isfinite(check.p)), key=lambda check: check.tail)
    rows = tuple(
        (c.statistic, number(c.observed, 4), f"{number(c.low, 4)} to {number(c.high, 4)}", number(c.p, 2))
        for c in worst[:MOST_ROWS]
    )
    note = f"The worst matched of {len(found)} statistics; p is the share of replicates above the data."
    return Table(name, ("statistic", "data", "95 % of replicates", "p"), rows, note)


def _pictures(data: np.ndarray, drawn: np.ndarray, names: tuple[str, ...], pen: Pen) -> list[Picture]:
    table = np.asarray(data, float).reshape(len(data), -1)
    drawn = np.asarray(drawn, float).reshape(len(drawn), *table.shape)
    drawn = drawn[np.all(np.isfinite(drawn) | np.isnan(table), axis=(1, 2))]
    if not len(drawn):
        return []
    drawn = np.where(np.isnan(table), np.nan, drawn)
    kind = kind_of(table, drawn)
    if kind == "binary" and table.shape[1] > 1:
        text = "How many of the columns are 1 in a row: bars the data, points and lines the replicates."
        return [Picture(row_sums(table, drawn, pen, text), caption=text, heading="ones in a row")]
    pictures = []
    for d, name in enumerate(names[:MOST_COLUMNS]):
        own, theirs = table[:, d], drawn[:, :, d]
        own, theirs = own[~np.isnan(own)], theirs[:, ~np.isnan(own)]
        if len(own) < 2:
            continue
        if kind == "continuous":
            text = f"Density of {name}: the data dark, {min(OVERLAID, len(theirs))} replicates light."
            pictures.append(Picture(overlay(own, theirs, pen, text), caption=text, heading=name))
        else:
            text = f"Frequencies of {name}, as square roots: bars the data, points and lines the replicates."
            pictures.append(Picture(rootogram(own, theirs, pen, text), caption=text, heading=name))
    return pictures


def overlay(data: np.ndarray, drawn: np.ndarray, pen: Pen, text: str) -> Markup:
    """Draw densities: of the data (N,), dark, over those of replicates (S, N), light."""
    low, high = data.min(), data.max()
    span = (high - low) or 1.0
    grid = np.linspace(low - 0.2 * span, high + 0.2 * span, 160)
    thin = np.unique(np.linspace(0, len(drawn) - 1, OVERLAID).astype(int))
    with canvas.drawing(320, 200) as (figure, axes):
        for values in drawn[thin]:
            axes.plot(grid, _density(values, grid), color=pen.colour, alpha=0.25, linewidth=0.8)
        axes.plot(grid, _density(data, grid), color=INK, linewidth=1.8)
        axes.set_yticks([])
        axes.set_ylim(bottom=0)
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=6)
        return canvas.picture(figure, text)


def _density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Estimate a density by Gaussian kernels, of the width for rough shapes (half of Silverman's)."""
    values = values[np.isfinite(values)]
    values = values[np.linspace(0, len(values) - 1, min(len(values), MOST_CURVE)).astype(int)]
    quartiles = np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.34
    scale = min(x for x in (values.std(), quartiles) if x > 0) if max(values.std(), quartiles) > 0 else 1.0
    width = 0.5 * 1.06 * scale * len(values) ** -0.2
    z = (grid[:, None] - values) / width
    return np.exp(-0.5 * z**2).mean(axis=1) / (width * np.sqrt(2 * np.pi))


def rootogram(data: np.ndarray, drawn: np.ndarray, pen: Pen, text: str) -> Markup:
    """Draw square roots of frequencies, on which small counts can be seen beside large ones (Tukey 1977)."""
    top = int(min(max(data.max(), np.quantile(drawn, 0.999)), 60))
    edges = np.arange(top + 2) - 0.5
    own = np.histogram(data, edges)[0]
    theirs = np.stack([np.histogram(values, edges)[0] for values in drawn])
    return _bars(np.arange(top + 1), np.sqrt(own), np.sqrt(theirs), pen, text, "√ rows")


def row_sums(data: np.ndarray, drawn: np.ndarray, pen: Pen, text: str) -> Markup:
    """Draw how many columns are 1 in a row, as shares of the rows."""
    edges = np.arange(data.shape[1] + 2) - 0.5
    own = np.histogram(np.nansum(data, axis=-1), edges)[0] / len(data)
    theirs = np.stack([np.histogram(s, edges)[0] for s in np.nansum(drawn, axis=-1)]) / len(data)
    return _bars(np.arange(data.shape[1] + 1), own, theirs, pen, text, "share of rows")


def _bars(at: np.ndarray, own: np.ndarray, theirs: np.ndarray, pen: Pen, text: str, label: str) -> Any:
    low, middle, high = np.quantile(theirs, [0.025, 0.5, 0.975], axis=0)
    with canvas.drawing(320, 200) as (figure, axes):
        axes.bar(at, own, width=0.8, color=MUTED, alpha=0.35, linewidth=0)
        axes.vlines(at, low, high, color=pen.colour, linewidth=1.4)
        axes.plot(at, middle, "o", color=pen.colour, markersize=3.5)
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        return canvas.picture(figure, text)
