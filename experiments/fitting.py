"""The fits of a run: kept from before, or run, side by side where the data are few, and recorded."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from triptych.experiments.data import Data, key_for
from triptych.experiments.manifest import failed_entry, fit_entry
from triptych.experiments.prepared import Prepared
from triptych.experiments.progress import Progress

__all__ = ["are_few", "load_kept", "run_fit", "run_fits"]

FEW = 200_000  # numbers in the data, up to which fits run side by side: with more they need the machine


def load_kept(prepared: Prepared, directory: Path, manifest: Mapping[str, Any], name: str) -> Any:
    """Load a fit that still stands; None if it has to run."""
    entry = manifest["fits"].get(name)
    if entry is None:
        return None
    from triptych.inference.storage import load
    from triptych.models.errors import InputError

    try:
        return load(directory / entry["file"], model=prepared.model)
    except InputError:
        return None


def are_few(data: Data) -> bool:
    """Whether the data are so few that compiling their fits takes longer than running them."""
    from triptych.inference.effort import cells
    from triptych.inference.rows import Rows

    return not isinstance(data.x, Rows) and cells(data.args) <= FEW


def run_fits(jobs: Sequence[Callable[[], None]], beside: bool) -> None:
    """Run the fits that have to be run, side by side or one after the other."""
    from triptych.inference.turns import together
    from triptych.models.errors import InferenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # the findings are shown with the results
        if beside:
            together(jobs, meanwhile=_import_what_follows)
        else:
            for job in jobs:
                job()


def run_fit(
    prepared: Prepared, directory: Path, manifest: dict[str, Any], name: str, progress: Progress
) -> Any:
    """Run one fit, save it and record it; a failure is recorded too."""
    from triptych.inference.turns import look

    settings = prepared.experiment.config.fits[name]
    method = prepared.algorithms[name]
    mark = prepared.fingerprints[name]
    told: dict[str, Any] = {}
    if "progress" in inspect.signature(method.run).parameters:

        def tell(done: int, total: int, value: Any = None) -> None:
            look()
            progress.step(name, done, total, value)

        told["progress"] = tell
    if prepared.experiment.config.data.blocks:  # passes are long: one that is cut off is gone on with
        told["checkpoint"] = directory / f".{name}.{mark[:12]}.checkpoint"
    try:
        fit = method.run(key_for(prepared.experiment.config.seed, name), *prepared.data.args, **told)
        file = directory / f"{name}.nc"
        fit.save(file)
        manifest["fits"][name] = fit_entry(fit, file, mark)
    except Exception as error:  # whatever a fit raises, the others still run
        manifest["fits"][name] = failed_entry(settings, error, mark)
        return None
    return fit


def _import_what_follows() -> None:
    """Import what the comparison and the page need, while XLA compiles; a fault in it shows there."""
    with contextlib.suppress(Exception):
        import sklearn.ensemble

        import triptych.experiments.report.page

        del sklearn, triptych
