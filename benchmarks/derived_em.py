"""Derived EM against hand-written kernels: the cost of an iteration, and the wait for the first one.

    python benchmarks/derived_em.py [rounds]

A mixture is written as a NumPyro program, as a user would. The hand-written side is the same model on the
fold of `inference/em/`: the library's own kernel for Gaussian and Bernoulli mixtures, one written below for
Poissons; priors are left out on both sides (maximum likelihood). Both take the same steps from the same θ
(the ends are compared), in turns; ratios are medians over rounds. "first" is the time from the program to the
first iterate: tracing, reading the M-step off the program, compiling.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from harness import Row, alternate, seconds, size_of

from triptych.inference.em import EM
from triptych.inference.em.derived import derive
from triptych.inference.em.fold import MixtureProblem
from triptych.inference.em.kernel import Call
from triptych.inference.em.loop import climb
from triptych.inference.precision import double_precision
from triptych.models import BernoulliMixture, GaussianMixture

__all__ = ["CASES", "Case", "derived_ratio", "row"]

TARGET = 1 / 1.5  # the derived side may cost half as much again
BUSY = 0.3  # seconds that one timing lasts at least
SIZES = ((100_000, 8, 8), (50_000, 4, 4), (272, 2, 2))


def full(x: Any, components: int) -> None:
    """Mix Gaussians, each with a covariance of its own."""
    columns = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        means = jnp.asarray(numpyro.sample("means", dist.Normal(0.0, 10.0).expand([columns]).to_event(1)))
        covariances = jnp.asarray(
            numpyro.sample("covariances", dist.InverseWishart(columns + 2.0, jnp.eye(columns)))
        )
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.MultivariateNormal(means[z], covariances[z]), obs=x)


def diagonal(x: Any, components: int) -> None:
    """Mix Gaussians with independent columns."""
    columns = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        means = jnp.asarray(numpyro.sample("means", dist.Normal(0.0, 10.0).expand([columns]).to_event(1)))
        prior = dist.InverseGamma(2.0, 1.0).expand([columns]).to_event(1)
        covariances = jnp.asarray(numpyro.sample("covariances", prior))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(means[z], jnp.sqrt(covariances[z])).to_event(1), obs=x)


def bernoulli(x: Any, components: int) -> None:
    """Mix vectors of zeros and ones."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        prior = dist.Beta(1.0, 1.0).expand([x.shape[1]]).to_event(1)
        probs = jnp.asarray(numpyro.sample("probs", prior))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)


def poisson(x: Any, components: int) -> None:
    """Mix vectors of counts."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        prior = dist.Gamma(1.0, 0.1).expand([x.shape[1]]).to_event(1)
        rates = jnp.asarray(numpyro.sample("rates", prior))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Poisson(rates[z]).to_event(1), obs=x)


@dataclasses.dataclass(frozen=True)
class Poissons:
    """T(x) = [1, x], η_k = [log π_k − Σ λ_k, log λ_k]: by hand, for the fold."""

    components: int
    columns: int

    @property
    def feature_count(self) -> int:
        """F."""
        return 1 + self.columns

    def features(self, x: Any) -> Any:
        """T(x)."""
        return jnp.concatenate([jnp.ones((1, x.shape[0]), x.dtype), x.T])

    @property
    def plain(self) -> bool:
        """T(x) is the row, behind a 1."""
        return True

    def natural(self, parameters: Any) -> Any:
        """η, (F, K)."""
        rates = parameters["rates"]
        constant = jnp.log(parameters["weights"]) - jnp.sum(rates, axis=1)
        return jnp.concatenate([constant[None], jnp.log(rates).T])

    def base(self, parameters: Any, totals: Any) -> Any:
        """Σ h(x), which no parameter changes."""
        del parameters
        return totals

    def maximise(self, statistics: Any, hyper: Any) -> Any:
        """λ = Σ r x / Σ r."""
        del hyper
        counts = statistics.sums[0]
        return {"weights": counts / jnp.sum(counts), "rates": (statistics.sums[1:] / counts).T}


class Case(NamedTuple):
    """One mixture on one table of rows."""

    name: str
    program: Callable[[Any, int], None]
    size: tuple[int, int, int]
    dtype: str

    @property
    def mixture(self) -> str:
        """What a row of the table calls it."""
        return f"{self.name} {size_of(*self.size)}"

    @property
    def title(self) -> str:
        """The mixture and its dtype."""
        return f"{self.mixture} {self.dtype}"


CASES = tuple(
    Case(program.__name__, program, size, dtype)
    for dtype in ("float64", "float32")
    for size in SIZES
    for program in (full, diagonal, bernoulli, poisson)
)


def data(case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw rows and a θ to start from."""
    generator = np.random.default_rng(0)
    N, D, K = case.size
    groups = generator.integers(0, K, N)
    weights = np.full(K, 1 / K)
    if case.name == "bernoulli":
        probs = generator.uniform(0.1, 0.9, (K, D))
        x = (generator.random((N, D)) < probs[groups]).astype(case.dtype)
        return x, {"weights": weights, "probs": np.clip(probs + 0.05, 0.1, 0.9)}
    if case.name == "poisson":
        rates = generator.uniform(1.0, 9.0, (K, D))
        return generator.poisson(rates[groups]).astype(case.dtype), {"weights": weights, "rates": 1.1 * rates}
    means = generator.normal(size=(K, D)) * 2.0
    x = (means[groups] + generator.normal(size=(N, D))).astype(case.dtype)
    covariances = np.tile(2.0 * np.eye(D), (K, 1, 1)) if case.name == "full" else np.full((K, D), 2.0)
    return x, {"weights": weights, "means": means + 0.3, "covariances": covariances}


