"""E-steps to the optimum, plain and accelerated, on published and simulated problems.

    python benchmarks/acceleration.py [PROBLEM ...]

Each figure is the mean over 20 starts (of "overlapping", over 4 in each of 5 data sets) of the E-steps until
the objective is within 1e-6 nats of the optimum that plain EM reaches from the same start, that step
included. Behind it: the E-steps until the method itself stopped (tol=1e-6), the most over the starts to the
optimum, and, if any, how many starts ended elsewhere (←). "short by" is the most that an end lacks; "fell"
the largest decrease of the objective between two accepted points, over all starts. DAAREM is its strict
variant, without the decrease of 0.01 nats that its authors allow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.stats import norm

from triptych.inference.em import EM
from triptych.inference.em.accelerated import ACCELERATIONS, Accelerator
from triptych.inference.em.family import Statistics
from triptych.inference.em.flat import space_of
from triptych.inference.em.fold import m_step
from triptych.inference.em.loop import Run, climb
from triptych.inference.em.transposed_rows import standardised
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture

DATA = Path(__file__).parent.parent / "experiments" / "data"
STARTS = 20
CLOSE = 1e-6  # nats


class Case(NamedTuple):
    """A bound problem and its starts, stacked."""

    kernel: Any
    starts: dict[str, np.ndarray]


def stacked(kernel: Any, points: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Stack starts given in the data's units."""
    inside = [kernel.inward(point) for point in points]
    return {name: np.stack([np.asarray(point[name]) for point in inside]) for name in inside[0]}


def softened(kernel: Any, labels: np.ndarray, share: float, number: int = STARTS) -> dict[str, np.ndarray]:
    """Start from one M-step: true labels with weight `share`, random responsibilities for the rest."""
    generator, problem = np.random.default_rng(0), kernel.problem
    rows = np.asarray(standardised(problem.rows, problem.centre, problem.inverse_scale))
    features = np.asarray(problem.family.features(rows))
    points = []
    for _ in range(number):
        random = generator.dirichlet(np.ones(problem.family.components), len(labels))
        table = share * np.eye(problem.family.components)[labels] + (1 - share) * random
        statistics = Statistics(features @ table, problem.totals)
        points.append(m_step(problem.family, statistics, problem.hyper))
    return {name: np.stack([np.asarray(point[name]) for point in points]) for name in points[0]}


def times() -> Case:
    """Two Poissons for the death notices of The Times (Hasselblad 1969), maximum likelihood, derived EM.

    Starts: share ~ U(0.05, 0.95), rates ~ U(0, 6).
    """
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def program(death: Any) -> None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("kinds", 2):
            rate = jnp.asarray(numpyro.sample("rate", dist.Gamma(1.0, 0.1)))
        with numpyro.plate("rows", len(death)):
            kind = numpyro.sample("kind", dist.Categorical(weights), infer={"enumerate": "parallel"})
            numpyro.sample("deaths", dist.Poisson(rate[kind]), obs=death)

    table = np.loadtxt(DATA / "death_notices.csv", delimiter=",", skiprows=1)
    death = np.repeat(table[:, 0], table[:, 1].astype(int))
    kernel = EM(program, objective="mle").bind(death)
    generator = np.random.default_rng(1)
    share = generator.uniform(0.05, 0.95, STARTS)
    rates = generator.uniform(0.0, 6.0, (STARTS, 2))
    return Case(kernel, {"weights": np.stack([share, 1.0 - share], axis=1), "rate": rates})


def congruential(number: int, state: int) -> tuple[np.ndarray, int]:
    """Draw normals by inverting their distribution at r/2¹⁵, r' = ⌊(3685477807 r + 12345)/2¹⁶⌋ mod 2¹⁵."""
    values = np.empty(number)
    for index in range(number):
        state = (state * 3685477807 + 12345) // 65536 % 32768
        values[index] = state / 32768
    return norm.ppf(values), state


def three_normals() -> Case:
    """Three bivariate normals, the published problem of SpeedMapping (Lepage-Saucier 2024), N = 1000, MLE.

    The data come from the benchmark's own generator; l* = −4787.8090097. Starts: the published one, each
    number moved within the ranges that the benchmark draws from.
    """
    state, parts = 1, []
    truth = (
        ((0.0, 8.0), ((2.0, 0.5), (0.5, 2.0)), 300),
        ((-4.0, 10.0), ((2.0, -0.5), (-0.5, 12.0)), 200),
        ((-3.0, 2.0), ((4.0, 2.0), (2.0, 3.0)), 500),
    )
    for mean, covariance, rows in truth:
        values, state = congruential(2 * rows, state)
        parts.append(values.reshape(rows, 2) @ np.linalg.cholesky(covariance).T + np.array(mean))
    kernel = EM(GaussianMixture(3), objective="mle").bind(np.concatenate(parts))
    generator, points = np.random.default_rng(0), []
    for _ in range(STARTS):
        first, second = np.array([0.4, 0.2]) + 0.1 * generator.uniform(-1, 1, 2)
        means = np.array([[0.0, 7.5], [-4.0, 12.0], [-2.0, 0.0]]) + generator.uniform(-1, 1, (3, 2))
        variances = np.array([[2.0, 1.0], [2.0, 2.0], [4.0, 2.0]]) + generator.uniform(0, 1, (3, 2))
        points.append(
            {
                "weights": np.array([first, second, 1 - first - second]),
                "means": means,
                "covariances": np.stack([np.diag(one) for one in variances]),
            }
        )
    return Case(kernel, stacked(kernel, points))


