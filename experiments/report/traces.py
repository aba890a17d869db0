"""Pictures of how each method got there: the objective by step, EM's restarts, the ranks of the chains."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas, live
from triptych.experiments.report.canvas import INK, MUTED, Pen
from triptych.inference.em.landscape import SAME_OPTIMUM

__all__ = ["MOST_CHAINS", "Restarts", "elbo", "elbo_chart", "ranks", "restarts", "steps", "steps_chart"]

SMOOTH_POINTS = 80  # of a running mean
MOST_CHAINS = 8  # whose ranks are drawn


def steps(objective: np.ndarray, pen: Pen, text: str) -> Markup:
    """Draw what EM still had to gain at each step, in nats on a log scale.

    Parameters
    ----------
    objective : (steps + 1,), finite, nats.
    pen : of the fit.
    text : for those who cannot see the picture.
    """
    to_come = _to_come(objective)
    with canvas.drawing(440, 240) as (figure, axes):
        marker = "o" if len(to_come) < 40 else ""
        axes.plot(np.arange(len(to_come)), to_come, color=pen.colour, marker=marker, markersize=3.5)
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("step")
        axes.set_ylabel("still to gain (nats)")
        axes.grid(axis="y")
        return canvas.picture(figure, text)


def steps_chart(objective: np.ndarray, pen: Pen, text: str) -> live.Chart:
    """Give the same numbers to be looked at closer."""
    to_come = _to_come(objective)
    at = live.thinned(len(to_come))
    line = live.Line("still to gain", f"var({pen.variable})", at, to_come[at], dots=True)
    return live.Chart("step", "still to gain (nats)", (line,), text, log=True)


def _to_come(objective: np.ndarray) -> np.ndarray:
    """Give what was still to gain at each step, as far as it is above rounding."""
    best = objective.max()
    to_come = best - objective
    return to_come[to_come > 64 * np.finfo(float).eps * max(abs(best), 1.0)]


def elbo(objective: np.ndarray, pen: Pen, text: str) -> Markup:
    """Draw the ELBO by step: its noise light, its running mean strong, the wild beginning cut off.

    Parameters
    ----------
    objective : (steps,), nats.
    pen : of the fit.
    text : for those who cannot see the picture.
    """
    thin = live.thinned(len(objective))
    limits = _late(objective)
    with canvas.drawing(440, 240) as (figure, axes):
        axes.plot(thin, objective[thin], color=pen.colour, alpha=0.28, linewidth=0.8)
        axes.plot(*_running_mean(objective), color=pen.colour, linewidth=1.8)
        if limits is not None:
            axes.set_ylim(*limits)
        axes.set_xlabel("step")
        axes.set_ylabel("ELBO (nats)")
        axes.grid(axis="y")
        axes.locator_params(axis="y", nbins=6)
        return canvas.picture(figure, text)


def elbo_chart(objective: np.ndarray, pen: Pen, text: str) -> live.Chart:
    """Give the same numbers to be looked at closer."""
    at, colour = live.thinned(len(objective)), f"var({pen.variable})"
    lines = (
        live.Line("as estimated", colour, at, objective[at], quiet=True),
        live.Line("running mean", colour, *_running_mean(objective)),
    )
    return live.Chart("step", "ELBO (nats)", lines, text, limits=_late(objective))


def _late(objective: np.ndarray) -> tuple[float, float] | None:
    """Give a range of the axis that leaves the wild beginning out; `None` where the steps are few."""
    late = objective[len(objective) // 3 :]
    late = late[np.isfinite(late)]
    if late.size <= 20:
        return None
    low, high = np.quantile(late, [0.002, 0.998])
    span = max(high - low, 1e-9)
    return float(low - 0.9 * span), float(high + 0.3 * span)


def _running_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = np.linspace(0, len(values), min(SMOOTH_POINTS, len(values)) + 1).astype(int)
    finite = [part[np.isfinite(part)] for part in (values[a:b] for a, b in itertools.pairwise(edges))]
    return (edges[:-1] + edges[1:]) / 2, np.array([part.mean() if part.size else np.nan for part in finite])


@dataclasses.dataclass(frozen=True)
class Restarts:
    """Where EM's starts ended: objective (R,) in nats, the kind of each start, and which collapsed."""

    objective: np.ndarray
    start: tuple[str, ...]
    collapsed: np.ndarray

    @classmethod
    def read(cls, dataset: Any) -> Restarts:
        """Read the group that EM leaves in its data."""
        objective = np.asarray(dataset["objective"].values, dtype=float)
        count = len(objective)
        start = tuple(map(str, dataset["start"].values)) if "start" in dataset else ("start",) * count
        collapsed = dataset["collapsed"].values if "collapsed" in dataset else np.zeros(count)
        return cls(objective, start, np.asarray(collapsed, dtype=bool))

    @property
    def best(self) -> float:
        """The best objective, nats."""
        finite = self.objective[np.isfinite(self.objective)]
        return float(finite.max()) if finite.size else float("nan")

    @property
    def reached(self) -> int:
        """How many starts came to the best optimum, within `SAME_OPTIMUM`."""
        return int(np.sum(self.objective >= self.best - SAME_OPTIMUM))