def by_hand(case: Case, x: np.ndarray) -> Any:
    """Give the hand-written kernel: its problem, and the way in and out."""
    K = case.size[2]
    if case.name == "poisson":
        from jax.scipy.special import gammaln

        zero, one = np.zeros(case.size[1], x.dtype), np.ones(case.size[1], x.dtype)
        total = -jnp.sum(gammaln(jnp.asarray(x, jnp.float64) + 1))
        family: Any = Poissons(K, case.size[1])
        problem = MixtureProblem(
            jnp.asarray(x),
            None,
            None,
            zero,
            one,
            total,
            (),
            jnp.zeros(()),
            family,
            False,  # type: ignore[arg-type]
        )
        return problem, lambda theta: theta, lambda theta: theta
    model = BernoulliMixture(K) if case.name == "bernoulli" else GaussianMixture(K, case.name)
    kernel = EM(model, objective="mle").bind(x)
    return kernel.problem, kernel.inward, kernel.outward


def from_program(case: Case, x: np.ndarray) -> Any:
    """Derive the same from the program."""
    K = case.size[2]

    def program(x: Any) -> None:
        case.program(x, K)

    kernel = derive(program, Call((x,), {}, None, "mle", "em"))
    return kernel.problem, kernel.inward, kernel.outward


class Side(NamedTuple):
    """One side ready to run: `climb(steps)` to the objective's trace, and its end in the user's units."""

    climb: Callable[[int], Any]
    first: float  # seconds to the first iterate


def ready(make: Callable[[Case, np.ndarray], Any], case: Case, x: np.ndarray, theta: Any) -> Side:
    """Make one side and take its first step."""
    begin = time.perf_counter()
    problem, inward, outward = make(case, x)
    start = {name: np.asarray(value)[None] for name, value in inward(theta).items()}

    def run(steps: int) -> Any:
        # Rounding errors of any size are allowed: a climb that stopped at one would look fast.
        found = climb(problem, start, tolerance=0.0, count=1.0, epsilon=1.0, max_steps=steps, block=1000)
        if found.steps[0] != steps:
            raise SystemExit(f"{case.title}: {found.steps[0]} steps instead of {steps}.")
        return found, outward

    run(1)
    return Side(run, time.perf_counter() - begin)


def derived_ratio(case: Case, repeats: int) -> tuple[Row, float, float]:
    """Time one case; also the seconds to the first iterate, derived and by hand."""
    with double_precision():
        x, theta = data(case)
        derived = ready(from_program, case, x, theta)
        hand = ready(by_hand, case, x, theta)
        ends = []
        for side in (derived, hand):
            found, outward = side.climb(5)
            ends.append(outward({name: value[0] for name, value in found.parameters.items()}))
        worst = max(
            float(np.max(np.abs(np.asarray(ends[0][s]) - ends[1][s])) / np.max(np.abs(ends[1][s])))
            for s in ends[1]
        )
        if not worst < (1e-8 if case.dtype == "float64" else 1e-3):
            raise SystemExit(f"{case.title}: the two sides differ by {worst:.1g} after 5 steps.")
        once = seconds(lambda: hand.climb(20)) / 20
        steps = int(np.clip(BUSY / once, 3, 1000))
        own, other, ratios = alternate(
            lambda: seconds(lambda: derived.climb(steps)) / steps,
            lambda: seconds(lambda: hand.climb(steps)) / steps,
            repeats,
        )
    agreement = f"same parameters after 5 steps to {worst:.0e}"
    row = Row(
        "Derived EM, one iteration",
        case.mixture,
        "hand-written kernel",
        1e3 * own,
        1e3 * other,
        ratios,
        agreement=agreement,
        target=TARGET,
        precision=case.dtype,
    )
    return row, derived.first, hand.first


def row(repeats: int) -> list[Row]:
    """Give the rows of the benchmark's table: all cases."""
    return [derived_ratio(case, repeats)[0] for case in CASES]


def lines(repeats: int, only: Sequence[str]) -> Iterator[str]:
    """Give the printed table line by line; `only` names cases by parts of their titles."""
    titles = ("hand ms", "derived ms", "derived/hand", "first: hand s", "derived s")
    yield f"{'mixture':40s}" + "".join(f"{title:>14s}" for title in titles)
    for case in CASES:
        if only and not all(part in case.title for part in only):
            continue
        found, derived, hand = derived_ratio(case, repeats)
        numbers = (found.other, found.own, 1 / float(np.median(found.ratios)), hand, derived)
        yield f"{case.title:40s}" + "".join(f"{number:14.3f}" for number in numbers)


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for line in lines(rounds, sys.argv[2:]):
        print(line, flush=True)
