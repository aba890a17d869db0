"""The tables of the page as plain cells: what is shown, already rounded and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from triptych.experiments.report.gather import Run, located
from triptych.experiments.report.numbers import decimals, fixed, missing, number, seconds
from triptych.inference.fit import Fit

__all__ = ["Cell", "described", "fits_table", "parameters_table", "worst_first"]


class Cell(NamedTuple):
    """A cell: its text, and whether a reader should stop at it."""

    text: str
    loud: bool = False


def described(run: Run, name: str) -> str:
    """Say in words what an element of a built-in model's parameter is: "component 1, waiting"."""
    site, index = located(name)
    if not run.model or not index:
        return ""

    def column(d: int) -> str:
        return run.columns[d] if d < len(run.columns) else f"column {d}"

    match site, len(index):
        case ("weights", 1):
            return f"component {index[0]}"
        case ("means" | "probs", 2):
            return f"component {index[0]}, {column(index[1])}"
        case ("covariances", 1):
            return f"variance, component {index[0]}"
        case ("covariances", 2 | 3):
            *component, i, j = index if len(index) == 3 or _tied(run) else (*index, index[-1])
            what = f"variance of {column(i)}" if i == j else f"{column(i)} × {column(j)}"
            return f"component {component[0]}, {what}" if component else what
        case ("w", 1):
            return column(index[0])
    return ""


def _tied(run: Run) -> bool:
    return run.config.get("model", {}).get("covariance") == "tied"


def worst_first(frame: pd.DataFrame) -> list[str]:
    """Order the parameters by how far any fit's mean lies from the reference's, worst first."""
    error = frame["mean_error"].abs().fillna(0.0).groupby(frame["parameter"], sort=False).max()
    return [str(name) for name in error.sort_values(ascending=False, kind="stable").index]


def fits_table(run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """Give one row a fit, the failed ones too, and the heads of the columns that not every run has."""
    found = run.comparison.methods if run.comparison is not None else None
    extra = [key for key in ("log_evidence", "k_hat") if found is not None and found[key].notna().any()]
    rows = []
    for name, entry in run.manifest.get("fits", {}).items():
        fit = run.fits.get(name)
        figures = found.loc[name] if found is not None and name in found.index else {}
        r_hat, ess = _get(figures, "r_hat"), _get(figures, "ess")
        spent = fit.seconds if fit is not None else None
        evidence = fit.evidence if fit is not None else None
        rows.append(
            {
                "name": name,
                "ok": bool(entry.get("ok")) and fit is not None,
                "status": _status(fit),
                "log_likelihood": Cell(fixed(getattr(fit, "log_likelihood", None), 2)),
                "elbo": Cell(_with_error(getattr(evidence, "elbo", None), evidence)),
                "extra": [Cell(fixed(_get(figures, key), 2)) for key in extra],
                "r_hat": Cell(fixed(r_hat, 3), not missing(r_hat) and float(r_hat) > 1.01),
                "ess": Cell(fixed(ess, 0), not missing(ess) and float(ess) < 400),
                "compile": Cell(seconds(spent.compile if spent else None)),
                "run": Cell(seconds(spent.run if spent else None)),
            }
        )
    return rows, [{"log_evidence": "log evidence", "k_hat": "k-hat"}[key] for key in extra]


def _status(fit: Fit | None) -> str:
    """Say in a word how a fit ended; the whole text stands above the table."""
    return "failed" if fit is None else fit.status.name.lower().replace("_", " ")


def _with_error(value: Any, evidence: Any) -> str:
    error = getattr(evidence, "elbo_error", None)
    if missing(error) and getattr(evidence, "log_evidence", None) is None:
        error = getattr(evidence, "standard_error", None)  # a fit of an earlier version
    if missing(value) or missing(error):
        return fixed(value, 2)
    return f"{fixed(value, 2)} ± {number(error, 1)}"


def _get(row: Any, key: str) -> Any:
    value = row.get(key) if hasattr(row, "get") else None
    return None if value is None or pd.isna(value) else value


def parameters_table(run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """Give the rows of the comparison, grouped by parameter, each rounded to what its sd allows."""
    if run.comparison is None:
        return []
    groups = dict(tuple(run.comparison.parameters.groupby("parameter", sort=False)))
    table = []
    for name in names:
        group = groups[name]
        smallest = group["sd"].where(group["sd"] > 0).min()
        places = decimals(smallest)
        rows = [_row(record, places, run.reference) for record in group.to_dict("records")]
        table.append({"name": name, "note": described(run, name), "rows": rows})
    return table


def _row(record: Mapping[Any, Any], places: int | None, reference: str) -> dict[str, Any]:
    def show(key: str) -> str:
        return number(record[key], 4) if places is None else fixed(record[key], places)

    is_reference = record["method"] == reference
    error, ratio = record["mean_error"], record["sd_ratio"]
    return {
        "fit": record["method"],
        "mean": Cell(show("mean")),
        "sd": Cell(number(record["sd"], 2)),
        "interval": Cell(f"{show('lower')} to {show('upper')}" if not missing(record["lower"]) else "–"),
        "mean_error": Cell("" if is_reference else _signed(error), not missing(error) and abs(error) > 0.5),
        "sd_ratio": Cell(
            "" if is_reference else fixed(ratio, 2),
            not missing(ratio) and not is_reference and abs(np.log(max(ratio, 1e-12))) > np.log(1.25),
        ),
        "wasserstein": Cell("" if is_reference else fixed(record["wasserstein"], 2)),
    }


def _signed(value: Any) -> str:
    text = fixed(value, 2)
    return f"+{text}" if not missing(value) and float(value) > 0 and text.strip("0.") else text
