"""The section of diagnostics: whether each fit can be believed, in one table, and what each number means."""

from __future__ import annotations

from typing import Any

import numpy as np

from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import bound, fixed, missing, number
from triptych.experiments.report.parts import Pens, Section, Table
from triptych.inference.fit import Fit

__all__ = ["diagnostics"]

MEANINGS = {
    "R-hat": "R-hat compares the chains: above 1.01 they disagree.",
    "ESS": "ESS is the number of independent draws that the draws are worth.",
    "divergences": "A divergence is a place that NUTS could not follow.",
    "E-BFMI": "E-BFMI below 0.3: the chains hardly reach the tails.",
    "k-hat": "Pareto k-hat is of the importance weights of the marginal over the approximation; above the "
    "limit beside it, the approximation (not the model) misses part of the posterior.",
    "elpd (LOO)": "elpd is how well the fit predicts a row that it has not seen, in nats (PSIS-LOO); the "
    "difference is from the reference, its error over the same rows. Rows with too large a Pareto k would "
    "have to be left out and refitted to be sure.",
    "held out": "held out is how well the fit predicts the rows that no fit was given, Σ log E p(x_n | θ) in "
    "nats, with its error over the rows; the difference is from the reference, row by row.",
    "told apart": "A classifier tells the fit's draws from the reference's so often; beside it, two halves "
    "of the reference from each other.",
}


def diagnostics(run: Run, pens: Pens) -> Section | None:
    """Tabulate what was checked: chains, weights, predictions, and whether a classifier sees a difference."""
    del pens
    if run.comparison is None:
        return None
    frame = run.comparison.methods.to_dict("index")
    columns: dict[str, list[str]] = {}
    for name, row in frame.items():
        for head, text in _row(run.fits[str(name)], row).items():
            columns.setdefault(head, []).append(text)
    columns = {head: cells for head, cells in columns.items() if any(cell != "–" for cell in cells)}
    if not columns:
        return None
    rows = tuple((str(name), *(cells[i] for cells in columns.values())) for i, name in enumerate(frame))
    note = " ".join(text for head, text in MEANINGS.items() if head in columns)
    table = Table("", ("fit", *columns), rows, note)
    return Section("diagnostics", "Diagnostics", "Whether each fit can be believed.", tables=(table,))


def _row(fit: Fit, row: Any) -> dict[str, str]:
    divergences, energy = _of_chains(fit)
    return {
        "R-hat": fixed(row.get("r_hat"), 3),
        "ESS": fixed(row.get("ess"), 0),
        "divergences": divergences,
        "E-BFMI": energy,
        "k-hat": _beside(fixed(row.get("k_hat"), 2), row.get("k_limit"), "limit"),
        "elpd (LOO)": _pm(row, "elpd"),
        "difference": _pm(row, "elpd_diff") if not missing(row.get("elpd_diff_se")) else "–",
        "rows with large k": fixed(row.get("bad_k"), 0),
        "held out": _pm(row, "held_out"),
        "held out, difference": _pm(row, "held_out_diff") if row.get("held_out_diff_se") else "–",
        "told apart": _beside(_percent(row.get("c2st")), row.get("c2st_floor"), "halves", percent=True),
    }


def _of_chains(fit: Fit) -> tuple[str, str]:
    """Count the divergent transitions, and give the smallest energy fraction of the chains."""
    if "sample_stats" not in fit.data.children:
        return "–", "–"
    found = fit.data["sample_stats"].dataset
    divergences = energy = "–"
    if "diverging" in found:
        divergences = fixed(int(np.sum(found["diverging"].values)), 0)
    if "energy" in found:
        values = np.asarray(found["energy"].values, dtype=float)
        if values.ndim == 2 and values.shape[1] > 3 and np.all(np.var(values, axis=1) > 0):
            jumps = np.mean(np.diff(values, axis=1) ** 2, axis=1) / np.var(values, axis=1)
            energy = number(float(jumps.min()), 2)
    return divergences, energy


def _pm(row: Any, key: str) -> str:
    if missing(row.get(key)):
        return "–"
    error = row.get(f"{key}_se")
    return fixed(row[key], 1) if missing(error) else bound(f"{fixed(row[key], 1)} ± {fixed(error, 1)}")


def _percent(value: Any) -> str:
    return "–" if missing(value) else f"{fixed(100 * float(value), 0)}\N{NO-BREAK SPACE}%"


def _beside(text: str, other: Any, word: str, *, percent: bool = False) -> str:
    if text == "–" or missing(other):
        return text
    return f"{text} ({word}\N{NO-BREAK SPACE}{_percent(other) if percent else number(other, 2)})"
