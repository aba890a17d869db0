"""Laplace and batch-and-match: exact where the posterior is Gaussian, and honest where it is not."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.tree_util import Partial
from scipy.stats import multivariate_normal

from triptych.inference.batch_and_match import BatchAndMatch
from triptych.inference.laplace_method import Laplace
from triptych.inference.matching import match, matched_step
from triptych.inference.posterior import draws
from triptych.inference.status import Status
from triptych.models import InferenceWarning, InputError


def regression(X, y):
    """A regression at fixed precisions: the posterior is Gaussian, and the evidence is known."""
    w = numpyro.sample("w", dist.Normal(0, 2.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(jnp.asarray(X) @ w, 0.5), obs=y)


@pytest.fixture(scope="module")
def exact():
    """Correlated columns; the posterior's mean and covariance, and log p(y)."""
    random = np.random.default_rng(0)
    X = random.normal(size=(30, 3)) @ [[1, 0.9, 0], [0, 0.3, 0], [0, 0, 5.0]]
    y = X @ [1.0, -2.0, 0.3] + 0.5 * random.normal(size=30)
    covariance = np.linalg.inv(np.eye(3) / 4 + X.T @ X / 0.25)
    mean = covariance @ X.T @ y / 0.25
    evidence = multivariate_normal.logpdf(y, np.zeros(30), 4 * X @ X.T + 0.25 * np.eye(30))
    return X, y, mean, covariance, evidence


def test_laplace_is_exact_for_a_gaussian_posterior(exact, key):
    X, y, mean, covariance, evidence = exact
    fit = Laplace(regression, draws=4000).run(key, X, y)
    assert (fit.method, fit.status) == ("laplace", Status.CONVERGED)
    assert fit.evidence.log_evidence == pytest.approx(evidence, abs=1e-6)
    assert fit.evidence.elbo == pytest.approx(evidence, abs=1e-6)
    w = draws(fit)["w"][0]
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((w.mean(0) - mean) / sd, 0, atol=4 / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(w.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.08)
    assert fit.settings == {"draws": 4000}


def test_laplace_says_where_there_is_no_mode(key):
    def slope(x):
        up = numpyro.sample("up", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("slope", 0.1 * up)
        numpyro.sample("x", dist.Normal(0, 1), obs=x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        fit = Laplace(slope, draws=5).run(key, 0.3)
    assert fit.status is Status.NO_MODE
    with pytest.raises(InputError, match="`draws`"):
        Laplace(regression, draws=0)
    with pytest.raises(InputError, match="no 'w'"):
        Laplace(regression).run(jax.random.key(0), np.eye(3), np.ones(3), parameters={})


def test_a_gaussian_target_is_recovered_from_beside_it(exact, key):
    _, _, mean, covariance, _ = exact
    precision = jnp.asarray(np.linalg.inv(covariance))

    def value_and_grad(z):
        offset = z - mean
        return -0.5 * offset @ precision @ offset, -precision @ offset

    sd = np.sqrt(np.diag(covariance))
    target, beside = Partial(value_and_grad), mean + 3 * sd
    found = match(key, target, beside, np.diag(4 * sd**2), batch=8, steps=400, tol=1e-9)
    assert found.converged
    np.testing.assert_allclose((found.mean - mean) / sd, 0, atol=1e-6)
    np.testing.assert_allclose(found.covariance / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=1e-6)
    # The target itself is a fixed point of the step, whatever the batch and the weight.
    points = np.random.default_rng(0).multivariate_normal(mean, covariance, size=5)
    scores = -(points - mean) @ precision
    for weight in (0.1, 10.0):
        following, spread = matched_step(jnp.asarray(mean), jnp.asarray(covariance), points, scores, weight)
        np.testing.assert_allclose(following, mean, atol=1e-9)
        np.testing.assert_allclose(spread, covariance, rtol=1e-8)


def test_batch_and_match_is_exact_for_a_gaussian_posterior(exact, key):
    X, y, mean, covariance, evidence = exact
    fit = BatchAndMatch(regression, draws=2000).run(key, X, y)
    assert (fit.method, fit.status) == ("batch_and_match", Status.CONVERGED)
    assert fit.evidence.elbo == pytest.approx(evidence, abs=1e-6)
    assert fit.evidence.log_evidence == pytest.approx(evidence, abs=1e-6)
    assert int(fit.data["optimization"]["gradients"]) == 8 * len(fit.objective) == 8 * 80
    w = draws(fit)["w"][0]
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((w.mean(0) - mean) / sd, 0, atol=4 / np.sqrt(2000))


def test_batch_and_match_says_that_the_steps_ran_out(key):
    def skewed(x):
        rate = numpyro.sample("rate", dist.Gamma(0.5, 1.0).expand([3]).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Poisson(rate[0] + 0.1 * rate[1]), obs=x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        fit = BatchAndMatch(skewed, steps=20, tol=1e-6).run(key, np.array([2, 1, 4]))
    assert fit.status is Status.STEP_LIMIT
    assert "has not settled" in next(f.text for f in fit.findings if f.code == "STEP_LIMIT")
    with pytest.raises(InputError, match="`batch`"):
        BatchAndMatch(regression, batch=1)
