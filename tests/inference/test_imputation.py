"""Imputed cells against regression formulas, against draws, and under SVI's and MCMC's draws."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import triptych
from triptych.inference.fit import Fit, Seconds
from triptych.inference.imputation import impute
from triptych.inference.posterior import build
from triptych.inference.status import Status
from triptych.models import GaussianMixture, InputError

K, D = 2, 3


def table() -> np.ndarray:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(20, D)) @ generator.normal(size=(D, D)) + 100.0
    x[generator.random(x.shape) < 0.3] = np.nan
    x[0], x[1] = np.nan, 100.0
    return x


def parameters(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(K, D, D))
    covariances = factor @ np.swapaxes(factor, 1, 2) + 0.5 * np.eye(D)
    means = 100.0 + 2.0 * generator.normal(size=(K, D))
    return {"weights": np.array([0.4, 0.6]), "means": means, "covariances": covariances}


def made(method: str, *points: dict[str, np.ndarray], model: Any = None) -> Fit:
    """A fit whose posterior draws are the points given."""
    posterior = {site: np.stack([point[site] for point in points])[None] for site in points[0]}
    return Fit(
        method=method,
        model=model or GaussianMixture(K, missing=True),
        status=Status.CONVERGED,
        seconds=Seconds(0.0, 0.0),
        parameters=points[0],
        log_likelihood=0.0,
        objective=np.zeros(0),
        data=build(posterior),
    )


def by_hand(row: np.ndarray, theta: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and second moment of a row's cells given those observed, component by component."""
    o, m = ~np.isnan(row), np.isnan(row)
    log_weights, means, squares = np.log(theta["weights"]), [], []
    for k in range(K):
        mean, covariance = theta["means"][k], theta["covariances"][k]
        if o.any():
            log_weights[k] += multivariate_normal(mean[o], covariance[np.ix_(o, o)]).logpdf(row[o])
        slope = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
        guess, variance = row.copy(), np.zeros(D)
        guess[m] = mean[m] + slope @ (row[o] - mean[o])
        variance[m] = np.diagonal(covariance[np.ix_(m, m)] - slope @ covariance[np.ix_(o, m)])
        means.append(guess)
        squares.append(guess**2 + variance)
    r = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    return r @ np.stack(means), r @ np.stack(squares)


def test_mean_and_sd_are_those_of_regression_by_component_and_draw() -> None:
    x, points = table(), (parameters(0), parameters(1), parameters(2))
    moments = np.array([[by_hand(row, theta) for theta in points] for row in x]).mean(axis=1)
    found = impute(made("mcmc", *points), x)
    np.testing.assert_allclose(found.mean, moments[:, 0], rtol=1e-10)
    np.testing.assert_allclose(
        found.sd, np.sqrt(np.maximum(moments[:, 1] - moments[:, 0] ** 2, 0)), atol=1e-5
    )
    observed = ~np.isnan(x)
    np.testing.assert_array_equal(found.mean[observed], x[observed])
    assert np.all(found.sd[observed] == 0)
    assert np.all(found.sd[~observed] > 0)
    # EM has one point, whatever draws are around it; a model that saw no gap imputes as well.
    alone = impute(made("em", *points, model=GaussianMixture(K)), x)
    expected = np.array([by_hand(row, points[0])[0] for row in x])
    np.testing.assert_allclose(alone.mean, expected, rtol=1e-10)


def test_draws_have_the_mean_and_sd_that_are_said() -> None:
    x, fit = table(), made("mcmc", parameters(0), parameters(1))
    found = impute(fit, x, draws=4000, key=jax.random.key(0))
    assert found.draws is not None
    observed = ~np.isnan(x)
    np.testing.assert_array_equal(
        found.draws[:, observed], np.broadcast_to(x[observed], (4000, observed.sum()))
    )
    error = (found.draws.mean(axis=0) - found.mean)[~observed] / found.sd[~observed]
    assert np.max(np.abs(error)) < 4.5 / np.sqrt(4000)
    np.testing.assert_allclose(found.draws.std(axis=0)[~observed], found.sd[~observed], rtol=0.12)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "tied"])
def test_the_other_covariances_are_special_cases_of_full(covariance: str) -> None:
    x, theta = table(), parameters(3)
    variances = np.diagonal(theta["covariances"], axis1=1, axis2=2)
    value = {"spherical": variances[:, 0], "diagonal": variances, "tied": theta["covariances"][0]}[covariance]
    matrix = np.stack([value] * K) if covariance == "tied" else value.reshape(K, -1, 1) * np.eye(D)
    model = GaussianMixture(K, covariance, missing=True)
    one = impute(made("em", theta | {"covariances": value}, model=model), x)
    other = impute(made("em", theta | {"covariances": matrix}), x)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12)
    np.testing.assert_allclose(one.sd, other.sd, atol=1e-6)


@pytest.mark.slow
def test_labels_say_which_component_fills_in_and_the_fit_keeps_its_rows() -> None:
    x = table()
    fit = triptych.EM(GaussianMixture(1, missing=True), draws=20).run(jax.random.key(0), x, z=np.zeros(20))
    np.testing.assert_allclose(triptych.impute(fit).mean, triptych.impute(fit, x).mean)
    theta = parameters(4)
    found = impute(made("em", theta), x, np.ones(len(x)))
    alone = dataclasses.replace(GaussianMixture(1), missing=True)
    single = {"weights": np.ones(1), "means": theta["means"][1:], "covariances": theta["covariances"][1:]}
    np.testing.assert_allclose(found.mean, impute(made("em", single, model=alone), x).mean, rtol=1e-12)


def test_what_cannot_be_imputed_is_said() -> None:
    fit = made("em", parameters(0))
    with pytest.raises(InputError, match="`draws` needs a random `key`"):
        impute(fit, table(), draws=3)
    with pytest.raises(InputError, match="`x` has 2 columns, and the model was fitted to 3"):
        impute(fit, table()[:, :2])
    with pytest.raises(InputError, match="did not keep its data"):
        impute(fit)
    with pytest.raises(InputError, match="this fit is of test_what_cannot"):
        impute(dataclasses.replace(fit, model=test_what_cannot_be_imputed_is_said), table())
