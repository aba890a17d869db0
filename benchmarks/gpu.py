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
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from harness import size_of
from ledger import versions
from mixtures import COVARIANCES, Case, bernoulli_case, gaussian_case, our_step

import triptych

PAUSE = 0.05  # seconds between the sides
STEPS = 20  # of triptych in a measurement
PRODUCT = 8192  # rows and columns of the matrices whose product is the card's rate
FULL = ((500_000, 16, 16), (200_000, 32, 32), (100_000, 64, 8), (1_000_000, 2, 4))


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of the table: medians in ms, the ratio of each round, useful GFLOP/s and their share."""

    what: str
    precision: str
    peer: str
    own: float
    other: float
    ratios: tuple[float, ...]
    gap: float
    rate: float | None
    share: float | None

    def __str__(self) -> str:
        span = f"{min(self.ratios):.3g} to {max(self.ratios):.3g}, {len(self.ratios)}"
        rate = "" if self.rate is None else f"{self.rate:,.0f}"
        share = "" if self.share is None else f"{self.share:.0%}"
        return (
            f"| {self.what} | {self.precision} | {self.peer} | {self.own:.3g} ms | {self.other:.3g} ms | "
            f"**{np.median(self.ratios):.3g}×** ({span}) | {rate} | {share} | {self.gap:.0e} |"
        )


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
    more = 5

    def theirs() -> float:
        long = settled(lambda: scikit_fit(case, covariance, x, 1 + more))
        return max(long - settled(lambda: scikit_fit(case, covariance, x, 1)), 1e-9) / more

    own, other = rounds(lambda: our_seconds(step, problem, start), theirs, repeats)
    work = 4.0 * size[0] * problem.family.feature_count * size[2] if covariance == "full" else None
    return line(f"{covariance} {size_of(*size)}", dtype, "scikit-learn", own, other, gap, work, card)


def against_pomegranate(case: Case, kind: str, model: Any, repeats: int) -> Line:
    """Compare one iteration in float32 with pomegranate's on the same device."""
    import torch
    from pomegranate.distributions import Bernoulli, Normal
    from pomegranate.gmm import GeneralMixtureModel

    step, problem, start = our_step(model, case)
    x = torch.tensor(case.x, device=device())

    def fresh() -> Any:
        values = {n: torch.tensor(v, dtype=torch.float32) for n, v in case.parameters.items()}
        if kind == "Bernoulli":
            parts = [Bernoulli(p) for p in values["probs"]]
        else:
            pairs = zip(values["means"], values["covariances"], strict=True)
            parts = [Normal(m, c, covariance_type=COVARIANCES[kind]) for m, c in pairs]
        return GeneralMixtureModel(parts, priors=case.parameters["weights"].astype(np.float32)).to(device())

    def iterate(theirs: Any) -> None:
        theirs.summarize(x)
        theirs.from_summaries()

    peer = fresh()
    iterate(peer)
    height = float(peer.summarize(x).sum()) / len(case.x)  # after one step
    gap = abs(float(step(problem, step(problem, start)[0])[1]) / len(case.x) - height)

    def theirs() -> float:
        peer = fresh()
        return settled(lambda: iterate(peer))

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


def line(
    what: str,
    dtype: Any,
    peer: str,
    own: np.ndarray,
    other: np.ndarray,
    gap: float,
    work: float | None,
    card: float,
) -> Line:
    """Make a line of two sides' seconds, the FLOP of an iteration and the card's FLOP/s."""
    seconds = float(np.median(own))
    found = Line(
        what,
        np.dtype(dtype).name,
        peer,
        1e3 * seconds,
        1e3 * float(np.median(other)),
        tuple((other / own).tolist()),
        gap,
        None if work is None else work / seconds / 1e9,
        None if work is None else work / seconds / card,
    )
    print(found, flush=True)
    return found


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


HEAD = """\
# On a GPU

Written by `SCIPY_ARRAY_API=1 python benchmarks/gpu.py --into docs/gpu.md` (peers as for
`make bench`, JAX and PyTorch built for the GPU), last on one {card}. Versions: {versions}.

One EM iteration of triptych against the peer's, both on the same card and the same data, in turns: medians,
and the ratio of each round (least to most, and how many), above 1 where triptych is ahead. scikit-learn
computes through its array API on PyTorch's tensors. GFLOP/s are the useful work 4 N F K of a full-covariance
iteration, F = 1 + D + D(D + 1)/2; the share is of the card's own product of two {product} × {product}
matrices (the faster of JAX's and PyTorch's, in full precision): {rates}.
"gap" is the difference of the two sides' log-likelihoods a row after the same steps, in nats.

| what | dtype | peer | triptych | peer's | ratio | GFLOP/s | share | gap |
|---|---|---|--:|--:|--:|--:|--:|--:|
"""


def write(path: Path, lines: Sequence[Line], rates: str, fits: str) -> None:
    """Write the page, whole or not at all."""
    head = HEAD.format(card=card_name(), versions=versions(), product=PRODUCT, rates=rates)
    part = path.with_name(path.name + ".part")
    part.write_text(head + "\n".join(map(str, lines)) + f"\n\n{fits}.\n", encoding="utf-8")
    part.replace(path)


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
        write(given.into, lines, rates, f"{alone}.\n\n{fits}")


if __name__ == "__main__":
    main()
