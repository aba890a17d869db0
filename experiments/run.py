"""One run: config → fits → comparison → report, in a directory that can be gone on with at any time."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from triptych.experiments.config import Config, default_reference
from triptych.experiments.data import Data
from triptych.experiments.fitting import are_few, load_kept, run_fit, run_fits
from triptych.experiments.manifest import FILE, new_manifest, read_manifest, reusable
from triptych.experiments.prepared import Prepared, prepare
from triptych.experiments.programs import program_file
from triptych.experiments.progress import Progress, Silent
from triptych.experiments.reading import Experiment
from triptych.experiments.refusal import refuse
from triptych.experiments.registry import CONFIGS
from triptych.experiments.settings import ProgramSettings
from triptych.experiments.store import write_json, write_text, write_yaml

__all__ = ["Outcome", "run"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run left; `comparison` is None if it could not be had, `trouble` says all that failed."""

    directory: Path
    manifest: Mapping[str, Any]
    fits: Mapping[str, Any]
    comparison: Any
    kept: tuple[str, ...]
    trouble: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every fit, the comparison and the report are there."""
        return not self.trouble


def run(
    experiment: Experiment,
    directory: Path,
    *,
    progress: Progress | None = None,
    report: bool = True,
    started: float | None = None,
    one_by_one: bool = False,
) -> Outcome:
    """Run an experiment and leave its results in a directory.

    A fit whose settings, model, data and seed are those recorded there is kept; the others run, side by side
    where the data are few (`turns.py`): then most of their time goes into compiling them. A fit that fails is
    recorded and the others go on. Every file appears whole or not at all.

    Parameters
    ----------
    experiment : the checked config.
    directory : where the results go; made if it is not there.
    progress : is told how far the run is.
    report : whether to write the page.
    started : `time.perf_counter()` before the imports; now if left out.
    one_by_one : whether one fit waits for the other, so that the seconds of each are its own.

    Raises
    ------
    InputError : the input is wrong; then nothing has been written.
    """
    started = time.perf_counter() if started is None else started
    seconds_import = _import_inference(started)
    from triptych.inference.sharing import sharing

    with sharing():
        return _run(experiment, directory, progress or Silent(), report, started, seconds_import, one_by_one)


def _run(
    experiment: Experiment,
    directory: Path,
    progress: Progress,
    report: bool,
    started: float,
    seconds_import: float,
    one_by_one: bool,
) -> Outcome:
    prepared = prepare(experiment)
    config = experiment.config
    before = _check_directory(directory, config)
    manifest = new_manifest(config, prepared.data, seconds_import)
    manifest["fits"] = {
        name: entry
        for name, entry in before.get("fits", {}).items()
        if reusable(entry, prepared.fingerprints.get(name, ""), directory)
    }
    _write_start(prepared, directory, manifest)

    fits: dict[str, Any] = {}

    def record(name: str, fit: Any, *, kept: bool = False) -> None:
        if fit is not None:
            fits[name] = fit
        progress.end(name, manifest["fits"][name], kept=kept)
        manifest["seconds"]["total"] = time.perf_counter() - started
        write_json(directory / FILE, manifest)

    def run_one(name: str) -> None:
        progress.start(name, config.fits[name].method)
        fit = run_fit(prepared, directory, manifest, name, progress)
        manifest["fits"][name]["side_by_side"] = beside
        record(name, fit)

    for name in config.fits:
        fit = load_kept(prepared, directory, manifest, name)
        if fit is not None:
            record(name, fit, kept=True)
    kept = tuple(fits)
    waiting = [name for name in config.fits if name not in kept]
    beside = len(waiting) > 1 and not one_by_one and are_few(prepared.data)
    run_fits([partial(run_one, name) for name in waiting], beside)
    fits = {name: fits[name] for name in config.fits if name in fits}

    manifest["fits"] = {name: manifest["fits"][name] for name in config.fits}
    trouble = [
        f"{name}: {entry['message']}"
        for name, entry in manifest["fits"].items()
        if entry["status"] == "failed"
    ]
    comparison = _compare(fits, manifest, directory, trouble, prepared.data)
    manifest["seconds"]["total"] = time.perf_counter() - started
    write_json(directory / FILE, manifest)
    if report:
        _report(directory, comparison, trouble)
    return Outcome(directory, manifest, fits, comparison, kept, tuple(trouble))


def _import_inference(started: float) -> float:
    """Import the heavy packages now, so that their seconds are counted as what they are."""
    import jax
    import numpyro

    import triptych.inference.compare
    import triptych.inference.storage
    import triptych.models

    del jax, numpyro, triptych
    return time.perf_counter() - started


def _check_directory(directory: Path, config: Config) -> dict[str, Any]:
    """Give the manifest of an earlier run there; refuse a place whose files are someone else's."""
    if directory.exists() and not directory.is_dir():
        refuse(f"--output {directory} is a file; give a directory.")
    if (directory / FILE).is_file():
        before = read_manifest(directory)
        if before.get("name") != config.name:
            held = before.get("name")
            refuse(f"{directory} holds the run {held!r}, not {config.name!r}; give another --output.")
        return before
    if (directory / "config.yaml").exists():
        refuse(f"{directory} has a config.yaml that no run wrote; give another --output.")
    return {}


def _write_start(prepared: Prepared, directory: Path, manifest: Mapping[str, Any]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / FILE, manifest)
        comment = "# The resolved config of this run. Again, from here: triptych run config.yaml --output .\n"
        write_yaml(directory / "config.yaml", _resolved(prepared.experiment, directory), comment)
    except OSError as error:
        refuse(f"Cannot write to {directory}: {error.strerror}; give another --output.")


def _resolved(experiment: Experiment, directory: Path) -> dict[str, Any]:
    """Give the config as plain data, its paths relative to the directory that it is written to."""
    config = experiment.config
    plain = config.plain()
    if config.data.path is not None:
        plain["data"]["path"] = os.path.relpath(
            experiment.base / Path(config.data.path).expanduser(), directory.resolve()
        )
    file = program_file(config.model, experiment.base)
    if file is not None and file.resolve().parent != CONFIGS and isinstance(config.model, ProgramSettings):
        name = config.model.program.rpartition(":")[2]
        plain["model"]["program"] = f"{os.path.relpath(file.resolve(), directory.resolve())}:{name}"
    return plain


def _compare(
    fits: Mapping[str, Any], manifest: dict[str, Any], directory: Path, trouble: list[str], data: Data
) -> Any:
    """Compare the fits that are there and write the comparison."""
    if not fits:
        return None
    from triptych.inference.compare import compare

    if manifest["reference"] not in fits:
        manifest["reference"] = default_reference(dict(fits))
    try:
        comparison = compare(dict(fits), reference=manifest["reference"], held_out=data.held_out)
        write_text(directory / "comparison.json", comparison.to_json() + "\n")
    except Exception as error:  # the fits are there all the same
        trouble.append(f"comparison: {type(error).__name__}: {' '.join(str(error).split())}")
        return None
    return comparison


def _report(directory: Path, comparison: Any, trouble: list[str]) -> None:
    try:
        from triptych.experiments.report.page import write_report

        write_report(directory, comparison)
    except Exception as error:  # the numbers are there all the same
        trouble.append(f"report: {type(error).__name__}: {' '.join(str(error).split())}")
