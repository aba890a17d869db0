"""Densities from sufficient statistics are those of the program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import triptych
from triptych.inference.sufficient import log_joint, regression_log_joint


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("rows", "shift"), [(60, 0.0), (60, 1e4), (3, 0.0)])
def test_a_regression_has_the_programs_density_and_gradient(intercept: bool, rows: int, shift: float) -> None:
    model = triptych.BayesianLinearRegression(intercept=intercept)
    random = np.random.default_rng(0)
    X = random.normal(size=(rows, 4)) * [1.0, 10.0, 0.1, 1.0] + shift
    y = X @ [1.0, 0.1, 3.0, 0.0] + random.normal(size=rows)
    theta = {
        "w": jnp.asarray(random.normal(size=4)),
        "lambda": jnp.asarray(0.7),
        "beta": jnp.asarray(1.3),
    } | ({"intercept": jnp.asarray(0.4)} if intercept else {})
    m = triptych.marginal(model)
    own, peer = regression_log_joint(model, X, y), lambda t: m.log_density(t, X, y)
    np.testing.assert_allclose(own(theta), peer(theta), rtol=1e-11)
    mine, theirs = jax.grad(own)(theta), jax.grad(peer)(theta)
    for site, value in theirs.items():
        np.testing.assert_allclose(mine[site], value, rtol=1e-8, atol=1e-8)


def test_traced_data_and_other_programs_keep_their_own_density() -> None:
    m = triptych.marginal(triptych.BayesianLinearRegression())
    X, y = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9.0)
    theta = {"w": jnp.ones(2), "lambda": jnp.ones(()), "beta": jnp.ones(()), "intercept": jnp.zeros(())}

    def traced(y: jax.Array) -> jax.Array:
        return log_joint(m, (X, y), {})(theta)

    np.testing.assert_allclose(jax.jit(traced)(y), log_joint(m, (X, y), {})(theta), rtol=1e-12)
