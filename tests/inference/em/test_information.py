"""Standard errors, missing information and the slope left at an optimum, each had another way."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import logsumexp
from scipy.stats import norm

from triptych.inference.em import EM, Ascent
from triptych.inference.em.algorithm import EMState
from triptych.models import BayesianLinearRegression, GaussianMixture, InferenceWarning

X = np.concatenate(
    [np.random.default_rng(5).normal(size=80), 3.0 + 0.7 * np.random.default_rng(6).normal(size=60)]
)


def log_likelihood(u: np.ndarray) -> float:
    """Of a mixture of two normals at (logit share, means, log variances), by scipy."""
    share = 1 / (1 + np.exp(-u[0]))
    terms = [
        np.log(weight) + norm(u[1 + k], np.exp(0.5 * u[3 + k])).logpdf(X)
        for k, weight in enumerate((share, 1 - share))
    ]
    return float(np.sum(logsumexp(terms, axis=0)))


@pytest.fixture(scope="module")
def fit() -> Any:
    return EM(GaussianMixture(2, "spherical"), objective="mle", restarts=2, draws=20, tol=1e-10).run(
        jax.random.key(0), X[:, None]
    )


def test_standard_errors_are_those_of_a_finite_difference_hessian(fit: Any) -> None:
    theta = fit.parameters
    weights, means, variances = theta["weights"], theta["means"][:, 0], theta["covariances"]
    u = np.concatenate([[np.log(weights[0] / weights[1])], means, np.log(variances)])
    hessian = np.array(
        [approx_fprime(u, lambda v, i=i: approx_fprime(v, log_likelihood, 1e-5)[i], 1e-4) for i in range(5)]
    )
    errors = np.sqrt(np.diag(np.linalg.inv(-0.5 * (hessian + hessian.T))))
    found = fit.data["standard_errors"]
    np.testing.assert_allclose(found["weights"], errors[0] * weights[0] * weights[1] * np.ones(2), rtol=2e-3)
    np.testing.assert_allclose(found["means"][:, 0], errors[1:3], rtol=2e-3)
    np.testing.assert_allclose(found["covariances"], errors[3:] * variances, rtol=2e-3)
    assert float(fit.data["information"]["disagreement"]) < 1e-5
    assert float(fit.data["information"]["gain"]) < 1e-8


def test_the_largest_missing_fraction_is_the_rate_at_which_plain_em_converges(fit: Any) -> None:
    em = EM(GaussianMixture(2, "spherical"), objective="mle")
    moved = {name: np.array(value) for name, value in fit.parameters.items()}
    moved["means"] = moved["means"] + 0.02
    state, distances = EMState(moved), []
    for _ in range(14):
        state, _ = em.step(state, X[:, None])
        distances.append(np.linalg.norm(state.parameters["means"] - fit.parameters["means"]))
    rate = distances[-1] / distances[-2]
    assert float(fit.data["information"]["missing"][0]) == pytest.approx(rate, rel=1e-3)
    assert 0.0 < rate < 1.0


def test_a_regression_has_the_missing_information_of_its_em_map(key: jax.Array) -> None:
    generator = np.random.default_rng(7)
    X, y = generator.normal(size=(40, 3)), generator.normal(size=40)
    model = BayesianLinearRegression()
    fit = EM(model, draws=20, tol=1e-12).run(key, X, y)
    theta = np.array([fit.parameters["lambda"], fit.parameters["beta"]])

    def step(log_theta: np.ndarray, index: int) -> float:
        values = dict(zip(("lambda", "beta"), np.exp(log_theta), strict=True))
        state, _ = EM(model).step(EMState(values), X, y)
        return float(np.log(state.parameters[("lambda", "beta")[index]]))

    jacobian = np.array([approx_fprime(np.log(theta), step, 1e-6, i) for i in range(2)])
    missing = np.sort(np.linalg.eigvals(jacobian).real)[::-1]
    np.testing.assert_allclose(fit.data["information"]["missing"], missing, atol=1e-4)


def test_an_answer_that_is_not_a_maximum_says_so(key: jax.Array) -> None:
    start = {"weights": [0.5, 0.5], "means": [[0.2], [2.8]], "covariances": [1.0, 0.6]}
    em = EM(GaussianMixture(2, "spherical"), objective="mle", tol=50.0, draws=20)
    with pytest.warns(InferenceWarning, match="NOT_STATIONARY"):
        fit = em.run(key, X[:, None], parameters=start)
    assert "NOT_STATIONARY" in {finding.code for finding in fit.findings}


def test_gradient_ascent_comes_where_em_comes(fit: Any) -> None:
    ascent = Ascent(GaussianMixture(2, "spherical"), objective="mle", restarts=2, draws=0)
    other = ascent.run(jax.random.key(1), X[:, None])
    assert other.method == "ascent"
    assert other.status.ok
    assert other.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-6)
    assert np.all(np.diff(other.objective) >= -1e-9)
    assert other.settings == {
        "objective": "mle", "restarts": 2, "tol": 1e-6, "max_steps": 1000, "starts": "portfolio",
        "latents": None, "draws": 0,
    }  # fmt: skip
