"""Reading a run's directory: what the page shows, and nothing of how it looks."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from triptych.experiments.data import Data, load_data
from triptych.experiments.programs import load_model
from triptych.experiments.reading import read_experiment
from triptych.inference import distances
from triptych.inference.arguments import recall
from triptych.inference.compare import Comparison, compare
from triptych.inference.fit import Fit
from triptych.inference.imputation import Imputation, impute
from triptych.inference.marginal import marginal
from triptych.inference.posterior import build, draws
from triptych.inference.precision import matching_precision
from triptych.models.errors import InferenceWarning, InputError
from triptych.models.gaussian_mixture import GaussianMixture

__all__ = ["Run", "elements", "gather", "located"]

MOST_DRAWS = 400  # of a fit's, that missing cells are imputed under


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, read back.

    Attributes
    ----------
    config, manifest : as written by the run.
    fits : name → fit, labels aligned to the reference; the fits that failed are only in the manifest.
    comparison : what `compare` found, or `None` where no fit was left to compare.
    reference : name of the fit that the others are measured against ("" where there is none).
    x : (N, D) the first array that the program was called with, or `None`.
    columns : names of the columns, where they are known.
    target : (N,) a column kept aside, as classes, or `None`.
    responsibilities : name → (N, K).
    chain : whether the rows are the steps of a hidden Markov chain.
    series : (N,) the first column of a chain's data, or `None`.
    imputations : name → the missing cells filled in; empty where there are none.
    """

    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    fits: Mapping[str, Fit]
    comparison: Comparison | None
    reference: str
    x: np.ndarray | None
    columns: tuple[str, ...]
    target: np.ndarray | None
    responsibilities: Mapping[str, np.ndarray]
    chain: bool = False
    series: np.ndarray | None = None
    imputations: Mapping[str, Imputation] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> str:
        """Name of the built-in model, or "" for a program."""
        return str(self.config.get("model", {}).get("name", ""))


def gather(directory: Path, comparison: Comparison | None = None) -> Run:
    """Read a run's directory.

    Parameters
    ----------
    directory : of the run.
    comparison : of its fits, where it is at hand; else it is made again from the saved fits.

    Raises
    ------
    InputError : the directory holds no run, or a part of it cannot be read.
    """
    config = _document(directory / "config.yaml")
    manifest = _document(directory / "manifest.json")
    program, data = _origin(directory)
    saved = dict(comparison.fits) if comparison is not None else _load_fits(directory, manifest, program)
    reference = comparison.reference if comparison is not None else manifest.get("reference", "")
    reference = reference if reference in saved else next(reversed(saved), "")
    with warnings.catch_warnings():
        # What there is to warn of was said by the run and is on the page.
        warnings.simplefilter("ignore", InferenceWarning)
        if comparison is None and saved:
            held_out = None if data is None else data.held_out
            comparison = compare(saved, reference=reference, held_out=held_out)
        fits = dict(comparison.fits) if comparison is not None else {}
        args = _arguments(fits, data)
        responsibilities = _responsibilities(fits, args)
        imputations = _imputations(fits, args)
    x = args[0] if args and np.ndim(args[0]) == 2 else None
    columns = data.columns if data is not None else tuple(manifest.get("data", {}).get("columns") or ())
    target = data.target if data is not None and len(args) == 1 else None
    chain = _is_chain(fits, args)
    series = (
        np.asarray(args[0]).reshape(len(args[0]), -1)[:, 0] if chain and args and np.ndim(args[0]) else None
    )
    if series is not None and any(len(table) != len(series) for table in responsibilities.values()):
        series = None
    return Run(
        config,
        manifest,
        fits,
        comparison,
        reference,
        x,
        columns,
        target,
        responsibilities,
        chain,
        series,
        imputations,
    )


def _document(path: Path) -> Any:
    if not path.is_file():
        raise InputError(
            f"{path.parent} is not a finished run: {path.name} is missing. Use `triptych run` first."
        )
    text = path.read_text(encoding="utf-8")
    try:
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({error}). Run the experiment again.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not what a run writes. Run the experiment again.")
    return document


def _load_fits(
    directory: Path, manifest: Mapping[str, Any], program: Callable[..., Any] | None
) -> dict[str, Fit]:
    from triptych.inference.storage import load

    files = {name: entry.get("file") for name, entry in manifest.get("fits", {}).items()}
    return {name: load(directory / file, program) for name, file in files.items() if file}


def _origin(directory: Path) -> tuple[Callable[..., Any] | None, Data | None]:
    """Find the program and the data again; they may be gone, and the page then does without."""
    try:
        experiment = read_experiment(directory / "config.yaml")
        program = load_model(experiment.config.model, experiment.base)
    except InputError:
        return None, None
    try:
        if experiment.config.data.blocks:  # not read again: each fit keeps a sample of the rows
            return program, None
        return program, load_data(experiment.config, experiment.base, program)
    except InputError:
        return program, None


def _arguments(fits: Mapping[str, Fit], data: Data | None) -> tuple[Any, ...]:
    """Give what the program was called with: as kept in a fit, else as loaded again."""
    for fit in fits.values():
        kept = recall(fit.data)
        if kept is not None:
            return kept[0]
    return data.args if data is not None else ()


def _responsibilities(fits: Mapping[str, Fit], args: tuple[Any, ...]) -> dict[str, np.ndarray]:
    found = {}
    for name, fit in fits.items():
        try:
            table = fit.responsibilities(*args)
        except InputError:
            continue
        tables = list(table.values()) if isinstance(table, dict) else [table]
        if tables and tables[0].ndim == 2:
            found[name] = np.asarray(tables[0])
    return found


def _is_chain(fits: Mapping[str, Fit], args: tuple[Any, ...]) -> bool:
    for fit in fits.values():
        try:
            with matching_precision(args, dict(fit.parameters)):
                latents = marginal(fit.model).structure(*args).latents
        except InputError:
            continue
        return any(latent.chain is not None for latent in latents.values())
    return False


def _imputations(fits: Mapping[str, Fit], args: tuple[Any, ...]) -> dict[str, Imputation]:
    if not args or np.ndim(args[0]) != 2 or not np.any(np.isnan(args[0])):
        return {}
    found = {}
    for name, fit in fits.items():
        if not isinstance(fit.model, GaussianMixture):
            continue
        samples = draws(fit)
        chains, count = next(iter(samples.values())).shape[:2]
        step = max(1, chains * count // MOST_DRAWS)
        thinned = build({site: values[:, ::step] for site, values in samples.items()})
        found[name] = impute(dataclasses.replace(fit, data=thinned), *args)
    return found


def elements(fit: Fit) -> dict[str, np.ndarray]:
    """Give the draws of every element of every parameter, name → (draws,)."""
    return {name: values.ravel() for name, values in distances.elements(draws(fit)).items()}


def located(name: str) -> tuple[str, tuple[int, ...]]:
    """Split "means[1,0]" into its site and index."""
    match = re.fullmatch(r"(.*?)(?:\[([\d, ]+)\])?", name)
    site, index = match.groups() if match else (name, None)
    return site, tuple(int(part) for part in index.split(",")) if index else ()
