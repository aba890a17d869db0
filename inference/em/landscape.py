"""Where the starts of EM ended: which optima there are, how far below the best, and which are degenerate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from triptych.inference.em.family import Parameters
from triptych.inference.em.kernel import Review, Start
from triptych.inference.em.loop import Run
from triptych.inference.status import Status

__all__ = ["SAME_OPTIMUM", "best_of", "landscape", "landscape_words", "optima_of", "places"]

SAME_OPTIMUM = 0.1  # nats within which two end points count as one optimum
CLOSE = 0.02  # of a site's spread and of its values, within which two end points are the same place
DEGENERATE = {"COLLAPSED_COMPONENT", "EMPTY_COMPONENT"}
MOST_NAMED = 4  # optima that a sentence names one by one


def best_of(run: Run) -> int:
    """Give the end point with the highest objective, of those that did not end at something not finite."""
    usable = np.where(np.isfinite(run.objective), run.objective, -np.inf)
    failed = np.array([status is Status.NON_FINITE for status in run.status])
    if not failed.all():
        usable = np.where(failed, -np.inf, usable)
    return int(np.argmax(usable))


def landscape(start: Start, run: Run, reviews: Sequence[Review]) -> xr.Dataset:
    """Tabulate the end points and the optima that they are at.

    By `restart`: objective (nats), gap to the best, best (whether it is that optimum), steps, start (its
    recipe), status, gain_to_come, collapsed, optimum (its number, 0 the best; −1 where nothing is finite).
    By `optimum_number`: optimum_gap, optimum_starts (how many ended there), optimum_places (how many
    different points of that height they are), optimum_collapsed.
    """
    collapsed = np.array([any(f.code in DEGENERATE for f in review.findings) for review in reviews])
    gap = run.objective[best_of(run)] - run.objective
    number = optima_of(gap)
    kinds = range(int(number.max()) + 1)
    at = [np.flatnonzero(number == k) for k in kinds]
    by_number = {
        "optimum_gap": np.array([max(float(gap[here].min()), 0.0) for here in at]),
        "optimum_starts": np.array([len(here) for here in at]),
        "optimum_places": np.array([places(run.parameters, here) for here in at]),
        "optimum_collapsed": np.array([bool(collapsed[here].any()) for here in at]),
    }
    return xr.Dataset(
        {
            "objective": ("restart", run.objective),
            "gap": ("restart", gap),
            "best": ("restart", gap <= SAME_OPTIMUM),
            "steps": ("restart", run.steps),
            "start": ("restart", np.array(start.recipes)),
            "status": ("restart", np.array([status.name for status in run.status])),
            "gain_to_come": ("restart", run.to_come),
            "collapsed": ("restart", collapsed),
            "optimum": ("restart", number),
        }
        | {name: ("optimum_number", values) for name, values in by_number.items()},
        coords={"restart": np.arange(len(run.objective)), "optimum_number": np.arange(len(kinds))},
    )


def optima_of(gap: np.ndarray) -> np.ndarray:
    """Say which optimum each end point (R,) is at, the highest called 0; −1 where it is not finite.

    An optimum is a height: end points within `SAME_OPTIMUM` of its highest one belong to it.
    """
    number = np.full(len(gap), -1)
    top, count = -np.inf, -1
    for i in np.argsort(gap, kind="stable"):
        if not np.isfinite(gap[i]):
            continue
        if gap[i] - top > SAME_OPTIMUM:
            top, count = gap[i], count + 1
        number[i] = count
    return number


def places(parameters: Parameters, here: np.ndarray) -> int:
    """Count the different points among stacked ones: site by site, other values in whatever order.

    Components have no names, so that the values of a site are sorted before they are compared.
    """
    values = [np.sort(np.asarray(v, float).reshape(len(v), -1)[here], axis=1) for v in parameters.values()]
    allowed = np.concatenate([CLOSE * (np.abs(each) + np.std(each)) for each in values], axis=1)
    left, count = np.concatenate(values, axis=1), 0
    while len(left):
        apart = np.abs(left - left[0]) > allowed[0]
        different = np.any(apart | (np.isnan(left) != np.isnan(left[0])), axis=1)
        left, allowed, count = left[different], allowed[different], count + 1
    return count


def landscape_words(found: xr.Dataset) -> str:
    """Say how many starts came to the best optimum, and what the others came to."""
    count = found.sizes["restart"]
    if "optimum_starts" not in found or count < 2:
        return ""
    starts, gaps = found["optimum_starts"].values, found["optimum_gap"].values
    lost = found["optimum_collapsed"].values
    if len(starts) == 1 and starts[0] == count and found["optimum_places"].values[0] == 1:
        return f"All {count} starts came to one optimum."
    said = f"{starts[0]} of {count} starts came to the best optimum."
    if starts[0] == 1:
        said += " There may be a better one: raise `restarts`."
    if found["optimum_places"].values[0] > 1:
        said += (
            f" They are {found['optimum_places'].values[0]} different points of that height: a ridge, or two."
        )
    each = [
        f"{gap:.2f} nats below ({_starts(number)}{', collapsed' if one else ''})"
        for gap, number, one in zip(gaps[1:], starts[1:], lost[1:], strict=True)
    ]
    if each:
        more = len(each) - MOST_NAMED
        named = ", ".join(each[:MOST_NAMED]) + (f" and {more} lower ones" if more > 0 else "")
        said += f" {len(each)} other{'s' if len(each) > 1 else ''}: {named}."
    failed = int(np.sum(found["optimum"].values < 0))
    return said + (f" {_starts(failed)} ended at nothing finite." if failed else "")


def _starts(number: int) -> str:
    return f"{number} start{'s' if number != 1 else ''}"
