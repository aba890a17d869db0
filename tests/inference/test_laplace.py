"""Laplace: exact where the posterior is Gaussian, honest where there is no Gaussian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.stats import multivariate_normal

from triptych.inference import laplace as module
from triptych.inference.laplace import hessian, laplace, laplace_from_density
from triptych.inference.marginal import marginal
from triptych.inference.unconstrained import coordinates, element_names


def test_a_gaussian_is_exact_whatever_its_units(key):
    random = np.random.default_rng(0)
    root = random.normal(size=(5, 5))
    unit = 10.0 ** np.arange(-4, 6, 2)
    precision = (root @ root.T + np.eye(5)) / np.outer(unit, unit)
    mean = unit * random.normal(size=5)

    def log_density(theta):
        return -0.5 * (theta["a"] - mean) @ precision @ (theta["a"] - mean) - 3.0

    found = laplace_from_density(log_density, {"a": np.zeros(5)}, {"a": constraints.real_vector})
    np.testing.assert_allclose(found.mode, mean, rtol=1e-6, atol=1e-7 * unit.max())
    np.testing.assert_allclose(found.covariance, np.linalg.inv(precision), rtol=1e-6)
    expected = -3.0 + 2.5 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(precision)[1]
    assert found.log_evidence == pytest.approx(expected, abs=1e-6)
    assert found.findings == ()
    # log p − log q is the same number for every draw
    assert np.ptp(found.sample_stats(key, 20)["log_weight"]) < 1e-6


def test_the_evidence_of_a_conjugate_program():
    x = np.random.default_rng(0).normal(1.0, 2.0, size=20)

    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Normal(mu, 2.0), obs=x)

    found = laplace(marginal(program), {"mu": np.zeros(())}, (x,))
    exact = multivariate_normal(np.zeros(20), 4 * np.eye(20) + 9.0).logpdf(x)
    assert found.log_evidence == pytest.approx(exact, abs=1e-8)
    precision = 1 / 9 + 20 / 4
    assert found.mode[0] == pytest.approx(x.sum() / 4 / precision, abs=1e-8)
    assert found.covariance[0, 0] == pytest.approx(1 / precision, rel=1e-8)
    information = laplace(marginal(program), {"mu": np.array(x.mean())}, (x,), objective="mle")
    assert information.covariance[0, 0] == pytest.approx(4 / 20, rel=1e-8)
    assert information.log_evidence is None


def test_the_mode_of_a_gamma_is_that_of_its_logarithm(key):
    # s ~ Gamma(4, 2): the density of log s peaks at s = 4/2 with curvature 4.
    found = laplace_from_density(
        lambda theta: 3 * jnp.log(theta["s"]) - 2 * theta["s"],
        {"s": np.array(0.1)},
        {"s": constraints.positive},
    )
    assert found.parameters["s"] == pytest.approx(2.0, rel=1e-6)
    assert found.covariance[0, 0] == pytest.approx(0.25, rel=1e-5)
    draws = found.draws(key, 4000)["s"]
    assert draws.shape == (1, 4000)
    assert np.std(np.log(draws)) == pytest.approx(0.5, rel=0.05)


def test_directions_without_curvature_are_named_and_left_out():
    found = laplace_from_density(
        lambda theta: -0.5 * (theta["a"][0] + theta["a"][1] - 1) ** 2 - 0.5 * theta["a"][2] ** 2,
        {"a": np.zeros(3)},
        {"a": constraints.real_vector},
    )
    assert [finding.code for finding in found.findings] == ["LAPLACE_NOT_IDENTIFIED"]
    assert "a[0]" in found.findings[0].text
    assert "a[1]" in found.findings[0].text
    assert found.factor.shape == (3, 2)
    assert found.log_evidence is None


def test_an_estimate_on_the_edge_has_no_standard_error(key):
    def log_likelihood(theta):
        return 10 * jnp.log(theta["p"][0] + 1e-300) + 5 * jnp.log(theta["p"][1] * (1 - theta["p"][1]))

    found = laplace_from_density(
        log_likelihood, {"p": np.array([1.0, 0.5])}, {"p": constraints.unit_interval}, objective="mle"
    )
    assert [finding.code for finding in found.findings] == ["LAPLACE_EDGE"]
    assert "p[0]" in found.findings[0].text
    draws = found.draws(key, 50)["p"][0]
    np.testing.assert_allclose(draws[:, 0], 1.0, atol=1e-10)
    assert draws[:, 1].std() > 0.05


def test_a_saddle_is_not_called_a_maximum():
    found = laplace_from_density(
        lambda theta: theta["a"][0] ** 2 - theta["a"][1] ** 2,
        {"a": np.zeros(2)},
        {"a": constraints.real_vector},
        objective="mle",
    )
    codes = [finding.code for finding in found.findings]
    assert codes
    assert all(code.startswith("LAPLACE") for code in codes)


def test_too_many_coordinates_are_refused_in_words(key, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_HESSIAN", 2)
    found = laplace_from_density(
        lambda theta: -jnp.sum(theta["a"] ** 2), {"a": np.zeros(3)}, {"a": constraints.real_vector}
    )
    assert [finding.code for finding in found.findings] == ["LAPLACE_SKIPPED"]
    assert found.draws(key, 10)["a"].shape == (1, 1, 3)


@pytest.mark.parametrize("size", [1, 31, 40])
def test_the_hessian_in_batches(size):
    root = np.random.default_rng(0).normal(size=(size, size))

    def function(u):
        return jnp.sum(jnp.sin(root @ u))

    u = jnp.asarray(np.random.default_rng(1).normal(size=size))
    np.testing.assert_allclose(hessian(function, u), jax.hessian(function)(u), atol=1e-10)


def test_coordinates_go_there_and_back():
    parameters = {
        "w": np.array([0.2, 0.5, 0.3]),
        "S": np.array([[[2.0, 0.3], [0.3, 1.0]], [[1.0, 0.0], [0.0, 3.0]]]),
        "m": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "b": np.array(0.7),
    }
    supports = {
        "w": constraints.simplex,
        "S": constraints.positive_definite,
        "m": constraints.real_vector,
        "b": constraints.positive,
    }
    space = coordinates({site: (value.shape, supports[site]) for site, value in parameters.items()})
    assert space.size == 2 + 6 + 4 + 1
    assert len(space.names) == space.size
    assert space.real.sum() == 4
    u = space.unconstrain(parameters)
    back = space.constrain(u)
    for site, value in parameters.items():
        np.testing.assert_allclose(back[site], value, rtol=1e-10)
    # the log-Jacobian of log b ↦ b is log b, of m ↦ m is 0
    alone = coordinates({"m": ((2, 2), constraints.real_vector), "b": ((), constraints.positive)})
    point = alone.unconstrain(parameters)
    assert float(alone.log_jacobian(point)) == pytest.approx(np.log(0.7))


def test_elements_are_named_by_index():
    assert element_names("beta", ()) == ["beta"]
    assert element_names("means", (1, 2)) == ["means[0,0]", "means[0,1]"]
