"""A sweep: every cell of a grid is a `triptych run` in a process of its own; what is finished is kept.

    CONFIG key=a,b  key=c,d   →   DIR/key=a,key=c/   DIR/key=a,key=d/   …   DIR/sweep.json   DIR/sweep.html

A process a cell keeps a crash, or a lack of memory, to its cell. The cells go to local processes, or to the
workers of a running dask.distributed cluster that see the same files.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from triptych.experiments.grid import Cell, cells
from triptych.experiments.manifest import FILE as MANIFEST
from triptych.experiments.manifest import read_manifest
from triptych.experiments.programs import program_file
from triptych.experiments.reading import Experiment, read_experiment
from triptych.experiments.refusal import refuse
from triptych.experiments.store import digest, file_digest, read_json, write_json

__all__ = ["FILE", "Ended", "Sweep", "run_cell", "sweep"]

FILE = "sweep.json"


class Ended(NamedTuple):
    """How the process of a cell ended: its exit code, the last line it said of an error, and its seconds."""

    code: int
    said: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep left: a record a cell (`ok`, `message`, `seconds`, `values`, `directory`), by label."""

    directory: Path
    records: Mapping[str, Mapping[str, Any]]
    kept: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every cell finished and every fit of it is there."""
        return all(record["ok"] for record in self.records.values())

    @property
    def finished(self) -> tuple[Path, ...]:
        """Directories of the cells that have a comparison to show."""
        places = (self.directory / record["directory"] for record in self.records.values())
        return tuple(place for place in places if (place / "comparison.json").is_file())


def run_cell(arguments: Sequence[str], where: str) -> Ended:
    """Run `triptych run` with these arguments in a process of its own, from the directory `where`."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "triptych", "run", *arguments]
    with subprocess.Popen(
        command, cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            _, errors = process.communicate()
        except BaseException:  # interrupted: the cell's finished fits are kept
            process.terminate()
            raise
    lines = [line for line in errors.splitlines() if line.strip()]
    return Ended(process.returncode, lines[-1].strip() if lines else "", time.perf_counter() - started)


@contextmanager
def local(workers: int | None) -> Iterator[Executor]:
    """Give an executor of local processes, half as many as there are cores: a run uses about two."""
    with ThreadPoolExecutor(workers or max(1, (os.cpu_count() or 1) // 2)) as executor:
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def clustered(address: str) -> Iterator[Executor]:
    """Give the executor of a running dask.distributed cluster.

    Raises
    ------
    InputError : `distributed` is not installed, or nothing answers at the address.
    """
    try:
        from distributed import Client
    except ImportError:
        refuse("--cluster needs the package `distributed`: install triptych[cluster].")
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        refuse(f"No dask scheduler answers at {address} ({type(error).__name__}); start one, or mend it.")
    with client:
        yield client.get_executor(pure=False)


def sweep(
    source: str | Path,
    overrides: Sequence[str],
    directory: Path,
    *,
    executor: Callable[[], Any] = lambda: local(None),
    tell: Callable[[str, Mapping[str, Any], bool], None] = lambda label, record, kept: None,
) -> Sweep:
    """Run every cell of a grid; a cell that fails is recorded and the others go on.

    Parameters
    ----------
    source : path of a config, or the name of a shipped one.
    overrides : texts KEY=VALUE,VALUE,…; the product of all values is swept.
    directory : where the cells' directories and `sweep.json` go.
    executor : makes the context manager that gives the executor of the cells.
    tell : is called with each cell's label, its record, and whether it was kept from before.

    Raises
    ------
    InputError : the grid or the config of a cell is wrong; then nothing has been written.
    """
    experiment, grid = cells(source, overrides, directory)
    before = _before(directory, experiment.config.name)
    records: dict[str, dict[str, Any]] = {}
    kept: list[str] = []
    marks = {cell.label: _mark(read_experiment(source, cell.overrides)) for cell in grid}
    waiting: list[Cell] = []
    for cell in grid:
        record = before.get(cell.label, {})
        if record.get("mark") == marks[cell.label] and record["ok"] and _whole(cell.directory):
            records[cell.label] = record
            kept.append(cell.label)
            tell(cell.label, record, True)
        else:
            waiting.append(cell)
    _write(directory, experiment, grid, records)
    given = str(Path(source).resolve()) if Path(source).is_file() else str(source)
    with executor() as pool:
        futures: dict[Future[Ended], Cell] = {
            pool.submit(
                run_cell, (given, *cell.overrides, "--output", str(cell.directory.resolve())), str(Path.cwd())
            ): cell
            for cell in waiting
        }
        for future in as_completed(futures):
            cell = futures[future]
            records[cell.label] = _record(cell, marks[cell.label], future)
            tell(cell.label, records[cell.label], False)
            _write(directory, experiment, grid, records)
    ordered = {cell.label: records[cell.label] for cell in grid}
    return Sweep(directory, ordered, tuple(kept))


def _record(cell: Cell, mark: str, future: Future[Ended]) -> dict[str, Any]:
    """Say how a cell ended; `ok` only if all its fits are there."""
    try:
        ended = future.result()
    except (CancelledError, Exception) as error:  # a cluster may lose a worker
        ended = Ended(-1, f"{type(error).__name__}: {' '.join(str(error).split())}", 0.0)
    message = "" if ended.code == 0 else _why(cell, ended)
    return {
        "values": dict(cell.values),
        "directory": cell.label,
        "ok": ended.code == 0,
        "message": message,
        "seconds": round(ended.seconds, 2),
        "mark": mark,
    }


def _why(cell: Cell, ended: Ended) -> str:
    """Put the failure of a cell in a line."""
    if ended.code == 1 and (cell.directory / MANIFEST).is_file():
        failed = [
            f"{name}: {entry['message']}"
            for name, entry in read_manifest(cell.directory)["fits"].items()
            if entry["status"] == "failed"
        ]
        if failed:
            return "; ".join(failed)
    if ended.code < 0 and not ended.said:
        return f"the process was killed by signal {-ended.code}; is there memory enough? Try fewer --workers."
    return ended.said.removeprefix("Error: ") or f"the run ended with exit code {ended.code}"


def _mark(experiment: Experiment) -> str:
    """Give the hash of all that decides a cell's numbers: its config, and the files that the config names."""
    config = experiment.config
    files = [program_file(config.model, experiment.base)]
    if config.data.path is not None:
        files.append(experiment.base / Path(config.data.path).expanduser())
    hashes = [file_digest(file) for file in files if file is not None and file.is_file()]
    return digest({"config": config.plain(), "files": hashes})


def _whole(directory: Path) -> bool:
    return all((directory / name).is_file() for name in (MANIFEST, "comparison.json", "report.html"))


def _before(directory: Path, name: str) -> dict[str, Any]:
    """Give the records of an earlier sweep there; refuse a place that holds something else."""
    if directory.exists() and not directory.is_dir():
        refuse(f"--output {directory} is a file; give a directory.")
    if (directory / MANIFEST).is_file():
        refuse(f"{directory} holds a single run; give the sweep another --output.")
    if not (directory / FILE).is_file():
        return {}
    before = read_json(directory / FILE)
    if not isinstance(before, dict) or before.get("name") != name:
        refuse(f"{directory} holds another sweep than of {name!r}; give another --output.")
    return before["cells"]


def _write(directory: Path, experiment: Experiment, grid: Sequence[Cell], records: Mapping[str, Any]) -> None:
    """Write the record of the sweep so far, its cells in the grid's order."""
    content = {
        "name": experiment.config.name,
        "keys": list(grid[0].values),
        "cells": {cell.label: records[cell.label] for cell in grid if cell.label in records},
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / FILE, content)
    except OSError as error:
        refuse(f"Cannot write to {directory}: {error.strerror}; give another --output.")
