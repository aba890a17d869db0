"""Rows beyond memory, into docs/rows.md: seconds a pass, peak memory, and a large fit.

    python benchmarks/rows.py                             # tables, and 100 000 000 × 16 float32 rows
    python benchmarks/rows.py --large 0 --sizes 1000000   # some of it; --folder says where the files go

Every figure is of a process of its own. The files are deleted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ledger import machine, versions

import triptych
from triptych.inference.em.kernel import Kernel
from triptych.inference.precision import double_precision

ROOT = Path(__file__).parent.parent
COLUMNS, PIECE = 16, 2**18
KINDS = ("npy", "parquet", "csv", "zarr")
MODELS = {"full": 16, "diagonal": 4}
PACKAGES = ("triptych", "jax", "numpy", "pyarrow", "zarr")


def pieces(rows: int) -> Any:
    """Make rows of four well separated groups, float32, some at a time."""
    random = np.random.default_rng(0)
    centres = 4.0 * random.standard_normal((4, COLUMNS), np.float32)
    for start in range(0, rows, PIECE):
        number = min(PIECE, rows - start)
        table = random.standard_normal((number, COLUMNS), np.float32)
        yield start, table + centres[random.integers(4, size=number)]


def write(path: Path, rows: int) -> None:
    """Write the rows as a file of one kind, never all in memory."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    names = [f"x{d}" for d in range(COLUMNS)]
    schema = pa.schema([(name, pa.float32()) for name in names])
    if path.suffix == ".npy":
        table = np.lib.format.open_memmap(path, "w+", np.float32, (rows, COLUMNS))
    elif path.suffix == ".zarr":
        import zarr

        table = zarr.create_array(str(path), shape=(rows, COLUMNS), chunks=(2**16, COLUMNS), dtype="float32")
    else:
        kind = pyarrow.csv.CSVWriter if path.suffix == ".csv" else pyarrow.parquet.ParquetWriter
        with kind(str(path), schema) as writer:
            for _, piece in pieces(rows):
                writer.write_table(pa.table(list(piece.T), schema=schema))
        return
    for start, piece in pieces(rows):
        table[start : start + len(piece)] = piece


