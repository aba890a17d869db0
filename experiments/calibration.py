"""Calibration of a config's fits: data drawn from its model, fitted by its methods; finished ones are kept.

DIR/calibration.json     the ranks and the verdict of every fit
DIR/calibration.html     the same to look at
DIR/<fit>.simulations    one line of JSON a simulation, the first what they hang on
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from triptych.experiments.data import key_for
from triptych.experiments.manifest import versions
from triptych.experiments.prepared import Prepared, prepare
from triptych.experiments.progress import Progress, Silent
from triptych.experiments.refusal import refuse
from triptych.experiments.store import digest, write_json

__all__ = ["FILE", "Calibrated", "calibrate_config"]

FILE = "calibration.json"


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """What was left: fit → `Calibration`, what failed in words, and where."""

    directory: Path
    fits: Mapping[str, Any]
    trouble: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every fit could be calibrated, and is."""
        return not self.trouble and all(fit.ok for fit in self.fits.values())


def calibrate_config(
    experiment: Any,
    directory: Path,
    *,
    simulations: int = 100,
    draws: int = 100,
    progress: Progress | None = None,
) -> Calibrated:
    """Calibrate every fit of a config on data of the size of its own, and leave the results in a directory.

    A simulation that is done stays done: more of them, or a run that was cut off, go on from there, as long
    as model, data, seed and settings are the same.

    Raises
    ------
    InputError : the config or the data are wrong; then nothing has been written.
    """
    if experiment.config.data.blocks:
        refuse("data.blocks: calibration draws data in memory; give data.sample: 20000 in its place.")
    prepared = prepare(experiment)
    progress = progress or Silent()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"Cannot write to {directory}: {error.strerror}; give another --output.")
    found: dict[str, Any] = {}
    trouble: list[str] = []
    for name, settings in experiment.config.fits.items():
        progress.start(name, settings.method)
        entry: dict[str, Any]
        try:
            result, kept = _one(prepared, name, directory, simulations, draws, partial(progress.step, name))
        except Exception as error:  # the other fits can be calibrated all the same
            text = " ".join(str(error).split())
            trouble.append(f"{name}: {text}")
            entry = {"status": "failed", "ok": False, "seconds": {"compile": 0.0, "run": 0.0}}
            kept = 0
        else:
            found[name] = result
            spent = {"compile": result.seconds.compile, "run": result.seconds.run}
            words = "calibrated" if result.ok else "not calibrated"
            entry = {"status": words, "ok": result.ok, "seconds": spent}
        progress.end(name, entry, kept=kept >= simulations)
    config = experiment.config
    document = {
        "name": config.name,
        "seed": config.seed,
        "simulations": simulations,
        "draws": draws,
        "versions": versions(),
        "trouble": trouble,
        "fits": {name: result.as_dict() for name, result in found.items()},
    }
    write_json(directory / FILE, document)
    from triptych.experiments.report.calibrated import write_calibration

    write_calibration(directory, config.plain(), found, trouble)
    return Calibrated(directory, found, tuple(trouble))


def _one(
    prepared: Prepared,
    name: str,
    directory: Path,
    simulations: int,
    draws: int,
    step: Callable[[int, int, Any], None],
) -> tuple[Any, int]:
    """Calibrate one fit: the result, and how many simulations were done before."""
    import warnings

    from triptych.inference.calibration import calibrate
    from triptych.models.errors import InferenceWarning

    mark = digest([prepared.fingerprints[name], draws])
    file = directory / f"{name}.simulations"
    kept = _read(file, mark)
    done = len(kept)
    with file.open("a" if kept else "w", encoding="utf-8") as lines:
        if not kept:
            lines.write(json.dumps({"mark": mark}) + "\n")

        def keep(simulation: Any) -> None:
            nonlocal done
            done += 1
            lines.write(json.dumps(simulation._asdict()) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            step(done, simulations, None)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InferenceWarning)  # shown with the results
            result = calibrate(
                prepared.algorithms[name],
                key_for(prepared.experiment.config.seed, f"calibrate {name}"),
                *prepared.data.args,
                simulations=simulations,
                draws=draws,
                kept=kept,
                on_simulation=keep,
                name=name,
            )
    return result, len([number for number in kept if number < simulations])


def _read(file: Path, mark: str) -> dict[int, Any]:
    """Read the simulations that are done, if they are of the same problem; a line cut off is left out."""
    from triptych.inference.calibration.calibrate import Simulation

    if not file.is_file():
        return {}
    kept: dict[int, Any] = {}
    whole = []
    for i, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if i == 0:
            if record.get("mark") != mark:
                return {}
        else:
            simulation = Simulation(**record)
            kept[simulation.number] = simulation
        whole.append(line)
    if kept:
        file.write_text("\n".join(whole) + "\n", encoding="utf-8")
    return kept
