"""Two sides on the same data in the same run, alternating: medians of ratios, a table and a picture."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

__all__ = ["PAUSE", "Row", "alternate", "seconds", "write"]

PAUSE = 0.3  # seconds: the threads of the other side's BLAS spin on for a while


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: what both sides computed, how long each took, and how far their answers agree.

    `own` and `other` are medians in `unit`; `ratios` are other/own of each round (own/other where `higher` is
    better), so that above 1 triptych is ahead. `target` is the ratio aimed at.
    """

    group: str
    what: str
    peer: str
    own: float
    other: float
    ratios: tuple[float, ...]
    unit: str = "ms"
    agreement: str = ""
    target: float | None = None

    @property
    def ratio(self) -> float:
        """The median ratio."""
        return float(np.median(self.ratios))


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def alternate(
    own: Callable[[], float], other: Callable[[], float], repeats: int
) -> tuple[float, float, tuple[float, ...]]:
    """Call two timers in turn; give both medians (seconds) and the ratio other/own of each round."""
    mine, theirs = [], []
    for _ in range(repeats):
        time.sleep(PAUSE)
        mine.append(own())
        time.sleep(PAUSE)
        theirs.append(other())
    ratios = tuple(float(b / a) for a, b in zip(mine, theirs, strict=True))
    return float(np.median(mine)), float(np.median(theirs)), ratios


def versions(packages: Sequence[str]) -> str:
    """Name the packages that are installed, with their versions."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def machine() -> str:
    """Say what the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = named[0] if named else model
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def write(rows: Sequence[Row], folder: Path, notes: Sequence[str], packages: Sequence[str]) -> None:
    """Write benchmarks.md and benchmarks.png."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Both sides of a row compute the same thing on the same data in the same",
        "run, in turns; a ratio is the median over the rounds (least to most in brackets), above 1 where",
        "triptych is ahead.",
        "",
        f"Machine: {machine()}. Versions: {versions(packages)}.",
        "",
        "![Ratios to the peers, on a logarithmic axis](benchmarks.png)",
    ]
    for group in dict.fromkeys(row.group for row in rows):
        lines += ["", f"## {group}", ""]
        lines += [
            "| what | peer | triptych | peer's | ratio | aim | answers |",
            "|---|---|--:|--:|--:|--:|---|",
        ]
        for row in (row for row in rows if row.group == group):
            span = f"({min(row.ratios):.3g} to {max(row.ratios):.3g})" if len(row.ratios) > 1 else ""
            aim = "" if row.target is None else f"{row.target:g}×"
            lines.append(
                f"| {row.what} | {row.peer} | {row.own:.4g} {row.unit} | {row.other:.4g} {row.unit} "
                f"| **{row.ratio:.3g}×** {span} | {aim} | {row.agreement} |"
            )
    lines += ["", *(f"{note}\n" for note in notes)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    picture(rows, folder / "benchmarks.png")


def picture(rows: Sequence[Row], path: Path) -> None:
    """Draw every ratio as a dot with its range, and the aim as a tick."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.28 * len(rows)), layout="constrained")
    groups = list(dict.fromkeys(row.group for row in rows))
    colours = {group: f"C{index}" for index, group in enumerate(groups)}
    for index, row in enumerate(rows):
        axes.plot(
            [min(row.ratios), max(row.ratios)], [index, index], color=colours[row.group], lw=2, alpha=0.5
        )
        first = next(r for r in rows if r.group == row.group) is row
        axes.plot(row.ratio, index, "o", color=colours[row.group], label=row.group if first else None)
        if row.target is not None:
            axes.plot(row.target, index, "|", color="black", ms=12, mew=1.5)
    axes.axvline(1, color="grey", lw=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [f"{row.what} / {row.peer}" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the peer (tick: the aim)")
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)
