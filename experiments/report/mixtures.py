"""Pictures of a Gaussian mixture over its data: one column, two columns, or the pairs that separate best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import COMPONENTS, INK, MARKERS, MUTED, PAPER, Pen
from triptych.inference.fit import Fit

__all__ = ["Mixture", "curves", "mixture", "overlay", "scatter", "separating"]

# More rows than this are thinned before they are drawn.
MOST_POINTS = 1200


class Mixture(NamedTuple):
    """A Gaussian mixture at a point: weights (K,), means (K, D), covariances (K, D, D)."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def mixture(fit: Fit) -> Mixture | None:
    """Read a fit's point estimate as a Gaussian mixture, `None` where it is none."""
    parameters, scale = fit.parameters, getattr(fit.model, "scale", None)
    if not {"weights", "means"} <= set(parameters) or ("covariances" not in parameters and scale is None):
        return None
    means = np.asarray(parameters["means"], dtype=float)
    if means.ndim != 2:
        return None
    K, D = means.shape
    if "covariances" not in parameters:
        shape = np.broadcast_to(np.asarray(scale, dtype=float) ** 2, (K,))
    else:
        shape = np.asarray(parameters["covariances"], dtype=float)
    kind = getattr(fit.model, "covariance", "full")
    if shape.shape == (K,):
        covariances = shape[:, None, None] * np.eye(D)
    elif shape.shape == (K, D) and kind != "tied":
        covariances = shape[:, :, None] * np.eye(D)
    else:
        covariances = np.broadcast_to(shape, (K, D, D))
    return Mixture(np.asarray(parameters["weights"], dtype=float), means, covariances)


def thinned(rows: int) -> np.ndarray:
    """Choose the rows that are drawn: all, or `MOST_POINTS` of them, always the same."""
    if rows <= MOST_POINTS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))


def separating(found: Mixture, x: np.ndarray, count: int) -> list[int]:
    """Choose the columns in which the components differ most, as a share of the column's variance."""
    between = found.weights @ (found.means - found.weights @ found.means) ** 2
    share = between / np.maximum(x.var(axis=0), 1e-300)
    return sorted(np.argsort(-share, kind="stable")[:count].tolist())


def ellipse(mean: np.ndarray, covariance: np.ndarray, sd: float) -> np.ndarray:
    """Give the outline of the points `sd` Mahalanobis units from the mean, (2, 90)."""
    angle = np.linspace(0, 2 * np.pi, 90)
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors * np.sqrt(np.maximum(values, 0.0))
    return mean[:, None] + sd * axes @ np.stack([np.cos(angle), np.sin(angle)])


def scatter(
    x: np.ndarray, responsibilities: np.ndarray, found: Mixture, names: tuple[str, str], text: str
) -> Markup:
    """Draw two columns, each row in the blend of its components' colours, with 1- and 2-sd ellipses."""
    rows = thinned(len(x))
    likely = responsibilities.argmax(axis=1)
    with canvas.drawing(330, 270) as (figure, axes):
        colours = canvas.mix(responsibilities[rows])
        for k in range(responsibilities.shape[1]):
            mine = likely[rows] == k
            marker = MARKERS[k % len(MARKERS)]
            axes.scatter(
                *x[rows][mine].T,
                c=colours[mine],
                s=13,
                marker=marker,
                linewidths=0,
                alpha=0.75,
                clip_on=False,
            )
            for sd, width in ((1, 1.6), (2, 0.9)):
                outline = ellipse(found.means[k], found.covariances[k], sd)
                axes.plot(*outline, color=INK, linewidth=width, alpha=0.85)
            _label(axes, found.means[k], k)
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        return canvas.picture(figure, text)


def overlay(
    x: np.ndarray,
    likely: np.ndarray,
    found: Mapping[str, Mixture],
    pens: Mapping[str, Pen],
    pair: tuple[int, int],
    names: tuple[str, str],
    text: str,
) -> Markup:
    """Draw two columns with every fit's 1-sd ellipses over each other, in the fits' colours."""
    rows = thinned(len(x))
    with canvas.drawing(330, 270) as (figure, axes):
        for k in range(int(likely.max(initial=0)) + 1):
            mine = likely[rows] == k
            axes.scatter(
                *x[rows][mine][:, pair].T, color=COMPONENTS[k % len(COMPONENTS)], s=11,
                marker=MARKERS[k % len(MARKERS)], linewidths=0, alpha=0.5, clip_on=False,
            )  # fmt: skip
        for fit, one in found.items():
            for mean, covariance in zip(one.means, one.covariances, strict=True):
                outline = ellipse(mean[list(pair)], covariance[np.ix_(pair, pair)], 1)
                axes.plot(*outline, color=pens[fit].colour, linestyle=pens[fit].dashes, linewidth=1.8)
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        return canvas.picture(figure, text)


def curves(
    x: np.ndarray, found: Mapping[str, Mixture], pens: Mapping[str, Pen], reference: str, name: str, text: str
) -> Markup:
    """Draw one column as a histogram and its rows as a rug, with each fit's density over it."""
    values = x[:, 0]
    margin = 0.08 * np.ptp(values)
    grid = np.linspace(values.min() - margin, values.max() + margin, 300)
    with canvas.drawing(520, 280) as (figure, axes):
        bins = int(np.clip(2 * len(values) ** (1 / 2), 10, 60))
        axes.hist(values, bins=bins, density=True, color=MUTED, alpha=0.25, linewidth=0)
        rug = values[thinned(len(values))]
        below = axes.get_xaxis_transform()
        low = np.full(rug.shape, -0.02)
        axes.plot(rug, low, "|", color=MUTED, ms=6, markeredgewidth=0.7, clip_on=False, transform=below)
        for fit, one in found.items():
            parts = _normal(grid[:, None], one.means[:, 0], one.covariances[:, 0, 0]) * one.weights
            if fit == reference:
                axes.plot(grid, parts, color=pens[fit].colour, linewidth=0.8, alpha=0.7)
            axes.plot(
                grid, parts.sum(axis=1), color=pens[fit].colour, linestyle=pens[fit].dashes, linewidth=2
            )
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", pad=7)
        axes.set_xlabel(name)
        return canvas.picture(figure, text)


def _normal(x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


def _label(axes: Any, at: np.ndarray, k: int) -> None:
    axes.text(
        at[0], at[1], str(k), ha="center", va="center", fontsize=9.5, fontweight="bold", color=INK, zorder=6,
        bbox={"boxstyle": "circle,pad=0.25", "facecolor": PAPER, "edgecolor": INK, "linewidth": 0.8},
    )  # fmt: skip
