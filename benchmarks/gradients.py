"""The gradient that a leapfrog step takes: against NumPyro's enumeration, and as the rows grow."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Rounds, Row, alternate, seconds, size_of
from programs import diagonal_program

import triptych

GROUP = "Gradients of the log posterior"


def of_mixture(size: tuple[int, int, int], target: float | None, rounds: Rounds) -> list[Row]:
    """Compare the gradient of the log posterior, diagonal covariances, float32."""
    from numpyro.contrib.funsor import config_enumerate, enum, log_density

    rows, columns, components = size
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, columns)) + generator.integers(components, size=rows)[:, None]
    x = x.astype(np.float32)
    means = generator.normal(size=(components, columns)).astype(np.float32)
    weights, variances = np.full(components, 1 / components, np.float32), np.ones_like(means)
    m = triptych.marginal(triptych.GaussianMixture(components, covariance="diagonal"))
    enumerated = enum(config_enumerate(diagonal_program), first_available_dim=-2)
    own = jax.jit(jax.value_and_grad(lambda theta: m.log_density(theta, x)))
    other = jax.jit(jax.value_and_grad(lambda theta: log_density(enumerated, (x, components), {}, theta)[0]))
    mine = {"weights": weights, "means": means, "covariances": variances}
    theirs = {"weights": weights, "means": means, "variances": variances}
    # The priors differ; the likelihood's part of the gradient is theirs and ours.
    one, two = own(mine)[1]["covariances"], other(theirs)[1]["variances"]
    gap = float(np.max(np.abs(np.asarray(one - two))) / np.max(np.abs(np.asarray(two))))

    def timed(function: Any, theta: Any) -> float:
        return seconds(lambda: [jax.block_until_ready(function(theta)) for _ in range(5)]) / 5

    medians = alternate(lambda: timed(own, mine), lambda: timed(other, theirs), rounds)
    said = f"gradients by variance within {gap:.0e} of the largest (priors differ)"
    what = f"diagonal mixture {size_of(*size)}"
    return [
        Row(
            GROUP,
            what,
            "NumPyro enumerated",
            1e3 * medians[0],
            1e3 * medians[1],
            medians[2],
            "ms",
            said,
            target,
            "float32",
        )
    ]


def of_regression(rows: int, rounds: Rounds) -> list[Row]:
    """Compare the gradient that a leapfrog step of NUTS takes for a regression with that of the program."""
    from triptych.inference.starts import target

    generator = np.random.default_rng(0)
    X = generator.normal(size=(rows, 10))
    y = X @ np.ones(10) + generator.normal(size=rows)
    with jax.enable_x64(True):
        m = triptych.marginal(triptych.BayesianLinearRegression())
        ours = target(m, (X, y), {})
        theirs = jax.jit(jax.value_and_grad(ours.space.density(lambda theta: m.log_density(theta, X, y))))
        u = jnp.zeros(ours.space.size)
        gap = float(np.max(np.abs(ours.value_and_grad(u)[1] - theirs(u)[1])) / np.max(np.abs(theirs(u)[1])))

        def timed(function: Any) -> float:
            return seconds(lambda: [jax.block_until_ready(function(u)) for _ in range(20)]) / 20

        own, other, ratios = alternate(lambda: timed(ours.value_and_grad), lambda: timed(theirs), rounds)
    said = f"gradients within {gap:.0e}; ours should not grow with the rows"
    name = f"regression {size_of(rows, 10)}"
    peer = "the program's own density"
    return [Row(GROUP, name, peer, 1e3 * own, 1e3 * other, ratios, "ms", said, None, "float64")]
