"""The coordinates that NUTS learns, against covariances that are known."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from triptych.inference.marginal import marginal
from triptych.inference.mcmc import MCMC, sample
from triptych.inference.precision import double_precision
from triptych.inference.starts import best_of_climbs
from triptych.inference.warmup import PRIOR_DRAWS, placed, pulled, rounder, solved, turning_points


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def test_rounder_is_the_pooled_covariance_within_chains_pulled_to_the_identity():
    # Means of chains that are far apart do not count.
    z = random(3, 40, 2) @ np.array([[2.0, 0.0], [1.0, 0.5]]) + 1e3 * random(3, 1, 2)
    within = sum(np.cov(chain.T, bias=True) * 40 for chain in z) / (3 * 40 - 3)
    expected = (120 * within + PRIOR_DRAWS * np.eye(2)) / (120 + PRIOR_DRAWS)
    root = rounder(z, True)
    np.testing.assert_allclose(root @ root.T, expected, rtol=1e-9)
    assert root[0, 1] == 0
    np.testing.assert_allclose(rounder(z, False) ** 2, np.diag(expected), rtol=1e-9)


@pytest.mark.parametrize("far", [np.inf, 1e200])
@pytest.mark.parametrize("dense", [True, False])
def test_draws_that_cannot_say_leave_the_coordinates_alone(dense, far):
    z = random(2, 10, 3)
    z[0, 3, 1] = far
    np.testing.assert_array_equal(rounder(z, dense), np.eye(3) if dense else np.ones(3))


@pytest.mark.parametrize("root", [np.tril(random(3, 3)) + 2 * np.eye(3), np.array([0.1, 1.0, 20.0])])
def test_places_come_back_and_gradients_follow(root):
    z, step, gradient = random(4, 3), random(4, 3), random(4, 3)
    np.testing.assert_allclose(solved(root, placed(root, z)), z, rtol=1e-10)
    # dV = g · du = (Lᵀ g) · dz
    du = placed(root, z + step) - placed(root, z)
    np.testing.assert_allclose(np.sum(pulled(root, gradient) * step, 1), np.sum(gradient * du, 1), rtol=1e-10)


def test_the_turning_points_are_where_the_step_size_begins_anew():
    assert list(turning_points(1000, 50)) == [100, 150, 250, 450, 950]
    assert turning_points(1000, 50)[450] == slice(250, 450)
    assert list(turning_points(300, 50)) == [100, 150, 250]
    # Windows end within a block: those seen by the block before, if it has any of the window's.
    assert turning_points(50, 10) == {40: slice(7, 45)}
    assert turning_points(20, 20) == {}
    assert turning_points(1, 1) == {}


def far_from_round(scale):
    covariance = np.array([[1.0, 0.99 * scale], [0.99 * scale, scale**2]])
    numpyro.sample("x", dist.MultivariateNormal(np.zeros(2), covariance))


@pytest.mark.parametrize("chain_method", ["vectorized", "sequential"])
def test_a_start_that_knows_no_scale_ends_up_in_round_coordinates(key, chain_method):
    scale = 1e3
    m = marginal(far_from_round)
    with double_precision():
        start = best_of_climbs(key, m, (scale,), {})
        start = dataclasses.replace(start, factor=None, scale=np.array([1.0, 1.0]))
        settings = MCMC(far_from_round, warmup=500, draws=500, chains=2, chain_method=chain_method)
        keys = jax.random.split(key)
        walked = sample(settings, start, keys[0], keys[1], None)
    # In the coordinates of the start the posterior is some thousand times as long as wide.
    assert walked.statistics["n_steps"].mean() < 8
    found = np.cov(walked.u.reshape(-1, 2).T)
    np.testing.assert_allclose(np.sqrt(np.diag(found)), [1.0, scale], rtol=0.15)
    assert found[0, 1] / np.sqrt(found[0, 0] * found[1, 1]) == pytest.approx(0.99, abs=0.005)
