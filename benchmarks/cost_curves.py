"""How time and memory grow: docs/cost_curves.md and its picture, measured by `make curves` in a few minutes.

    python benchmarks/cost_curves.py [--folder docs]

An EM iteration is timed at sizes around (50 000, 8, 8), one of N, D and K changed at a time, float64; the
best of several repetitions, since a machine is only ever disturbed upwards. Its memory is what XLA lays out
for the compiled iteration beyond the data. A draw is timed between the blocks of a run, compilation, search
and warm-up apart; that of ChEES, which has no blocks, as the difference of a long and a short walk.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib as mpl
import numpy as np
from harness import seconds
from ledger import ROOT, machine, versions
from matplotlib.figure import Figure
from mixtures import gaussian_case, our_step

import triptych
from triptych.inference import chees
from triptych.inference.batch_and_match import whitened
from triptych.inference.mcmc import overdispersed
from triptych.inference.starts import find_start
from triptych.inference.timing import stopwatch

GRIDS = {
    "N": (1_000, 5_000, 25_000, 125_000, 625_000),
    "D": (2, 4, 8, 16, 32, 64),
    "K": (1, 2, 4, 8, 16, 32, 64),
}
MIDDLE = {"N": 50_000, "D": 8, "K": 8}
CHAINS = {"NUTS": (1, 4, 16, 64), "Gibbs": (1, 4, 16, 64), "ChEES": (4, 16, 64)}
ROWS = {"NUTS": (300, 3_000, 30_000), "Gibbs": (300, 3_000, 30_000), "ChEES": (300, 3_000, 30_000)}
USUAL = {"NUTS": 4, "Gibbs": 4, "ChEES": 16}  # chains while N changes; 300 rows while the chains do
WARMUP, SHORT, LONG, LONGEST = 100, 50, 250, 1050  # transitions a chain
WALKS = 3  # of a length, the quickest counts


class Line(NamedTuple):
    """One line of a panel: x and y, and the slope of log y on log x over the upper half of the points."""

    panel: str
    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    @property
    def slope(self) -> float:
        """Give the exponent: y grows as x to this power, once x is large."""
        half = len(self.x) // 2 if len(self.x) > 3 else 0
        return float(np.polyfit(np.log(self.x[half:]), np.log(self.y[half:]), 1)[0])


def iteration(covariance: str, rows: int, columns: int, components: int) -> tuple[float, float]:
    """Milliseconds of one EM iteration, and the mebibytes that it needs beyond the data."""
    case = gaussian_case(rows, columns, components, np.float64, covariance)
    step, problem, start = our_step(triptych.GaussianMixture(components, covariance=covariance), case)
    compiled = step.lower(problem, start).compile()
    memory = compiled.memory_analysis()
    beyond = memory.temp_size_in_bytes + memory.output_size_in_bytes
    beyond += max(memory.argument_size_in_bytes - case.x.nbytes, 0)
    jax.block_until_ready(compiled(problem, start))
    spent, best = 0.0, np.inf
    while spent < 1.0:
        one = seconds(lambda: jax.block_until_ready(compiled(problem, start)))
        spent, best = spent + one, min(best, one)
    return 1e3 * best, beyond / 2**20


def of_em() -> list[Line]:
    """Measure EM's lines: time and memory against N, D and K."""
    lines = []
    for symbol, values in GRIDS.items():
        for covariance in ("full", "diagonal"):
            found = [iteration(covariance, *(MIDDLE | {symbol: value}).values()) for value in values]
            for what, numbers in zip(
                ("ms an EM iteration", "MiB beyond the data"), zip(*found, strict=True), strict=True
            ):
                lines.append(Line(f"{what}, against {symbol}", covariance, values, numbers))
            print(lines[-2].panel, covariance, f"slope {lines[-2].slope:.2f}", flush=True)
    return lines


