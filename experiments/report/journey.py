"""The section on how each method got there: objectives, restarts, and the ranks of the chains."""

from __future__ import annotations

import numpy as np

from triptych.experiments.report import traces
from triptych.experiments.report.canvas import Pen
from triptych.experiments.report.gather import Run, located
from triptych.experiments.report.numbers import fixed
from triptych.experiments.report.parts import Pens, Picture, Section, Table
from triptych.inference.distances import elements
from triptych.inference.em.landscape import SAME_OPTIMUM, landscape_words
from triptych.inference.fit import Fit
from triptych.inference.posterior import draws

__all__ = ["way_there"]

MOST_OPTIMA = 12  # of the table


def way_there(run: Run, pens: Pens) -> Section | None:
    """Show how each method got where it is."""
    climbs = (_climb, _restarts)
    makers = {"em": climbs, "ascent": climbs, "cavi": climbs}
    found = [
        make(name, fit, pens[name])
        for name, fit in run.fits.items()
        for make in makers.get(fit.method, (_bound, _ranks))
    ]
    pictures = tuple(picture for picture in found if picture is not None)
    tables = tuple(table for name, fit in run.fits.items() if (table := _optima(name, fit)) is not None)
    return Section("way", "How each method got there", "", pictures, tables=tables) if pictures else None


def _optima(name: str, fit: Fit) -> Table | None:
    """Tabulate the optima that the starts came to, where they are more than one."""
    if "restarts" not in fit.data.children:
        return None
    found = fit.data["restarts"].dataset
    if "optimum_starts" not in found or found.sizes["optimum_number"] < 2:
        return None
    rows = []
    for k in range(min(found.sizes["optimum_number"], MOST_OPTIMA)):
        recipes = found["start"].values[found["optimum"].values == k]
        rows.append(
            (
                str(k + 1),
                fixed(float(found["optimum_gap"][k]), 2),
                str(int(found["optimum_starts"][k])),
                ", ".join(dict.fromkeys(str(recipe).replace("_", " ") for recipe in recipes)),
                "yes" if bool(found["optimum_collapsed"][k]) else "",
            )
        )
    heads = ("optimum", "nats below the best", "starts", "of the kind", "collapsed")
    return Table(name, heads, tuple(rows), landscape_words(found))


def _climb(name: str, fit: Fit, pen: Pen) -> Picture | None:
    objective = np.asarray(fit.objective, dtype=float)
    objective = objective[np.isfinite(objective)]
    if objective.size < 2 or np.ptp(objective) == 0:
        return None
    gained = fixed(objective.max() - objective[0], 2)
    caption = f"{objective.size - 1} steps of the best start, {gained} nats gained. "
    caption += "A straight line is linear convergence."
    found = _landscape(fit)
    if found is not None and found.reached == len(found.objective) > 1:
        caption += f" All {found.reached} starts came to this optimum."
    text = f"Objective of {name}: {caption}"
    chart = traces.steps_chart(objective, pen, text)
    return Picture(traces.steps(objective, pen, text), name, caption, chart=chart)


def _bound(name: str, fit: Fit, pen: Pen) -> Picture | None:
    objective = np.asarray(fit.objective, dtype=float)
    if np.isfinite(objective).sum() < 2:
        return None
    caption = f"The bound over {fixed(len(objective), 0)} steps: light as estimated, strong its running mean."
    text = f"ELBO of {name}: {caption}"
    chart = traces.elbo_chart(objective, pen, text)
    return Picture(traces.elbo(objective, pen, text), name, caption, chart=chart)


def _restarts(name: str, fit: Fit, pen: Pen) -> Picture | None:
    found = _landscape(fit)
    if found is None or found.reached == len(found.objective):
        return None
    caption = f"{found.reached} of {len(found.objective)} starts came to the best optimum "
    caption += f"(within {SAME_OPTIMUM:g} nats)"
    lost = int(found.collapsed.sum())
    caption += f"; {lost} collapsed." if lost else "."
    return Picture(traces.restarts(found, pen, f"Where the starts of {name} ended: {caption}"), name, caption)


def _landscape(fit: Fit) -> traces.Restarts | None:
    if "restarts" not in fit.data.children:
        return None
    found = traces.Restarts.read(fit.data["restarts"].dataset)
    return found if np.isfinite(found.best) else None


def _ranks(name: str, fit: Fit, pen: Pen) -> Picture | None:
    """Draw the ranks of the chains for the parameter that mixed worst."""
    del pen
    moving = {key: values for key, values in elements(draws(fit)).items() if np.ptp(values) > 0}
    chains, count = next(iter(moving.values())).shape if moving else (0, 0)
    if chains < 2 or count < 20:
        return None
    from arviz_stats.base import array_stats

    stacked = np.stack(list(moving.values()), axis=-1)
    r_hats = np.asarray(array_stats.rhat(stacked, chain_axis=0, draw_axis=1))
    worst = int(np.nanargmax(r_hats))
    parameter = list(moving)[worst]
    caption = "Ranks of the draws by chain, for the parameter that mixed worst "
    caption += f"(R-hat {fixed(r_hats[worst], 3)}). Flat is well mixed."
    if chains > traces.MOST_CHAINS:
        caption += f" Of {chains} chains, the {traces.MOST_CHAINS} that are least flat."
    image = traces.ranks(moving[parameter], f"{located(parameter)[0]} of {name}: {caption}")
    return Picture(image, name, caption, heading=parameter)
