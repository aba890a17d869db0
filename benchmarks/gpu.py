"""EM iterations on the GPU that JAX finds, against scikit-learn and pomegranate on the same card.

    SCIPY_ARRAY_API=1 python benchmarks/gpu.py [--repeats 5] [--small] [--into docs/gpu.md]

scikit-learn computes there through its array API, on PyTorch's tensors; pomegranate is PyTorch's. The sides
alternate; an iteration is timed as the difference of fits of many and of one step, and what the card's own
matrix product does is measured in the same run, in full precision on both sides (no TF32). Answers are
compared before anything is timed. Without a GPU it runs on the CPU, which `--small` makes a check of
this script.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gpu_page import PRODUCT, Line, line, write
from harness import size_of
from mixtures import (
    COVARIANCES,
    Case,
    bernoulli_case,
    gaussian_case,
    iterate,
    our_step,
    per_step,
    pomegranate,
)

import triptych

PAUSE = 0.05  # seconds between the sides
STEPS = 20  # of triptych in a measurement
FULL = ((500_000, 16, 16), (200_000, 32, 32), (100_000, 64, 8), (1_000_000, 2, 4))


def settled(work: Callable[[], Any]) -> float:
    """Seconds of a call, the card's queue empty before and after."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    time.sleep(PAUSE)
    begin = time.perf_counter()
    jax.block_until_ready(work())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def rate(dtype: Any, size: int) -> float:
    """FLOP/s of the larger of JAX's and PyTorch's product of two large matrices, in full precision."""
    import torch

    square = np.random.default_rng(0).normal(size=(size, size)).astype(dtype)
    ours = jax.numpy.asarray(square)
    product = jax.jit(lambda a: jax.numpy.matmul(a, a, precision="highest"))
    theirs = torch.tensor(square, device=device())
    jax.block_until_ready(product(ours)), theirs @ theirs
    times = [
        settled(work)
        for _ in range(3)
        for work in (lambda: [product(ours) for _ in range(5)], lambda: [theirs @ theirs for _ in range(5)])
    ]
    return 5 * 2.0 * size**3 / min(times)


def device() -> str:
    """Give PyTorch's name of the device."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def our_chain(step: Any, problem: Any, start: Any, steps: int) -> Any:
    """Take steps one after the other, the host not waiting in between."""
    theta = start
    for _ in range(steps):
        theta = step(problem, theta)[0]
    return theta


def scikit_fit(case: Case, covariance: str, x: Any, steps: int) -> Any:
    """Fit scikit-learn's mixture to a tensor from the start."""
    import sklearn
    import torch
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    kind = COVARIANCES[covariance]
    values = case.parameters["covariances"]
    precisions = np.linalg.inv(values) if kind in ("full", "tied") else 1.0 / values
    weights, means, start = (
        torch.tensor(np.asarray(one), dtype=x.dtype, device=x.device)
        for one in (case.parameters["weights"], case.parameters["means"], precisions)
    )
    model = GaussianMixture(
        len(weights),
        covariance_type=kind,  # type: ignore[arg-type]
        weights_init=weights,
        means_init=means,
        precisions_init=start,
        init_params="random",
        random_state=0,
        max_iter=steps,
        tol=0.0,
        reg_covar=0.0,
    )
    with warnings.catch_warnings(), sklearn.config_context(array_api_dispatch=True):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


def against_scikit(
    size: tuple[int, int, int], dtype: Any, covariance: str, card: float, repeats: int
) -> Line:
    """Compare one iteration with scikit-learn's on the same device."""
    import torch

    case = gaussian_case(*size, dtype, covariance)
    step, problem, start = our_step(triptych.GaussianMixture(size[2], covariance=covariance), case)
    height = float(step(problem, our_chain(step, problem, start, 2))[1]) / size[0]
    x = torch.tensor(case.x, device=device())
    gap = abs(height - float(scikit_fit(case, covariance, x, 3).lower_bound_))

    def theirs() -> float:
        return per_step(lambda steps: scikit_fit(case, covariance, x, steps), 5, settled)

    own, other = rounds(lambda: our_seconds(step, problem, start), theirs, repeats)
    work = 4.0 * size[0] * problem.family.feature_count * size[2] if covariance == "full" else None
    return line(f"{covariance} {size_of(*size)}", dtype, "scikit-learn", own, other, gap, work, card)


