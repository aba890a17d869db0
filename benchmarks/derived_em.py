"""Derived EM against the hand-written kernels: the cost of an iteration, and the wait for the first one.

    python benchmarks/derived_em.py

For each model both sides take the same step from the same θ (the results are compared), alternating; the
figures are medians over rounds. "first" is the time from `EM(program)` to the first iterate: tracing, reading
the M-step off the program, and compiling.
"""

from __future__ import annotations

import statistics
import time

import jax
import numpy as np

from triptych.inference.em import EM
from triptych.inference.em.derived import derive
from triptych.inference.em.kernel import Call
from triptych.inference.precision import double_precision
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture

ROUNDS = 7


def cases():
    """Yield name, model, arguments and continuous latents."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20_000, 4)) + 3.0 * generator.integers(0, 3, size=(20_000, 1))
    for covariance in ("spherical", "diagonal", "full", "tied"):
        yield f"Gaussian mixture, {covariance} (20000, 4, 3)", GaussianMixture(3, covariance), (x,), None
    bits = (generator.random((20_000, 30)) < 0.3).astype(float)
    yield "Bernoulli mixture (20000, 30, 5)", BernoulliMixture(5), (bits,), None
    X = generator.normal(size=(5_000, 20))
    y = X @ generator.normal(size=20) + generator.normal(size=5_000)
    yield "regression (5000, 20)", BayesianLinearRegression(intercept=False), (X - X.mean(0), y), ("w",)


def timed(step, problem, theta):
    """Seconds of one step."""
    start = time.perf_counter()
    jax.block_until_ready(step(problem, theta))
    return time.perf_counter() - start


def main():
    """Print the table."""
    print(
        f"{'model':46s} {'hand ms':>9s} {'derived ms':>11s} {'ratio':>6s}"
        f" {'first, hand s':>14s} {'first, derived s':>17s}"
    )
    with double_precision():
        for name, model, args, latents in cases():
            sides, firsts = [], []
            start = None
            for make in ("hand", "derived"):
                began = time.perf_counter()
                if make == "hand":
                    kernel = EM(model).bind(*args)
                    start = kernel.starts(jax.random.key(0), 1, "portfolio").parameters
                    theta = {site: np.asarray(value)[0] for site, value in start.items()}
                    natural = kernel.outward(theta)
                else:
                    kernel = derive(model, Call(args, {}, None, "map", "em", latents))
                    theta = kernel.inward(natural)
                step = jax.jit(lambda problem, at: problem.step(at)[:2])
                following, _ = jax.block_until_ready(step(kernel.problem, theta))
                firsts.append(time.perf_counter() - began)
                sides.append((step, kernel.problem, theta, kernel.outward(following)))
            for site, value in sides[0][3].items():
                np.testing.assert_allclose(
                    sides[1][3][site], value, rtol=1e-6, atol=1e-8 * np.abs(value).max()
                )
            times = [[timed(*side[:3]) for side in sides] for _ in range(ROUNDS)]
            hand, derived = (statistics.median(one) for one in zip(*times, strict=True))
            print(
                f"{name:46s} {1e3 * hand:9.2f} {1e3 * derived:11.2f} {derived / hand:6.1f}"
                f" {firsts[0]:14.1f} {firsts[1]:17.1f}"
            )


if __name__ == "__main__":
    main()
