"""All rows of docs/benchmarks.md: `make bench`, or some: `python benchmarks/bench.py --only gradient`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mixtures
import numpy as np
import posteriors
import regressions
from harness import Row, write

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "triptych",
    "jax",
    "numpyro",
    "numpy",
    "scikit-learn",
    "pomegranate",
    "torch",
    "stepmix",
    "pymc",
    "nutpie",
)


def faithful() -> np.ndarray:
    """Give Old Faithful, (272, 2)."""
    return np.loadtxt(ROOT / "experiments" / "data" / "old_faithful.csv", delimiter=",", skiprows=1)


def five_groups() -> np.ndarray:
    """Give 10 000 rows of five well separated groups in four columns."""
    generator = np.random.default_rng(1)
    centres = 4.0 * generator.normal(size=(5, 4))
    return centres[generator.integers(5, size=10_000)] + generator.normal(size=(10_000, 4))


def jobs(repeats: int) -> dict[str, Callable[[], Row]]:
    """Name every row and what makes it."""
    scikit, f64, f32 = mixtures.against_scikit, np.float64, np.float32
    table: dict[str, Callable[[], Row]] = {}
    for rows, columns, components, target in (
        (500_000, 16, 16, 14),
        (200_000, 32, 32, 10),
        (100_000, 64, 8, 4),
        (1_000_000, 2, 4, 10),
    ):
        for dtype in (f64, f32):
            aim = target if dtype is f64 or columns == 2 else None
            name = f"full-{rows}-{columns}-{components}-{np.dtype(dtype).name}"
            table[name] = partial(scikit, rows, columns, components, dtype, "full", aim, repeats)
    for covariance in ("diagonal", "spherical", "tied"):
        table[covariance] = partial(scikit, 500_000, 16, 16, f64, covariance, 10, repeats)
    table["small"] = partial(scikit, 272, 2, 2, f64, "full", None, repeats)
    table["pomegranate"] = partial(mixtures.against_pomegranate, 200_000, 16, 16, repeats)
    table["stepmix"] = partial(mixtures.against_stepmix, 200_000, 784, 10, 10, min(repeats, 3))
    table["restarts"] = partial(mixtures.restarts, faithful(), repeats)
    for rows, columns in ((442, 10), (100_000, 100), (5_000, 1_000)):
        table[f"ridge-{rows}-{columns}"] = partial(regressions.against_ridge, rows, columns, repeats)
    table["gradient"] = partial(posteriors.gradient, 50_000, 8, 10, 20, repeats)
    for rows in (1_000, 1_000_000):
        table[f"regression-{rows}"] = partial(posteriors.regression_gradient, rows, repeats)
    few = min(repeats, 3)
    table["nuts-faithful"] = partial(posteriors.nuts, "Old Faithful", faithful(), 2, 5, few, 1000)
    table["nuts-10000"] = partial(posteriors.nuts, "(10 000, 4, 5)", five_groups(), 5, 5, 1, 200)
    table["nutpie"] = partial(posteriors.nutpie_row, faithful(), 2, few, 1000)
    return table


def main() -> None:
    """Run the rows asked for; a row that fails is said and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose names begin so; nothing is written")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rows, notes = [], []
    for name, job in jobs(given.repeats).items():
        if given.only and not any(name.startswith(only) for only in given.only):
            continue
        try:
            row = job()
        except Exception as error:
            traceback.print_exc()
            notes.append(f"Not measured: {name} ({type(error).__name__}: {str(error).splitlines()[0]}).")
            continue
        rows.append(row)
        spread = f"({min(row.ratios):.3g} to {max(row.ratios):.3g})"
        print(
            f"{name}: {row.own:.4g} against {row.other:.4g} {row.unit}, "
            f"{row.ratio:.3g}x {spread}; {row.agreement}",
            flush=True,
        )
        if not given.only:  # a run that is cut off leaves what it has
            write(rows, ROOT / "docs", notes, PACKAGES)
    sizes = ((500_000, 16, 16), (200_000, 32, 32), (100_000, 64, 8))
    for size in sizes if not given.only or "rate" in given.only else ():
        for dtype in (np.float64, np.float32):
            own, machine = mixtures.matrix_rate(*size, dtype, given.repeats)
            notes.append(
                f"Full covariances {size}, {np.dtype(dtype).name}: an iteration does {own:.1f} GFLOP/s, a "
                f"matrix product on this machine {machine:.1f}: {own / machine:.0%} (aim 60 %)."
            )
            print(notes[-1], flush=True)
    if not given.only:
        write(rows, ROOT / "docs", notes, PACKAGES)
    sys.exit(0 if rows or "rate" in given.only else 1)


if __name__ == "__main__":
    main()