def groups(rows: int) -> np.ndarray:
    """Give rows of two groups in two columns."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(rows, 2)) + 4.0 * generator.integers(2, size=(rows, 1))


def between_blocks(sampler: Any, x: np.ndarray) -> float:
    """Seconds a draw of all chains: the quickest block after warm-up."""
    ends: list[tuple[int, float]] = []
    sampler.run(jax.random.key(0), x, progress=lambda done, *_: ends.append((done, time.perf_counter())))
    kept = [(done, end) for done, end in ends if done >= sampler.warmup]
    return min((b - a) / (after - before) for (before, a), (after, b) in pairwise(kept))


def between_lengths(model: Any, x: np.ndarray, chains: int) -> float:
    """Seconds a draw of all chains of ChEES: a long walk less a short one, compilation apart."""
    start = find_start(jax.random.key(0), triptych.marginal(model), (x,), {}, None)
    matrix = start.whitening
    spread = overdispersed(jax.random.key(1), start, chains) * start.scale @ np.linalg.inv(matrix).T
    spent = []
    for draws in (SHORT, LONGEST):
        settings = triptych.ChEES(model, warmup=WARMUP, draws=draws, chains=chains)
        best = np.inf
        for _ in range(WALKS):
            with stopwatch() as watch:
                chees.sample(settings, whitened(start, matrix), jax.numpy.asarray(spread), jax.random.key(2))
            best = min(best, watch.seconds.run)
        spent.append(best)
    if spent[1] <= spent[0]:
        raise SystemExit(f"ChEES, {chains} chains: {LONGEST} draws took no longer than {SHORT}. Begin anew.")
    return (spent[1] - spent[0]) / (LONGEST - SHORT)


def draw(method: str, chains: int, rows: int) -> float:
    """Milliseconds a draw of a chain, the chains side by side."""
    model, x = triptych.GaussianMixture(2), groups(rows)
    match method:
        case "NUTS":
            spent = between_blocks(triptych.MCMC(model, warmup=WARMUP, draws=LONG, chains=chains), x)
        case "Gibbs":
            spent = between_blocks(triptych.Gibbs(model, warmup=WARMUP, draws=LONG, chains=chains), x)
        case _:
            spent = between_lengths(model, x, chains)
    return 1e3 * spent / chains


def of_draws() -> list[Line]:
    """Measure the samplers' lines: time a draw against chains and N."""
    lines = []
    for method in CHAINS:
        found = [draw(method, chains, ROWS[method][0]) for chains in CHAINS[method]]
        lines.append(Line("ms a draw of a chain, against chains", method, CHAINS[method], tuple(found)))
        print(lines[-1].panel, method, f"slope {lines[-1].slope:.2f}", flush=True)
        found = [draw(method, USUAL[method], rows) for rows in ROWS[method]]
        lines.append(Line("ms a draw of a chain, against N", method, ROWS[method], tuple(found)))
        print(lines[-1].panel, method, f"slope {lines[-1].slope:.2f}", flush=True)
    order = ("against chains", "against N")
    return sorted(lines, key=lambda line: [line.panel.endswith(end) for end in order].index(True))


def picture(lines: Sequence[Line], path: Path) -> None:
    """Draw small multiples, logarithmic on both axes, each line labelled with its slope."""
    panels = list(dict.fromkeys(line.panel for line in lines))
    panels.sort(key=lambda panel: ("draw" in panel, "MiB" in panel))
    colours = ("#0072b2", "#d55e00", "#009e73")
    names = {"full": 0, "diagonal": 1, "NUTS": 0, "Gibbs": 1, "ChEES": 2}
    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        rows = -(-len(panels) // 3)
        figure = Figure(figsize=(9.5, 0.2 + 2.7 * rows), layout="constrained")
        places = figure.subplots(rows, 3).ravel()
        for axes, panel in zip(places, panels, strict=False):
            held = [line for line in lines if line.panel == panel]
            for line in held:
                colour = colours[names[line.name]]
                label = f"{line.name}, slope {line.slope:.2f}".replace("-", "−")
                axes.plot(line.x, line.y, "o-", color=colour, ms=3.5, lw=1.3, label=label)
            axes.set_xscale("log")
            axes.set_yscale("log")
            low, high = min(min(line.y) for line in held), max(max(line.y) for line in held)
            # The curves keep below the legend's lines, a tenth of the axis each.
            bottom, share = low / 1.6, 0.93 - 0.09 * len(held)
            axes.set_ylim(bottom, bottom * (high / bottom) ** (1 / share))
            axes.set_title(panel, loc="left", fontsize=8.5, fontweight="bold")
            axes.set_xlabel(panel.rpartition(" ")[2])
            axes.grid(color="0.92", lw=0.6)
            axes.legend(fontsize=7.5, frameon=False, loc="upper left")
        for axes in places[len(panels) :]:
            axes.set_axis_off()
        figure.savefig(path, dpi=140)


def page(lines: Sequence[Line]) -> str:
    """Give the page."""
    parts = [
        "# Cost curves",
        "",
        "Written by `make curves`. How the time of an EM iteration, its memory, and the time of a draw grow:",
        "the slope is the power of x that y grows with, fitted over the upper half of the points (over all",
        "where there are three). Gaussian mixtures, float64; one of N, D, K changes around (50 000, 8, 8).",
        "Draws: two components in two columns, all chains in one program; per draw and chain: a slope of",
        "−1 against chains means that more of them cost nothing. A draw of Gibbs is five sweeps.",
        "",
        f"Machine: {machine()}. Versions: {versions()}.",
        "",
        "![Time and memory against N, D, K and chains, on logarithmic axes](cost_curves.png)",
        "",
        "| what | of | from | to | slope |",
        "|---|---|--:|--:|--:|",
    ]
    for line in lines:
        unit, _, symbol = line.panel.partition(", against ")
        first, last = (
            f"{symbol} = {line.x[at]:,}: {line.y[at]:.3g} {unit.split()[0]}".replace(",", " ")
            for at in (0, -1)
        )
        slope = f"{line.slope:.2f}".replace("-", "−")
        parts.append(f"| {line.panel} | {line.name} | {first} | {last} | {slope} |")
    if not any("draw" in line.panel for line in lines):
        parts += ["", "The draws are not measured yet."]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Measure everything and write the page and the picture."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    folder = parser.parse_args().folder
    begin = time.perf_counter()
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short chains have not mixed, and say so
        lines: list[Line] = []
        for measure in (of_em, of_draws):  # a run that is cut off leaves what it has
            lines += measure()
            picture(lines, folder / "cost_curves.png")
            (folder / "cost_curves.md").write_text(page(lines), encoding="utf-8")
    print(f"Measured in {time.perf_counter() - begin:.0f} s.")


if __name__ == "__main__":
    main()