def against_pomegranate(case: Case, kind: str, model: Any, repeats: int) -> Line:
    """Compare one iteration in float32 with pomegranate's on the same device."""
    import torch

    step, problem, start = our_step(model, case)
    x = torch.tensor(case.x, device=device())

    peer = pomegranate(case, kind).to(device())
    iterate(peer, x)
    height = float(peer.summarize(x).sum()) / len(case.x)  # after one step
    gap = abs(float(step(problem, step(problem, start)[0])[1]) / len(case.x) - height)

    def theirs() -> float:
        peer = pomegranate(case, kind).to(device())
        return settled(lambda: iterate(peer, x))

    own, other = rounds(lambda: our_seconds(step, problem, start), theirs, repeats)
    what = f"{kind} {size_of(*case.x.shape, len(case.parameters['weights']))}"
    return line(what, np.float32, "pomegranate", own, other, gap, None, 1.0)


def our_seconds(step: Any, problem: Any, start: Any) -> float:
    """Seconds a step."""
    return settled(lambda: our_chain(step, problem, start, STEPS)) / STEPS


def rounds(
    own: Callable[[], float], other: Callable[[], float], repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Call two timers in turn, once before it counts."""
    pairs = np.array([(own(), other()) for _ in range(1 + repeats)])[1:]
    return pairs[:, 0], pairs[:, 1]


def bernoulli_alone(case: Case, repeats: int) -> str:
    """Time an iteration of a Bernoulli mixture; pomegranate takes no bits on a GPU."""
    step, problem, start = our_step(triptych.BernoulliMixture(len(case.parameters["weights"])), case)
    times = [our_seconds(step, problem, start) for _ in range(1 + repeats)][1:]
    size = size_of(*case.x.shape, len(case.parameters["weights"]))
    took = f"{1e3 * np.median(times):.3g} ms an iteration"
    return f"Bernoulli {size}, float32: {took}; pomegranate's Bernoulli takes no tensor on a GPU (TypeError)"


def whole_fit(size: tuple[int, int, int]) -> str:
    """Fit on the GPU and on the CPU; say how far the answers are apart."""
    x = gaussian_case(*size, np.float64, "diagonal").x
    method = triptych.EM(triptych.GaussianMixture(size[2], covariance="diagonal"))
    found = []
    for place in dict.fromkeys((jax.devices()[0], jax.devices("cpu")[0])):
        with jax.default_device(place):
            begin = time.perf_counter()
            fit = method.run(jax.random.key(0), x)
            took = time.perf_counter() - begin
            found.append(f"{place.platform} {float(np.max(fit.objective)):.12g} nats in {took:.1f} s")
    return f"Whole fit, diagonal {size_of(*size)}, compilation and standard errors included: " + "; ".join(
        found
    )


def card_name() -> str:
    """Name the GPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def main() -> None:
    """Measure what was asked for."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="few rows: a check of the script")
    parser.add_argument("--into", type=Path, help="write the table there")
    given = parser.parse_args()
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        parser.error("scikit-learn's array API needs SCIPY_ARRAY_API=1 in the environment")
    cut = 100 if given.small else 1
    sizes = [(rows // cut, columns, components) for rows, columns, components in FULL]
    lines: list[Line] = []
    with jax.enable_x64(True):
        cards = {dtype: rate(dtype, 512 if given.small else PRODUCT) for dtype in (np.float64, np.float32)}
        rates = ", ".join(f"{one / 1e9:,.0f} GFLOP/s in {np.dtype(d).name}" for d, one in cards.items())
        print(card_name(), rates, flush=True)
        for dtype, card in cards.items():
            lines += [against_scikit(size, dtype, "full", card, given.repeats) for size in sizes]
            for covariance in ("diagonal", "spherical", "tied"):
                lines.append(against_scikit(sizes[0], dtype, covariance, card, given.repeats))
        large = (5_000_000 // cut, 16, 16)
        lines.append(against_scikit(large, np.float32, "full", cards[np.float32], given.repeats))
        for kind in ("full", "diagonal"):
            case = gaussian_case(*sizes[0], np.float32, kind)
            model: Any = triptych.GaussianMixture(16, covariance=kind)
            lines.append(against_pomegranate(case, kind, model, given.repeats))
        bits = bernoulli_case(200_000 // cut, 784, 10, np.float32)
        alone = bernoulli_alone(bits, given.repeats)
    fits = whole_fit((sizes[0][0] // 10, 16, 4))
    print(alone, fits, sep="\n", flush=True)
    if given.into:
        write(given.into, lines, card_name(), rates, f"{alone}.\n\n{fits}")


if __name__ == "__main__":
    main()
