"""Fits of several runs against each other: Bayes factors, and predictions row by row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from triptych.experiments.candidates import Row
from triptych.experiments.manifest import read_manifest
from triptych.experiments.weighing import against
from triptych.inference.predictive import Loo, difference, loo
from triptych.inference.storage import load
from triptych.models.errors import InputError

__all__ = ["paired"]


def paired(rows: Sequence[Row], directories: Mapping[str, Path]) -> tuple[list[Row], list[str]]:
    """Compare each fit with the best run's under the same fit, and say where rows do not match.

    A fit is paired by its name; one whose name no other run has, by its method.

    Parameters
    ----------
    rows : of runs on the same data.
    directories : run → where it lies.
    """
    shared = {row.fit for row in rows if len({other.run for other in rows if other.fit == row.fit}) > 1}
    groups: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        key = ("fit", row.fit) if row.fit in shared else ("method", row.method)
        groups.setdefault(key, []).append(i)
    out, notes = list(rows), []
    for held in groups.values():
        if len({rows[i].run for i in held}) < 2:
            continue
        for i, row in _weighed({i: rows[i] for i in held}).items():
            out[i] = row
        predicted = {i: _loo(rows[i], directories) for i in held if rows[i].elpd is not None}
        found = {i: one for i, one in predicted.items() if one is not None}
        if len(found) < 2:
            continue
        best = max(found, key=lambda i: found[i].elpd)
        for i, one in found.items():
            if one.pointwise.shape != found[best].pointwise.shape:
                notes.append(
                    f"{rows[i].fit} of {rows[i].run} predicts {one.pointwise.size} values, that of "
                    f"{rows[best].run} {found[best].pointwise.size}: their elpd cannot be paired."
                )
                continue
            gap, error = difference(one, found[best])
            out[i] = dataclasses.replace(
                out[i], elpd=one.elpd, elpd_se=one.se, difference=gap, difference_se=error
            )
    return out, list(dict.fromkeys(notes))


def _weighed(rows: Mapping[int, Row]) -> dict[int, Row]:
    known = [row for row in rows.values() if row.log_evidence is not None]
    if len({row.run for row in known}) < 2:
        return dict(rows)
    best = max(known, key=lambda row: row.log_evidence or -math.inf)
    return {
        i: row
        if row.log_evidence is None
        else dataclasses.replace(
            row, factor=against(row.log_evidence, best.log_evidence or 0.0, row.error, best.error)
        )
        for i, row in rows.items()
    }


def _loo(row: Row, directories: Mapping[str, Path]) -> Loo | None:
    """Give the fit's PSIS-LOO again, row by row; `None` where its file is gone."""
    directory = directories[row.run]
    file = read_manifest(directory)["fits"][row.fit].get("file")
    if not file:
        return None
    try:
        return loo(load(directory / file).data)
    except InputError:
        return None