def peak() -> float:
    """Give the most memory that this process had resident, MB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the process was forked from
        (line,) = (each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def started(path: Path, covariance: str) -> tuple[triptych.EM, dict[str, np.ndarray]]:
    """Give EM and a start, stacked."""
    em = triptych.EM(triptych.GaussianMixture(MODELS[covariance], covariance=covariance), draws=0)  # type: ignore[arg-type]
    sample = triptych.rows(path).read(0, 20_000)
    point = em.init(jax.random.key(0), sample).parameters
    return em, {site: np.asarray(value)[None] for site, value in point.items()}


def stacked(kernel: Kernel, start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give the start in the units of the step, stacked."""
    point = kernel.inward({site: value[0] for site, value in start.items()})
    return {site: np.asarray(value)[None] for site, value in point.items()}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Time one call: seconds by the clock, and processor seconds of this process."""
    begin = time.perf_counter(), time.process_time()
    jax.block_until_ready(work())
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def passes(path: Path, covariance: str, repeats: int) -> dict[str, Any]:
    """Time E-steps of all rows, in memory and from the file, in turns."""
    em, start = started(path, covariance)
    opening = time.perf_counter()
    rows = triptych.rows(path, dtype="float32")
    opening = time.perf_counter() - opening
    whole = rows.read(0, len(rows))
    with double_precision():
        blocks, memory = em.bind(rows), em.bind(whole)
        there, here = stacked(blocks, start), stacked(memory, start)
        step = jax.jit(lambda problem, points: jax.vmap(problem.step)(points)[:2])
        sides: tuple[Callable[[], Any], ...] = (
            lambda: step(memory.problem, here),
            lambda: blocks.problem.answer(there).objective,  # type: ignore[attr-defined]
        )
        close = float(np.asarray(sides[0]()[1])[0] / np.asarray(sides[1]())[0] - 1)
        taken = np.array([[timed(side) for side in sides] for _ in range(repeats)])
    return {
        "opening": opening,
        "memory": float(np.median(taken[:, 0, 0])),
        "blocks": float(np.median(taken[:, 1, 0])),
        "share": float(np.median(taken[:, 0, 0] / taken[:, 1, 0])),
        "processor": float(np.median(taken[:, 0, 1] / taken[:, 1, 1])),
        "difference": abs(close),
    }


def memory(path: Path, covariance: str) -> dict[str, Any]:
    """Read the rows, and take two E-steps of one start: the peak memory."""
    em, start = started(path, covariance)
    before = peak()
    with double_precision():
        kernel = em.bind(triptych.rows(path))
        points = stacked(kernel, start)
        for _ in range(2):
            jax.block_until_ready(kernel.problem.answer(points).objective)  # type: ignore[attr-defined]
    return {"before": before, "peak": peak()}


def large(path: Path) -> dict[str, Any]:
    """Fit a diagonal mixture to its end."""
    em = triptych.EM(triptych.GaussianMixture(4, covariance="diagonal"), restarts=1, draws=0)
    begin = time.perf_counter()
    counted = [0]
    rows = triptych.rows(path)
    blocks = type(rows).blocks

    def watched(table: Any, size: int) -> Any:
        counted[0] += 1
        return blocks(table, size)

    type(rows).blocks = watched
    fit = em.run(jax.random.key(0), rows)
    return {
        "rows": len(rows),
        "status": fit.status.name.lower(),
        "steps": len(fit.objective),
        "passes": counted[0],
        "seconds": time.perf_counter() - begin,
        "log_likelihood": fit.log_likelihood / len(rows),
        "weights": sorted(np.round(fit.parameters["weights"], 4).tolist()),
        "peak": peak(),
    }


def child(*words: str) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print(*words[:1], *words[2:], found, flush=True)
    return found


def measured(folder: Path, given: argparse.Namespace) -> list[str]:
    """Make the files one after the other, measure, and give the page."""
    lines = [
        "# Rows beyond memory",
        "",
        "Written by `python benchmarks/rows.py`: float32 rows of 16 columns, in four groups. A pass is an EM",
        "step of one start over all rows. Rows in memory and rows in blocks took turns in one process; a",
        "share is the median over the rounds of memory's time by that of the blocks: by the clock, which",
        "other work on the machine moves, and by the processor seconds of the process.",
        "Rows in memory are transposed once, when they are bound; those of a block in every pass.",
        "",
        f"Machine: {machine()}. Versions: {versions(PACKAGES)}.",
    ]
    if given.rows:
        lines += ["", f"## Seconds a pass, {given.rows:,} rows", ""]
        lines += [
            "| file | model | opening | in memory | in blocks | share, clock | processor | objectives |"
        ]
        lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
    for kind in KINDS if given.rows else ():
        path = folder / f"x.{kind}"
        write(path, given.rows)
        for covariance, components in MODELS.items():
            found = child("passes", str(path), covariance, str(given.repeats))
            lines.append(
                f"| {kind} | {covariance}, K = {components} | {found['opening']:.2f} s "
                f"| {found['memory']:.3f} s | {found['blocks']:.3f} s | **{found['share']:.0%}** "
                f"| {found['processor']:.0%} | same to {found['difference']:.0e} |"
            )
        remove(path)
    if given.sizes:
        lines += [
            "",
            "## Peak memory",
            "",
            "Of a process that opens the file, looks at all rows and takes two",
        ]
        lines += ["steps (diagonal, K = 4); Python and JAX alone are in the first column of numbers.", ""]
        lines += ["| file | rows | data | before | peak |", "|---|--:|--:|--:|--:|"]
    for kind in ("npy", "parquet") if given.sizes else ():
        for size in given.sizes:
            path = folder / f"x.{kind}"
            write(path, size)
            found = child("memory", str(path), "diagonal")
            data = size * COLUMNS * 4 / 2**20
            numbers = f"{data:.0f} MB | {found['before']:.0f} MB | **{found['peak']:.0f} MB**"
            lines.append(f"| {kind} | {size:,} | {numbers} |")
            remove(path)
    if given.large:
        path = folder / "x.npy"
        begin = time.perf_counter()
        write(path, given.large)
        print(f"written in {time.perf_counter() - begin:.0f} s", flush=True)
        found = child("large", str(path))
        remove(path)
        lines += [
            "",
            "## A large fit, to its end",
            "",
            f"{found['rows']:,} × {COLUMNS} float32 rows ({given.large * COLUMNS * 4 / 1e9:.1f} GB, .npy), "
            "diagonal mixture, K = 4, `EM(..., restarts=1, draws=0).run(key, triptych.rows(path))`: "
            f"{found['status']} after {found['steps']} steps, {found['passes']} passes over the file in all "
            f"(moments and checks, steps, review), {found['seconds']:.0f} s, peak memory "
            f"**{found['peak']:.0f} MB**; log-likelihood {found['log_likelihood']:.4f} nats a row, weights "
            f"{found['weights']}.",
        ]
    return lines


def remove(path: Path) -> None:
    """Delete a file or a folder that this script wrote."""
    import shutil

    shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> None:
    """Measure what is asked for, and write the page when all of it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table of seconds (0: none)")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000_000, 4_000_000, 16_000_000])
    parser.add_argument("--large", type=int, default=100_000_000, help="rows of the large fit (0: none)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, help="where the files are written, 7 GB; the system's if left out"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "rows.md")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        what, path, *more = given.child
        work: dict[str, Callable[[], Any]] = {
            "passes": lambda: passes(Path(path), more[0], int(more[1])),
            "memory": lambda: memory(Path(path), more[0]),
            "large": lambda: large(Path(path)),
        }
        print(json.dumps(work[what]()))
        return
    with tempfile.TemporaryDirectory(prefix="triptych-rows-", dir=given.folder) as folder:
        lines = measured(Path(folder), given)
    given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