def restarts(found: Restarts, pen: Pen, text: str) -> Markup:
    """Draw where the starts ended, best first, as nats below the best."""
    gap = np.where(np.isfinite(found.objective), found.best - found.objective, np.nan)
    order = np.argsort(gap, kind="stable")  # NaN last
    worst = max(float(np.nanmax(gap)), 0.01)
    kinds = list(dict.fromkeys(found.start))
    with canvas.drawing(440, 240) as (figure, axes):
        for i, kind in enumerate(kinds):
            at = np.array([place for place, r in enumerate(order) if found.start[r] == kind])
            look = {"marker": "os^Dv"[i % 5], "markerfacecolor": pen.colour if i == 0 else "none"}
            axes.plot(
                at + 1, gap[order][at], linestyle="", color=pen.colour, markersize=6, clip_on=False,
                label=kind.replace("_", " "), **look,
            )  # fmt: skip
        lost = np.flatnonzero(found.collapsed[order])
        if lost.size:
            axes.plot(lost + 1, gap[order][lost], "x", color=INK, markersize=9, label="collapsed")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.set_yticks([0, *(tick for tick in 10.0 ** np.arange(-2, 7) if tick <= 3 * worst)])
        axes.set_ylim(-0.003, 2 * worst)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("starts, best first")
        axes.set_ylabel("nats below the best")
        axes.grid(axis="y")
        if len(kinds) > 1 or lost.size:
            figure.legend(fontsize=9.5, labelcolor=MUTED, loc="outside lower left", ncols=3)
        return canvas.picture(figure, text)


def ranks(draws: np.ndarray, text: str) -> Markup:
    """Draw the ranks of each chain's draws among all draws; those of chains that agree are flat.

    Of more than `MOST_CHAINS` chains, those that are least flat.

    Parameters
    ----------
    draws : (chain, draw) of one parameter.
    text : for those who cannot see the picture.

    References
    ----------
    A. Vehtari et al. (2021), Rank-normalization, folding, and localization, Bayesian Analysis 16, 667–718.
    """
    from scipy.stats import rankdata

    count = draws.shape[1]
    ranked = rankdata(draws).reshape(draws.shape)
    bins = int(np.clip(count // 40, 8, 20))
    even = count / bins
    tables = [np.histogram(chain, bins=bins, range=(1, draws.size)) for chain in ranked]
    uneven = np.array([np.sum((heights - even) ** 2) for heights, _ in tables])
    shown = np.sort(np.argsort(-uneven, kind="stable")[:MOST_CHAINS])
    with canvas.drawing(440, 60 + 40 * len(shown)) as (figure, axes):
        for place, chain in enumerate(shown):
            heights, edges = tables[chain]
            axes.stairs(
                place + 0.45 * heights / even, edges, baseline=place, fill=True, color=MUTED, alpha=0.35
            )
            axes.axhline(place + 0.45, color=INK, linewidth=0.6, linestyle=(0, (4, 3)))
        axes.set_yticks(np.arange(len(shown)) + 0.3, [f"chain {chain}" for chain in shown])
        axes.tick_params(axis="y", length=0)
        axes.set_xticks([])
        axes.set_xlabel("rank among all draws")
        axes.spines[["left", "bottom"]].set_visible(False)
        return canvas.picture(figure, text)
