"""The one parameter that a reader chooses: its posterior and its chains under every fit, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import live, posteriors
from triptych.experiments.report.gather import Run, elements, located
from triptych.experiments.report.numbers import decimals, fixed, number
from triptych.experiments.report.parts import Pens
from triptych.experiments.report.tables import described
from triptych.inference import distances
from triptych.inference.posterior import draws
from triptych.inference.verdict import title

__all__ = ["MOST_CHOICES", "parameters"]

MOST_CHOICES = 400
# What all the curves, and all the chains, may take of the page, in numbers of three bytes.
MOST_NUMBERS = 200_000
FINEST, COARSEST = 120, 40  # points of a curve
LONGEST, SHORTEST = 250, 50  # draws of a chain
MOST_CHAINS = 6  # of a fit


def parameters(run: Run, names: Sequence[str], pens: Pens) -> Markup | None:
    """Give what page.js needs to show any of these parameters; `None` where nothing can be chosen.

    Parameters
    ----------
    names : of the parameters, in the order of the list.
    """
    names = list(names)[:MOST_CHOICES]
    if run.comparison is None or not names:
        return None
    values = {fit: elements(one) for fit, one in run.fits.items()}
    walks = {
        fit: distances.elements(draws(one))
        for fit, one in run.fits.items()
        if one.data["posterior"].sizes.get("chain", 1) > 1
    }
    points = int(np.clip(MOST_NUMBERS / (len(names) * len(values)), COARSEST, FINEST))
    chains = sum(min(run.fits[fit].data["posterior"].sizes["chain"], MOST_CHAINS) for fit in walks)
    length = int(np.clip(MOST_NUMBERS / (len(names) * max(chains, 1)), SHORTEST, LONGEST))
    frame = run.comparison.parameters
    records = {(row["parameter"], row["method"]): row for row in frame.to_dict("records")}
    chosen = []
    for name in names:
        mine = {fit: found[name] for fit, found in values.items() if name in found}
        rows = [_row(fit, records[name, fit], run.reference) for fit in mine if (name, fit) in records]
        entry = {
            "name": name,
            "site": located(name)[0],
            "note": described(run, name),
            "window": live.rounded(posteriors.window(mine, run.reference)),
            "fits": {fit: curve for fit, one in mine.items() if (curve := _curve(one, points)) is not None},
            "rows": rows,
            "said": " ".join(f"{title(row[0])}: mean {row[1]}, sd {row[2]}, 95 % {row[3]}." for row in rows),
        }
        found = {fit: _walk(one[name], length) for fit, one in walks.items() if name in one}
        chosen.append(entry | ({"chains": found} if found else {}))
    looks = {
        fit: {
            "label": title(fit),
            "colour": f"var({pens[fit].variable})",
            "dash": live.dashes(pens[fit]),
            "reference": fit == run.reference,
        }
        for fit in run.fits
    }
    return live.embedded({"pens": looks, "parameters": chosen})


def _curve(values: np.ndarray, points: int) -> dict[str, Any] | None:
    """Give a density on an even grid, packed; draws that are all the same are a spike."""
    found = posteriors.density(values)
    if found is None:
        finite = values[np.isfinite(values)]
        if not finite.size:
            return None
        middle = float(finite.mean())
        width = 1e-3 * abs(middle) or 1e-3
        return {"ends": live.rounded([middle - width, middle + width]), "top": 1, "y": [0, 0, 999, 0, 0]}
    grid, heights = found
    even = np.linspace(grid[0], grid[-1], points)
    heights = np.interp(even, grid, heights)
    top = float(heights.max())
    (short,) = live.rounded([top], 4)
    return {"ends": live.rounded(even[[0, -1]]), "top": short, "y": live.packed(heights, 0.0, top)}


def _walk(values: np.ndarray, length: int) -> dict[str, Any]:
    """Give the draws of the first chains, (chain, draw), each `every`-th of them, packed."""
    every = -(-values.shape[1] // length)
    kept = values[:MOST_CHAINS, ::every]
    finite = kept[np.isfinite(kept)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    packed = [live.packed(chain, low, high) for chain in kept]
    return {"every": every, "ends": live.rounded([low, high]), "draws": packed}


def _row(fit: str, record: Mapping[Any, Any], reference: str) -> list[str]:
    """Write a fit's numbers: its name, mean, sd, interval, and its distances from the reference."""
    places = decimals(record["sd"])

    def show(key: str) -> str:
        return number(record[key], 4) if places is None else fixed(record[key], places)

    row = [fit, show("mean"), number(record["sd"], 2), f"{show('lower')} to {show('upper')}"]
    if fit == reference:
        return [*row, "", "", ""]
    return [*row, *(fixed(record[key], 2) for key in ("mean_error", "sd_ratio", "wasserstein"))]
