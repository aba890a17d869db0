"""The sections of the posterior: every parameter under all fits, and the coefficients of a regression."""

from __future__ import annotations

import numpy as np

from triptych.experiments.report import closer, posteriors
from triptych.experiments.report.gather import Run, elements, located
from triptych.experiments.report.numbers import number
from triptych.experiments.report.parts import Pens, Picture, Section
from triptych.experiments.report.tables import described, worst_first
from triptych.inference.verdict import title

__all__ = ["coefficients", "most_shown", "parameter_names", "three_panels"]

MOST_PANELS = 24
# The order in which a reader meets the sites of the built-in models; other sites come after, as they are.
SITES = ("weights", "means", "covariances", "probs", "intercept", "w", "lambda", "beta")


def most_shown(run: Run) -> tuple[list[str], bool]:
    """Choose the parameters to draw: all in their order, or the worst first where there are too many."""
    names = parameter_names(run)
    if run.comparison is None or len(names) <= MOST_PANELS:
        return names, False
    kept = set(names)
    return [name for name in worst_first(run.comparison.parameters) if name in kept][:MOST_PANELS], True


def parameter_names(run: Run) -> list[str]:
    """Name the parameters in their order, those below the diagonal of a symmetric matrix left out."""
    frame = run.comparison.parameters if run.comparison is not None else {"parameter": ()}
    names = map(str, dict.fromkeys(frame["parameter"]))
    places = {site: place for place, site in enumerate(SITES)}
    kept = [name for name in names if not mirrored(run, name)]
    return sorted(kept, key=lambda name: places.get(located(name)[0], len(SITES)))


def mirrored(run: Run, name: str) -> bool:
    """Whether an element of a symmetric matrix is below the diagonal, and so stands above it too."""
    site, index = located(name)
    if run.model != "gaussian_mixture" or site != "covariances":
        return False
    covariance = run.config["model"].get("covariance", "full")
    return covariance in ("full", "tied") and len(index) >= 2 and index[-1] < index[-2]


def three_panels(run: Run, pens: Pens) -> Section | None:
    """Draw the posteriors of each parameter under the fits, over each other."""
    if run.comparison is None:
        return None
    names, chosen = most_shown(run)
    draws = {fit: elements(one) for fit, one in run.fits.items()}
    pictures = []
    for name in names:
        site, index = located(name)
        mine = {fit: values[name] for fit, values in draws.items() if name in values}
        points = {
            fit: float(np.asarray(one.parameters[site])[index])
            for fit, one in run.fits.items()
            if site in one.parameters
        }
        note = described(run, name)
        image = posteriors.panel(name, note, mine, points, pens, run.reference)
        pictures.append(Picture(image, heading=name, note=note))
    intro = f"Each panel is one parameter. The filled shape is {title(run.reference)}, the reference; "
    intro += "triangles on the axis are the point estimates."
    if chosen:
        total = len(parameter_names(run))
        intro += f" Of {total} parameters, these are the {MOST_PANELS} whose means differ most, worst first."
    choice = closer.parameters(run, [*names, *(n for n in parameter_names(run) if n not in set(names))], pens)
    return Section("posteriors", _heading(len(run.fits)), intro, tuple(pictures), keyed=True, choice=choice)


def _heading(count: int) -> str:
    words = {1: "The posterior", 2: "Two panels of one posterior", 3: "Three panels of one posterior"}
    return words.get(count, f"{count} panels of one posterior")


def coefficients(run: Run, pens: Pens) -> Section | None:
    """Draw the regression coefficients as a forest, in the same unit for every column."""
    if run.comparison is None or run.model != "bayesian_linear_regression":
        return None
    frame = run.comparison.parameters
    scale = run.x.std(axis=0) if run.x is not None else None
    lines = []
    for name, group in frame[frame["site"] == "w"].groupby("parameter", sort=False):
        (d,) = located(str(name))[1]
        factor = float(scale[d]) if scale is not None else 1.0
        values = {
            row["method"]: tuple(factor * row[key] for key in ("mean", "lower", "upper"))
            for row in group.to_dict("records")
        }
        lines.append((run.columns[d] if d < len(run.columns) else str(name), values))
    if not lines:
        return None
    label = "coefficient" if scale is None else "change of the answer per standard deviation of the column"
    means = [(name, values.get(run.reference) or next(iter(values.values()))) for name, values in lines]
    spoken = " ".join(f"{name}: {number(m)} ({number(lo)} to {number(up)})." for name, (m, lo, up) in means)
    image = posteriors.forest(lines, pens, label, f"Coefficients with 95 % intervals. {spoken}")
    intro = "Posterior means and 95 % intervals of the coefficients under each fit."
    return Section("coefficients", "The coefficients", intro, (Picture(image),), keyed=True, wide=True)
