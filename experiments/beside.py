"""Several runs side by side: what differs in their configs, their evidence, predictions and verdicts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from triptych.experiments.beside_paired import paired
from triptych.experiments.candidates import Beside, Candidate, Row
from triptych.experiments.manifest import read_manifest
from triptych.experiments.refusal import refuse
from triptych.experiments.store import read_json
from triptych.experiments.weighing import against

__all__ = ["side_by_side"]

MOST_SETTINGS = 6  # of the fits, that are shown


def side_by_side(directories: Sequence[Path]) -> Beside:
    """Read finished runs and put them side by side.

    Log p(x) and predictions are compared only between runs of the same data; predictions row by row.

    Raises
    ------
    InputError : a directory is no run, or its comparison is missing.
    """
    found = [_read(directory) for directory in dict.fromkeys(Path(one) for one in directories)]
    labels = _labels([directory for directory, *_ in found])
    manifests = [manifest for _, manifest, *_ in found]
    marks = {_mark(manifest) for manifest in manifests}
    same = len(marks) == 1
    notes = [] if same else ["Different data: Bayes factors and differences of elpd would mean nothing."]
    rows, settings = [], _differences([config for *_, config in found])
    for label, (_, manifest, comparison, _) in zip(labels, found, strict=True):
        rows += _rows(label, manifest, comparison)
    if same and len(found) > 1:
        rows, said = paired(rows, {label: one[0] for label, one in zip(labels, found, strict=True)})
        notes += said
    candidates = [
        _candidate(label, manifest, comparison, setting)
        for label, (_, manifest, comparison, _), setting in zip(labels, found, settings, strict=True)
    ]
    if same and len(found) > 1:
        candidates, said = _weighed(candidates, [config for *_, config in found])
        notes += said
    return Beside(tuple(candidates), tuple(rows), tuple(notes), same)


def _read(directory: Path) -> tuple[Path, dict[str, Any], dict[str, Any], dict[str, Any]]:
    manifest = read_manifest(directory)
    for name in ("comparison.json", "config.yaml"):
        if not (directory / name).is_file():
            refuse(f"{directory} holds no {name}: the run was cut off; the same `triptych run` goes on.")
    comparison = read_json(directory / "comparison.json")
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        refuse(f"{directory / 'config.yaml'} is not YAML ({' '.join(str(error).split())}); run it again.")
    if not (
        isinstance(comparison, dict)
        and isinstance(comparison.get("methods"), list)
        and isinstance(config, dict)
    ):
        refuse(f"{directory / 'comparison.json'} is not what a run writes; run the experiment again.")
    return directory, manifest, comparison, config


def _mark(manifest: Mapping[str, Any]) -> Any:
    """Give what tells data apart: the hash of the arrays as they were fitted."""
    data = manifest.get("data", {})
    return data.get("arrays_sha256") or (
        data.get("sha256"),
        data.get("rows"),
        tuple(data.get("columns") or ()),
    )


def _labels(directories: Sequence[Path]) -> list[str]:
    """Name the runs by as much of the end of their paths as tells them apart."""
    parts = [directory.resolve().parts for directory in directories]
    for count in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-count:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{directory.name} ({i})" for i, directory in enumerate(directories)]


def _differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Give, for each config, the settings in which they are not all the same.

    Those of the fits only where model, data and seed are the same: they are many, and say less.
    """
    flat = [dict(_flat(config)) for config in configs]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if key != "name" and len({one.get(key) for one in flat}) > 1]
    chosen = [key for key in differing if not key.startswith("fits.")] or differing[:MOST_SETTINGS]
    return [{key: one.get(key, "–") for key in chosen} for one in flat]


def _flat(value: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def _rows(label: str, manifest: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[Row]:
    rows = []
    for method in comparison["methods"]:
        rows.append(
            Row(
                run=label,
                fit=str(method.get("name")),
                method=str(method.get("method", "")),
                ok=bool(method.get("ok")),
                log_evidence=_number(method, "log_evidence"),
                error=_number(method, "log_evidence_error"),
                elpd=_number(method, "elpd"),
                elpd_se=_number(method, "elpd_se"),
                held_out=_number(method, "held_out"),
                aic=_number(method, "aic"),
                bic=_number(method, "bic"),
                icl=_number(method, "icl"),
            )
        )
    compared = {row.fit for row in rows}
    failed = (name for name in manifest["fits"] if name not in compared)
    return rows + [
        Row(label, name, str(manifest["fits"][name].get("method", "")), ok=False) for name in failed
    ]


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _candidate(
    label: str, manifest: Mapping[str, Any], comparison: Mapping[str, Any], settings: Mapping[str, str]
) -> Candidate:
    best = next(iter(comparison.get("evidence") or ()), {})
    bad = [
        f"{name} {str(entry.get('status')).replace('_', ' ')}"
        for name, entry in manifest["fits"].items()
        if not entry.get("ok")
    ]
    sentences = [str(sentence) for sentence in comparison.get("sentences", ())]
    return Candidate(
        run=label,
        log_evidence=best.get("log_evidence"),
        error=best.get("standard_error"),
        how=f"{best['how']} ({best['fit']})" if best else "",
        factor=None,
        verdict=sentences[0] if sentences else "",
        trouble=", ".join(bad),
        settings=settings,
    )


def _weighed(
    candidates: Sequence[Candidate], configs: Sequence[Mapping[str, Any]]
) -> tuple[list[Candidate], list[str]]:
    """Give every run its Bayes factor against the best, and order them."""
    notes = []
    intercepts = {str(config.get("model", {}).get("intercept", True)) for config in configs}
    if len(intercepts) > 1:
        notes.append(
            "An intercept has a flat prior, whose height is arbitrary: no Bayes factors with and without it."
        )
        return list(candidates), notes
    known = [one for one in candidates if one.log_evidence is not None]
    if not known:
        return list(candidates), ["No run has a log p(x)."]
    best = max(known, key=lambda one: one.log_evidence or -math.inf)
    weighed = [
        dataclasses.replace(
            one, factor=against(one.log_evidence, best.log_evidence or 0.0, one.error, best.error)
        )
        if one.log_evidence is not None
        else one
        for one in candidates
    ]
    if any(one.error is None for one in known):
        notes.append(
            "A log p(x) without ± is an approximation (Laplace's, at EM's optimum), whose error is not known."
        )
    return sorted(weighed, key=lambda one: -(one.factor.log10 if one.factor else -math.inf)), notes
