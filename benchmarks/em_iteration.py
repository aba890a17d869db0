"""One EM iteration of a full-covariance Gaussian mixture against scikit-learn's, on the same data.

    python benchmarks/em_iteration.py [--repeats 5]

The two alternate; the figures are medians. scikit-learn's iteration is the difference between fits of 3 and
of 1 iterations, so that its initialisation does not count. Both do one E-step and one M-step in the dtype of
the data, and their log-likelihoods after the same steps from the same start are compared before anything is
timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from typing import Any

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer

from triptych.inference.em import EM
from triptych.models import GaussianMixture

PAUSE = 0.3  # seconds: the threads of the other side's BLAS spin on for a while
SIZES = ((500_000, 16, 16), (1_000_000, 2, 4))


@dataclasses.dataclass(frozen=True)
class Case:
    """Data, and the start that both begin from."""

    x: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


def make(rows: int, columns: int, components: int, dtype: Any) -> Case:
    """Draw rows around centres, and a start close to them."""
    generator = np.random.default_rng(0)
    centres = 3.0 * generator.normal(size=(components, columns))
    x = centres[generator.integers(components, size=rows)] + generator.normal(size=(rows, columns))
    start = centres + 0.3 * generator.normal(size=centres.shape)
    return Case(
        x.astype(dtype),
        np.full(components, 1.0 / components, dtype),
        start.astype(dtype),
        np.stack([2.0 * np.eye(columns, dtype=dtype)] * components),
    )


def peer(case: Case, steps: int) -> tuple[float, float]:
    """Seconds and log-likelihood a row of scikit-learn's fit of `steps` iterations."""
    model = Peer(
        len(case.weights),
        weights_init=case.weights,
        means_init=case.means,
        precisions_init=np.linalg.inv(case.covariances),
        max_iter=steps,
        tol=0.0,
        reg_covar=0.0,
    )
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(case.x)
    return time.perf_counter() - begin, float(model.lower_bound_)


def ours(case: Case) -> tuple[Any, Any, Any]:
    """Give a compiled EM step, its problem, and the start in the problem's units."""
    kernel = EM(GaussianMixture(len(case.weights)), objective="mle").bind(case.x)
    start = kernel.inward({"weights": case.weights, "means": case.means, "covariances": case.covariances})
    return jax.jit(lambda problem, theta: problem.step(theta)[:2]), kernel.problem, start


def measure(rows: int, columns: int, components: int, dtype: Any, repeats: int) -> None:
    """Time both on one case and print a line."""
    with jax.enable_x64(True):
        case = make(rows, columns, components, dtype)
        step, problem, start = ours(case)
        memory = step.lower(problem, start).compile().memory_analysis()
        theta = start
        for _ in range(3):
            theta, objective = step(problem, theta)
        _, theirs = peer(case, 3)
        gap = abs(float(objective) / rows - theirs)
        mine, other = [], []
        for _ in range(repeats):
            time.sleep(PAUSE)
            begin = time.perf_counter()
            for _ in range(3):
                jax.block_until_ready(step(problem, start))
            mine.append((time.perf_counter() - begin) / 3)
            time.sleep(PAUSE)
            other.append((peer(case, 3)[0] - peer(case, 1)[0]) / 2)
        ratios = np.array(other) / np.array(mine)
        extra = "" if memory is None else f"{memory.temp_size_in_bytes / 2**20:6.1f} MiB"
        print(
            f"{rows:>9} {columns:>3} {components:>3} {np.dtype(dtype).name:>8} "
            f"{np.median(mine) * 1e3:9.1f} ms {np.median(other) * 1e3:9.1f} ms {np.median(ratios):6.1f}x "
            f"({ratios.min():.1f} to {ratios.max():.1f})  {extra}  {gap:.1e}"
        )


def main() -> None:
    """Time every size in both precisions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(
        "     rows   D   K    dtype     triptych  scikit-learn  ratio (range)  "
        "memory beyond the data  gap, nats a row"
    )
    for size in SIZES:
        for dtype in (np.float64, np.float32):
            measure(*size, dtype, repeats)


if __name__ == "__main__":
    main()