def overlapping(seed: int) -> Case:
    """Five overlapping bivariate normals, N = 1000, as the default prior has them; softened true labels."""
    generator = np.random.default_rng(100 + seed)
    centres = np.array([[0.0, 0.0], [2.2, 0.0], [-2.2, 0.5], [0.3, 2.4], [0.0, -2.4]])
    centres = centres + 0.3 * generator.normal(size=(5, 2))
    labels = generator.integers(5, size=1000)
    x = centres[labels] + generator.normal(size=(1000, 2)) * np.array([1.0, 0.8])
    kernel = EM(GaussianMixture(5)).bind(x)
    return Case(kernel, softened(kernel, labels, 0.8, STARTS // 5))


def iris() -> Case:
    """Three full covariances for Fisher's iris (150 × 4), as the default prior has them; softened species."""
    x = np.loadtxt(DATA / "iris.csv", delimiter=",", skiprows=1, usecols=range(4))
    kernel = EM(GaussianMixture(3)).bind(x)
    return Case(kernel, softened(kernel, np.repeat(np.arange(3), 50), 0.8))


def bernoulli(components: int, columns: int, contrast: float, share: float) -> Case:
    """Products of Bernoullis, N = 1000, logits ~ N(0, contrast²); softened true labels."""
    generator = np.random.default_rng(2)
    probs = 1.0 / (1.0 + np.exp(-contrast * generator.normal(size=(components, columns))))
    labels = generator.integers(components, size=1000)
    x = (generator.random((1000, columns)) < probs[labels]).astype(float)
    kernel = EM(BernoulliMixture(components)).bind(x)
    return Case(kernel, softened(kernel, labels, share))


def regression() -> Case:
    """Evidence of a regression, N = 100, D = 50, neighbouring columns correlated by 0.95; MLE."""
    generator = np.random.default_rng(4)
    correlation = 0.95 ** np.abs(np.subtract.outer(np.arange(50), np.arange(50)))
    X = generator.normal(size=(100, 50)) @ np.linalg.cholesky(correlation).T
    y = X @ generator.normal(size=50) + 6.0 * generator.normal(size=100)
    kernel = EM(BayesianLinearRegression(), objective="mle").bind(X, y)
    spread = np.exp(2.0 * np.random.default_rng(0).normal(size=(2, STARTS)))
    return Case(kernel, {"lambda": spread[0], "beta": spread[1] / y.var()})


CASES: dict[str, Callable[[], list[Case]]] = {
    "times": lambda: [times()],
    "three_normals": lambda: [three_normals()],
    "overlapping": lambda: [overlapping(seed) for seed in range(5)],
    "iris": lambda: [iris()],
    "bernoulli_15_5": lambda: [bernoulli(5, 15, 1.2, 0.2)],
    "bernoulli_50_10": lambda: [bernoulli(10, 50, 0.5, 0.5)],
    "regression": lambda: [regression()],
}


def ride(case: Case, method: str, tolerance: float) -> Run:
    """Climb from every start by one method."""
    accelerator = None
    if method != "none":
        point = {name: value[0] for name, value in case.starts.items()}
        accelerator = Accelerator(method, space_of(point, case.kernel.supports))
    return climb(
        case.kernel.problem,
        case.starts,
        tolerance=tolerance,
        count=case.kernel.count,
        epsilon=case.kernel.epsilon,
        max_steps=20_000,
        accelerator=accelerator,
    )


def measure(name: str) -> dict[str, float]:
    """Print a line a method, and give the mean E-steps to the optimum."""
    cases = CASES[name]()
    tops = np.concatenate([ride(case, "none", 1e-11).objective for case in cases])
    means = {}
    print(f"{name}: optima {', '.join(f'{one:.4f}' for one in np.unique(np.round(tops, 4)))}")
    for method in ("none", *ACCELERATIONS):
        runs = [ride(case, method, 1e-6) for case in cases]
        ends, taken = (np.concatenate([getattr(run, of) for run in runs]) for of in ("objective", "steps"))
        traces = [trace for run in runs for trace in run.traces]
        there = [np.flatnonzero(trace >= top - CLOSE) for trace, top in zip(traces, tops, strict=True)]
        # Of a start that stopped short by more than CLOSE, or elsewhere, all the steps count.
        steps = [
            hit[0] + 1 if len(hit) else all_of_them for hit, all_of_them in zip(there, taken, strict=True)
        ]
        means[method] = float(np.mean(steps))
        elsewhere = int(np.sum(np.abs(ends - tops) > 1e-4))
        fell = max(float(np.max(-np.diff(trace), initial=0.0)) for trace in traces)
        print(
            f"  {method:>8} {means[method]:8.1f}  [stop {np.mean(taken):7.1f}, most {max(steps):5d}"
            f"{f', ← {elsewhere}' if elsewhere else ''}]  short by {np.max(tops - ends):8.1e}"
            f"  fell {fell:.0e}",
            flush=True,
        )
    return means


def main() -> None:
    """Measure the problems named, or all, and compare the default with the best of the others."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("problems", nargs="*", default=[], metavar="PROBLEM", help=", ".join(CASES))
    with jax.enable_x64(True):
        found = {name: measure(name) for name in parser.parse_args().problems or CASES}
    print("\n                  plain      mix  best of the others")
    for name, means in found.items():
        others = {one: value for one, value in means.items() if one not in ("none", "mix")}
        best = min(others, key=lambda one: others[one])
        ratio = means["mix"] / others[best]
        rest = f"{others[best]:7.1f} ({best}, ratio {ratio:.2f})"
        print(f"{name:>16} {means['none']:7.1f} {means['mix']:8.1f}  {rest}")


if __name__ == "__main__":
    main()
