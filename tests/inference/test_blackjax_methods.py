"""Pathfinder and many-chain ChEES, BlackJAX's, against a posterior known in closed form."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

from triptych.inference.chees import ChEES
from triptych.inference.mcmc import MCMC
from triptych.inference.pathfinder import Pathfinder, resampled
from triptych.inference.posterior import draws
from triptych.inference.status import Status
from triptych.models import GaussianMixture, InferenceWarning, InputError


def regression(X, y):
    w = numpyro.sample("w", dist.Normal(0, 2.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(X)):
        numpyro.sample("y", dist.Normal(jnp.asarray(X) @ w, 0.5), obs=y)


RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(30, 3)) @ [[1, 0.9, 0], [0, 0.3, 0], [0, 0, 5.0]]
Y = X @ [1.0, -2.0, 0.3] + 0.5 * RANDOM.normal(size=30)
COVARIANCE = np.linalg.inv(np.eye(3) / 4 + X.T @ X / 0.25)
MEAN = COVARIANCE @ X.T @ Y / 0.25
EVIDENCE = multivariate_normal.logpdf(Y, np.zeros(30), 4 * X @ X.T + 0.25 * np.eye(30))


@pytest.mark.parametrize(
    "method", [Pathfinder(regression, paths=3), ChEES(regression, warmup=200, draws=100)]
)
def test_a_gaussian_posterior_is_found(method, key):
    fit = method.run(key, X, Y)
    assert (fit.method, fit.status) == (method.method, Status.CONVERGED)
    w = draws(fit)["w"].reshape(-1, 3)
    sd = np.sqrt(np.diag(COVARIANCE))
    np.testing.assert_allclose((w.mean(0) - MEAN) / sd, 0, atol=0.15)
    np.testing.assert_allclose(np.cov(w.T) / np.outer(sd, sd), COVARIANCE / np.outer(sd, sd), atol=0.2)
    error = fit.evidence.standard_error
    assert error is not None
    assert fit.evidence.log_evidence == pytest.approx(EVIDENCE, abs=4 * error + 1e-3)
    assert fit.evidence.elbo is None or fit.evidence.elbo < EVIDENCE + 4 * error


def test_resampling_follows_the_weights(key):
    jitter = 0.01 * np.random.default_rng(0).normal(size=10_000)
    log_weights = np.log(np.r_[np.full(5000, 1.0), np.full(5000, 3.0)]) + jitter
    chosen = resampled(key, log_weights, 400)
    assert len(set(chosen.tolist())) == 400
    assert np.mean(chosen >= 5000) == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 400))


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="`paths`"):
        Pathfinder(regression, paths=0)
    with pytest.raises(InputError, match="`chains`"):
        ChEES(regression, chains=1)


@pytest.mark.slow
def test_a_mixture_agrees_with_nuts(key, faithful):
    model = GaussianMixture(2, covariance="diagonal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        nuts, chees, paths = (method(model).run(key, faithful) for method in (MCMC, ChEES, Pathfinder))
    assert chees.status is Status.CONVERGED
    sd = np.sort(draws(nuts)["means"], axis=2).std((0, 1))
    for fit, most in ((chees, 0.15), (paths, 0.3)):
        found = np.sort(fit.parameters["means"], axis=0)
        shift = (found - np.sort(nuts.parameters["means"], axis=0)) / sd
        assert np.max(np.abs(shift)) < most
        assert fit.evidence.routes[0].nats == pytest.approx(nuts.evidence.log_evidence, abs=0.1)
