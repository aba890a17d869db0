"""What a calibration found: ranks, p-values, and the verdict in words."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from triptych.inference.calibration.uniformity import band, judge
from triptych.inference.fit import Seconds
from triptych.inference.status import Finding

__all__ = ["Calibration", "summarise"]

LEVEL = 0.05  # chance that a calibrated method has any quantity called wrong


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How often a method's posteriors hold the truth, against how often they say they do.

    Attributes
    ----------
    method : the algorithm's name.
    draws : L, draws of each posterior that the truth is ranked among.
    ranks : quantity → (S,), how many of the L draws lie below the truth.
    quantities : one row a quantity, indexed by its name: p_value of uniformity; ok, whether it is above
        0.05 / (number of quantities); asymmetry_p (VSBC); shift (posterior above the truth, in its own sds);
        width (how many times wider it should be); direction ("too high", "too low", "too narrow", "too wide",
        "misshapen"; empty where nothing is wrong).
    sentences : the verdict in words, the worst first.
    findings : what a reader must know of the simulations.
    seconds : compilation apart from the run, all simulations.
    compilations : how many programs each new simulation compiled.
    """

    method: str
    draws: int
    ranks: Mapping[str, np.ndarray]
    quantities: pd.DataFrame
    sentences: tuple[str, ...]
    findings: tuple[Finding, ...]
    seconds: Seconds
    compilations: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every quantity passed."""
        return bool(self.quantities["ok"].all())

    @property
    def simulations(self) -> int:
        """S, how many data sets were fitted."""
        return len(next(iter(self.ranks.values())))

    def pit(self, quantity: str) -> np.ndarray:
        """Give the ranks of a quantity as numbers in (0, 1): (rank + ½) / (L + 1)."""
        return (np.asarray(self.ranks[quantity]) + 0.5) / (self.draws + 1)

    def ecdf_difference(self, quantity: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Give points z, the ECDF of `pit` less z, and the ends of the 95 % simultaneous band there."""
        points, lower, upper = band(self.simulations)
        below = np.searchsorted(np.sort(self.pit(quantity)), points, side="right") / self.simulations
        return points, below - points, lower, upper

    def as_dict(self) -> dict[str, Any]:
        """Give everything in plain types."""
        rows = self.quantities.reset_index(names="quantity").to_dict(orient="records")
        plain = [{str(k): _plain(v) for k, v in row.items()} for row in rows]
        return {
            "method": self.method,
            "simulations": self.simulations,
            "draws": self.draws,
            "ok": self.ok,
            "sentences": list(self.sentences),
            "findings": [list(finding) for finding in self.findings],
            "seconds": {"compile": self.seconds.compile, "run": self.seconds.run},
            "quantities": plain,
            "ranks": {name: np.asarray(value).tolist() for name, value in self.ranks.items()},
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Give `as_dict` as strict JSON."""
        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        lines = [*self.sentences, *(f"[{finding.code}] {finding.text}" for finding in self.findings)]
        table = self.quantities.drop(columns="ok").to_string(float_format=lambda value: f"{value:.3g}")
        return "\n".join([*lines, "", table])


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarise(
    method: str,
    draws: int,
    ranks: Mapping[str, np.ndarray],
    findings: tuple[Finding, ...],
    seconds: Seconds,
    compilations: tuple[int, ...] = (),
) -> Calibration:
    """Judge the ranks, quantity by quantity, and put the verdict in words."""
    verdicts = {name: judge(np.asarray(values), draws) for name, values in ranks.items()}
    table = pd.DataFrame.from_dict({n: v._asdict() for n, v in verdicts.items()}, orient="index")
    limit = LEVEL / max(len(table), 1)
    table.insert(1, "ok", table["p_value"] >= limit)
    table.loc[table["ok"], "direction"] = ""
    count = len(next(iter(ranks.values())))
    words = _sentences(method, count, table, limit)
    return Calibration(method, draws, dict(ranks), table, words, findings, seconds, compilations)


def _sentences(method: str, count: int, table: pd.DataFrame, limit: float) -> tuple[str, ...]:
    failed = table[~table["ok"]].sort_values("p_value")
    least = table["p_value"].min()
    if failed.empty:
        opening = (
            f"{method} is calibrated as far as {count} simulations can tell: none of {len(table)} quantities "
            f"fails (smallest p-value {least:.3g}; the limit is {limit:.2g})."
        )
    else:
        opening = (
            f"{method} is not calibrated: {len(failed)} of {len(table)} quantities fail in {count} "
            f"simulations (p-value below {limit:.2g})."
        )
    said = [opening]
    for name, row in failed.iterrows():
        said.append(f"{name}: the posterior is {_words(row)} (p = {row['p_value']:.2g}).")
    skewed = table[table["ok"] & (table["asymmetry_p"] < limit)]
    said += [
        f"{name}: the ranks are not symmetric (VSBC, p = {row['asymmetry_p']:.2g}): its location is biased, "
        f"{_side(row['shift'])} by {abs(row['shift']):.2f} posterior sd."
        for name, row in skewed.iterrows()
    ]
    return tuple(said)


def _words(row: Any) -> str:
    direction = row["direction"]
    if direction in ("too high", "too low"):
        return f"{direction}, by {abs(row['shift']):.2f} of its standard deviations on average"
    if direction == "too narrow":
        return f"too narrow: it should be about {row['width']:.2f} times as wide"
    if direction == "too wide":
        return f"too wide: about {row['width']:.2f} times its width would do"
    return "misshapen: neither its place nor its width explains the ranks"


def _side(shift: float) -> str:
    return "too high" if shift > 0 else "too low"
