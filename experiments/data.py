"""The data of an experiment: a shipped table, the user's own CSV, or draws from the program itself."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from triptych.experiments import blocks
from triptych.experiments.config import Config
from triptych.experiments.programs import positional
from triptych.experiments.refusal import nearest, refuse
from triptych.experiments.registry import DATASETS
from triptych.experiments.settings import (
    BayesianLinearRegressionSettings,
    DataSettings,
    GaussianMixtureSettings,
    Simulation,
)
from triptych.experiments.table import MISSING, Table, read_table

__all__ = ["Data", "key_for", "load_data"]


@dataclasses.dataclass(frozen=True)
class Data:
    """What the program is called with, and what a reader of the results needs to know about it.

    Attributes
    ----------
    args : the arrays that the program is called with: (x,), (X, y) for a model that takes an answer, or
        (x, z) where the labels of rows are known; (`Rows`,) where they are read in blocks.
    columns : names of the columns of the first array.
    target : the answer column as it was, (N,), or None; handed to the model only if it is in `args`.
    target_name : its name.
    source : the shipped name, the path, or "simulated".
    sha256 : of the file; of the arrays where they are simulated.
    arrays_sha256 : of what the program is called with.
    truth : site → value, for simulated data: the parameters and latents that made them.
    held_out : as `args`, for the rows that are kept from the fits; labels are not.
    """

    args: tuple[Any, ...]
    columns: tuple[str, ...]
    target: np.ndarray | None
    target_name: str | None
    source: str
    sha256: str
    arrays_sha256: str
    truth: Mapping[str, np.ndarray] | None = None
    held_out: tuple[np.ndarray, ...] | None = None

    @property
    def x(self) -> np.ndarray:
        """The first array, (N, D)."""
        return self.args[0]


def key_for(seed: int, name: str) -> Any:
    """Derive a random key from the seed and a name, so that adding a fit changes nothing of the others."""
    import jax

    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def load_data(config: Config, base: Path, program: Callable[..., Any]) -> Data:
    """Load or simulate the data of a config, in its precision, and hand them over as the program takes them.

    Parameters
    ----------
    config : the checked config.
    base : the directory that its paths are relative to.
    program : the model; one with a second positional parameter is given the target as that.

    Raises
    ------
    InputError : no such file, column or target; a cell that is no finite number (its row and column named).
    """
    if config.data.simulate is not None:
        return _simulated(config, config.data.simulate, program)
    if config.data.blocks or config.data.sample is not None:
        return _in_blocks(config, base)
    settings = config.data
    path, source, target_name = _whence(settings, base)
    target_name = None if target_name == settings.labels else target_name
    table = read_table(path)
    columns, target_name = _select(table, settings, target_name, source)
    x = table.numbers(columns, settings.rows, missing=settings.missing == "keep")
    mixture = isinstance(config.model, GaussianMixtureSettings)  # what it takes besides are labels
    takes_answer = len(positional(program)) > 1 and not mixture
    if settings.labels is not None and not mixture:
        refuse("data.labels: only a gaussian_mixture takes labels; hand a program its own as data.target.")
    if target_name is None and isinstance(config.model, BayesianLinearRegressionSettings):
        refuse(f"data.target: a regression needs an answer column; {source} has {', '.join(table.header)}.")
    target = None if target_name is None else table.column(target_name, settings.rows, numeric=takes_answer)
    labels = None if settings.labels is None else _labels(table, settings, source)
    if settings.repeat is not None:
        counts = _counts(table, settings, source)
        x = np.repeat(x, counts, axis=0)
        target, labels = (None if each is None else np.repeat(each, counts) for each in (target, labels))
    fitted, held = _split(config, len(x))
    x = _transformed(x, columns, settings, fitted).astype(config.precision)
    whole = (x,) if target is None or not takes_answer else (x, target.astype(config.precision))
    args = whole if labels is None else (x, labels)
    args = tuple(array[fitted] for array in args)
    target = None if target is None else target[fitted]
    return Data(
        args=args,
        held_out=None if held is None else tuple(array[held] for array in whole),
        columns=tuple(columns),
        target=target,
        target_name=target_name,
        source=source,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        arrays_sha256=_digest(args),
    )


def _in_blocks(config: Config, base: Path) -> Data:
    """Open the rows of a file that is read in blocks, or draw some of them."""
    settings, table = config.data, blocks.open_blocks(config, base)
    args: tuple[Any, ...] = (table,)
    if settings.sample is not None:
        if settings.sample > len(table):
            refuse(f"data.sample: {settings.path} has {len(table)} rows, fewer than {settings.sample}.")
        args = (blocks.drawn(table, settings.sample, [config.seed, zlib.crc32(b"sample")]),)
        _finite(args[0], table.names, str(settings.path))
    return Data(
        args=args,
        columns=table.names,
        target=None,
        target_name=None,
        source=str(settings.path),
        sha256=blocks.source_digest(base / Path(str(settings.path)).expanduser()),
        arrays_sha256=blocks.blocks_digest(table) if settings.blocks else _digest(args),
    )


def _finite(x: np.ndarray, columns: tuple[str, ...], source: str) -> None:
    good = np.isfinite(x)
    if not good.all():
        name = columns[int(np.argmin(good.all(axis=0)))]
        refuse(f"data.sample: column {name!r} of {source} has cells that are no finite numbers; mend them.")


def _whence(settings: DataSettings, base: Path) -> tuple[Path, str, str | None]:
    """Find the file, what to call it, and its target column (None if it has none)."""
    target = settings.target or None
    if settings.path is not None:
        path = base / Path(settings.path).expanduser()
        if not path.is_file():
            refuse(f"data.path: there is no file {path}; paths are relative to the config.")
        return path, settings.path, target
    name = str(settings.name).replace("-", "_")
    if name not in DATASETS:
        refuse(f"data.name: there is no shipped data set {settings.name!r}; {nearest(name, DATASETS)}")
    default = DATASETS[name].target if settings.target is None else None
    return DATASETS[name].path, name, target or default


def _select(
    table: Table, settings: DataSettings, target: str | None, source: str
) -> tuple[list[str], str | None]:
    """Choose the columns, by name or by pattern; all but the target where none are named."""
    if target is not None and target not in table.header:
        refuse(f"data.target: {source} has no column {target!r}; {nearest(target, table.header)}")
    if settings.columns is None:
        aside = (target, settings.repeat, settings.labels)
        return [name for name in table.header if name not in aside], target
    chosen: list[str] = []
    for wanted in settings.columns:
        if wanted in table.header:
            found = [wanted]
        elif any(mark in wanted for mark in "*?"):
            found = [n for n in fnmatch.filter(table.header, wanted) if n != target]
        else:
            found = []
        if not found:
            refuse(f"data.columns: {source} has no column {wanted!r}; {nearest(wanted, table.header)}")
        chosen += [name for name in found if name not in chosen]
    if not chosen:
        refuse("data.columns: no column is named; leave the key out to use all.")
    if target in chosen:
        refuse(f"data.target: {target!r} is also among data.columns; take it out of one of them.")
    return chosen, target


def _labels(table: Table, settings: DataSettings, source: str) -> np.ndarray:
    """Give the component of each row, (N,), −1 where the cell is blank.

    Numbers are taken as they are; names are numbered in their sorted order.
    """
    name = str(settings.labels)
    if name not in table.header:
        refuse(f"data.labels: {source} has no column {name!r}; {nearest(name, table.header)}")
    cells = table.column(name, settings.rows, numeric=False).astype(str)
    known = np.array([cell.lower() not in MISSING for cell in cells])
    if not known.any():
        refuse(f"data.labels: the column {name!r} of {source} is blank in every row; leave the key out.")
    labels = np.full(len(cells), -1.0)
    try:
        labels[known] = cells[known].astype(float)
    except ValueError:
        labels[known] = np.unique(cells[known], return_inverse=True)[1]
    whole = labels == np.floor(labels)
    if not whole.all():
        n = int(np.argmin(whole))
        where = f"row {n + 1} of {source} has {str(cells[n])!r} in {name!r}"
        refuse(f"data.labels: {where}; give names or whole numbers.")
    return labels.astype(int)


def _counts(table: Table, settings: DataSettings, source: str) -> np.ndarray:
    """Give how many times each row of a table of frequencies counts, (N,)."""
    name = str(settings.repeat)
    if name not in table.header:
        refuse(f"data.repeat: {source} has no column {name!r}; {nearest(name, table.header)}")
    counts = table.column(name, settings.rows, numeric=True)
    wrong = (counts < 0) | (counts != np.floor(counts))
    if wrong.any():
        n = int(np.argmax(wrong))
        refuse(f"data.repeat: row {n + 1} of {source} has {counts[n]:g} in {name!r}; give a whole number.")
    return counts.astype(int)


def _split(config: Config, rows: int) -> tuple[Any, np.ndarray | None]:
    """Choose the rows that are kept from the fits: (rows to fit, held-out rows), in their order."""
    wanted = config.data.holdout
    if wanted is None:
        return slice(None), None
    count = max(1, round(wanted * rows)) if wanted < 1 else int(wanted)
    if count >= rows:
        refuse(f"data.holdout: {count} of {rows} rows leaves none to fit; hold fewer out.")
    # NumPy's own stream: the split must not depend on JAX's version.
    chosen = np.random.default_rng([config.seed, zlib.crc32(b"holdout")]).permutation(rows)
    return np.sort(chosen[count:]), np.sort(chosen[:count])


def _transformed(
    x: np.ndarray, columns: list[str], settings: DataSettings, fitted: Any = slice(None)
) -> np.ndarray:
    """Apply the transforms that the config declares, in their stated order, by the rows that are fitted."""
    if settings.threshold is not None:
        x = np.where(np.isnan(x), np.nan, x > settings.threshold)
    if settings.equals is not None:
        x = np.where(np.isnan(x), np.nan, x == settings.equals)
    if settings.standardize:
        spread = np.nanstd(x[fitted], axis=0)
        if not np.all(spread > 0):
            flat = columns[int(np.argmin(spread))]
            refuse(f"data.standardize: column {flat!r} is constant; leave it out of data.columns.")
        x = (x - np.nanmean(x[fitted], axis=0)) / spread
    return x


def _simulated(config: Config, wanted: Simulation, program: Callable[..., Any]) -> Data:
    """Draw the data from the program: those of its sites that are named like its positional parameters."""
    from triptych.models import InputError, simulate

    sizes = {k: v for k, v in (("rows", wanted.rows), ("columns", wanted.columns)) if v is not None}
    parameters = {}
    for site, value in wanted.parameters.items():
        try:
            parameters[site] = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            refuse(f"data.simulate.parameters.{site}: {value!r} is no array of numbers.")
    key = key_for(config.seed, "data")
    try:
        if hasattr(program, "simulate"):
            drawn, truth = program.simulate(key, **sizes, parameters=parameters)  # type: ignore[attr-defined]
            arrays = drawn if isinstance(drawn, tuple) else (drawn,)
        else:
            sites = simulate(program, key, **sizes, parameters=parameters)
            named = [name for name in positional(program) if name in sites]
            if not named:
                wants = ", ".join(positional(program))
                refuse(
                    f"data.simulate: the program has no site named like its data ({wants}); rename the site."
                )
            arrays = tuple(sites[name] for name in named)
            truth = {name: value for name, value in sites.items() if name not in named}
    except InputError:
        raise
    except Exception as error:  # the user's program may raise anything
        said = " ".join(str(error).split())
        refuse(f"data.simulate: the program, called with {sizes}, raises {type(error).__name__}: {said}.")
    args = tuple(np.asarray(array).astype(config.precision) for array in arrays)
    width = args[0].shape[1] if args[0].ndim > 1 else 1
    fitted, held = _split(config, len(args[0]))
    whole, args = args, tuple(array[fitted] for array in args) if held is not None else args
    return Data(
        args=args,
        held_out=None if held is None else tuple(array[held] for array in whole),
        columns=tuple(f"x{d}" for d in range(width)),
        target=args[1] if len(args) > 1 else None,
        target_name="y" if len(args) > 1 else None,
        source="simulated",
        sha256=_digest(args),
        arrays_sha256=_digest(args),
        truth={name: np.asarray(value) for name, value in truth.items()},
    )


def _digest(arrays: tuple[np.ndarray, ...]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
