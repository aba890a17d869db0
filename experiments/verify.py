"""Running a run again, elsewhere, and saying where its numbers are not the same."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from triptych.experiments.manifest import read_manifest, versions
from triptych.experiments.prepared import prepare
from triptych.experiments.progress import Progress
from triptych.experiments.reading import read_experiment
from triptych.experiments.run import run
from triptych.experiments.store import read_json

__all__ = ["TOLERANCE", "Difference", "Verdict", "verify"]

TOLERANCE = 1e-8
TIMED = frozenset({"compile", "run", "seconds"})  # measured, not computed


@dataclasses.dataclass(frozen=True)
class Difference:
    """A number that did not come out the same; `size` is relative to the largest entry recorded."""

    fit: str
    quantity: str
    recorded: str
    again: str
    size: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What running again found.

    Attributes
    ----------
    differences : what is not the same.
    compared : how many arrays were compared.
    largest : the largest relative difference among those that count as the same; 0 means the same bits.
    versions : package → (recorded, now), where they differ.
    """

    differences: tuple[Difference, ...]
    compared: int
    largest: float
    versions: Mapping[str, tuple[str, str]]

    @property
    def ok(self) -> bool:
        """Whether the numbers are the same."""
        return not self.differences


def verify(directory: Path, *, tolerance: float = TOLERANCE, progress: Progress | None = None) -> Verdict:
    """Run the experiment of a run directory again and compare every number with those recorded.

    Parameters
    ----------
    directory : a run directory; it is read only.
    tolerance : relative difference that still counts as the same (0: the same bits).
    progress : is told how far the run is.

    Raises
    ------
    InputError : the directory holds no run, or its data or program are not there any more.
    """
    manifest = read_manifest(directory)
    experiment = read_experiment(directory / "config.yaml")
    now = versions()
    changed = {
        package: (recorded, now.get(package, "none"))
        for package, recorded in manifest.get("versions", {}).items()
        if now.get(package) != recorded
    }
    prepared = prepare(experiment)
    for key, fresh in (("arrays_sha256", prepared.data.arrays_sha256), ("sha256", prepared.data.sha256)):
        recorded = manifest["data"].get(key)
        if recorded != fresh:  # other data: that the numbers differ would say nothing more
            found = Difference("data", key, str(recorded)[:12], fresh[:12])
            return Verdict((found,), 1, 0.0, changed)
    with tempfile.TemporaryDirectory(prefix="triptych-verify-") as elsewhere:
        run(experiment, Path(elsewhere), progress=progress, report=False)
        return _compare(directory, Path(elsewhere), manifest, changed, tolerance)


def _compare(
    old: Path,
    new: Path,
    manifest: Mapping[str, Any],
    changed: Mapping[str, tuple[str, str]],
    tolerance: float,
) -> Verdict:
    differences: list[Difference] = []
    again = read_manifest(new)
    compared, largest = 0, 0.0
    for name in {**manifest["fits"], **again["fits"]}:
        before, after = (m["fits"].get(name, {"status": "not there"}) for m in (manifest, again))
        if before["status"] != after["status"]:
            differences.append(Difference(name, "status", before["status"], after["status"]))
        if not before.get("file") or not after.get("file"):
            continue
        recorded = _numbers_of(old / before["file"])
        if isinstance(recorded, Difference):
            differences.append(dataclasses.replace(recorded, fit=name))
            continue
        fresh = _numbers_of(new / after["file"])
        for difference, size in _differing(name, recorded, fresh, tolerance):
            compared, largest = compared + 1, max(largest, size)
            differences += [difference] if difference else []
    if (old / "comparison.json").is_file() and (new / "comparison.json").is_file():
        recorded, fresh = (_flat(read_json(place / "comparison.json")) for place in (old, new))
        for difference, size in _differing("comparison", recorded, fresh, tolerance):
            compared, largest = compared + 1, max(largest, size)
            differences += [difference] if difference else []
    return Verdict(tuple(differences), compared, largest, changed)


def _numbers_of(path: Path) -> Any:
    """Give every number of a saved fit by name; a `Difference` if the file cannot be read."""
    from triptych.inference.storage import load
    from triptych.models.errors import InputError

    try:
        fit = load(path)
    except InputError as error:
        return Difference("", "file", " ".join(str(error).split()), "read")
    numbers = {f"parameters {site}": np.asarray(value) for site, value in fit.parameters.items()}
    numbers["log_likelihood"] = np.asarray(fit.log_likelihood)
    numbers["objective"] = np.asarray(fit.objective)
    for group in ("posterior", "log_likelihood", "observed_data"):
        if group in fit.data.children:
            for name, values in fit.data[group].data_vars.items():
                numbers[f"{group} {name}"] = np.asarray(values)
    for field in ("log_evidence", "elbo", "kl"):
        value = getattr(fit.evidence, field)
        if value is not None:
            numbers[f"evidence {field}"] = np.asarray(value)
    return numbers


def _differing(
    name: str, recorded: Mapping[str, Any], fresh: Mapping[str, Any], tolerance: float
) -> Iterator[tuple[Difference | None, float]]:
    """Compare by name; give for each the difference, if it counts, and else how large it is."""
    for quantity in {**recorded, **fresh}:
        if quantity not in recorded or quantity not in fresh:
            before, after = ("there" if quantity in side else "not there" for side in (recorded, fresh))
            yield Difference(name, quantity, before, after), 0.0
            continue
        old, new = recorded[quantity], fresh[quantity]
        if isinstance(old, str) or isinstance(new, str) or old is None or new is None:
            yield (None if old == new else Difference(name, quantity, str(old), str(new))), 0.0
            continue
        old, new = np.asarray(old), np.asarray(new)
        if old.shape != new.shape:
            yield Difference(name, quantity, f"shape {old.shape}", f"shape {new.shape}"), 0.0
            continue
        at, size = _largest(old.astype(float), new.astype(float))
        if size > tolerance:
            here = np.unravel_index(at, old.shape) if old.ndim else ()
            place = f"{quantity}{list(map(int, here)) if old.ndim else ''}"
            yield Difference(name, place, f"{old[here]:.10g}", f"{new[here]:.10g}", size), 0.0
        else:
            yield None, size


def _largest(old: np.ndarray, new: np.ndarray) -> tuple[int, float]:
    """Find the largest difference, relative to the largest finite entry recorded; NaN against a number: ∞."""
    if old.size == 0:
        return 0, 0.0
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    finite = np.isfinite(old) & np.isfinite(new)
    scale = np.max(np.abs(old[np.isfinite(old)]), initial=0.0) or 1.0
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0.0, np.where(finite, np.abs(new - old) / scale, np.inf))
    at = int(np.argmax(gaps))
    return at, float(gaps.flat[at])


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Flatten JSON into name → number or text, leaving out what was timed."""
    if isinstance(content, str) and name == "":
        content = json.loads(content)
    if isinstance(content, dict):
        pairs = [(f"{name}.{key}" if name else str(key), value) for key, value in content.items()]
    elif isinstance(content, list):
        pairs = [(f"{name}[{i}]", value) for i, value in enumerate(content)]
    else:
        return {} if name.rpartition(".")[2] in TIMED else {name: content}
    return {k: v for key, value in pairs for k, v in _flat(value, key).items()}
