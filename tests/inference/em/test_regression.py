"""Evidence maximisation of a linear regression: three ways, one optimum, and scikit-learn's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.stats import gamma, multivariate_normal
from sklearn.linear_model import BayesianRidge

from triptych.inference.em import EM
from triptych.inference.em.regression import STEPS
from triptych.models import BayesianLinearRegression


def data(seed: int = 0, rows: int = 60, columns: int = 5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, columns)) * np.array([1.0, 2.0, 0.5, 1.0, 3.0]) + 4.0
    return X, X @ generator.normal(size=columns) + 10.0 + generator.normal(size=rows) * 1.5


def log_evidence(X: np.ndarray, y: np.ndarray, precision: float, noise: float) -> float:
    """N(y − ȳ; 0, β⁻¹ I + λ⁻¹ X Xᵀ), X centred: the definition, with no decomposition."""
    X, y = X - X.mean(axis=0), y - y.mean()
    return multivariate_normal(np.zeros(len(y)), np.eye(len(y)) / noise + X @ X.T / precision).logpdf(y)


def test_the_evidence_is_the_gaussian_it_is_defined_by() -> None:
    X, y = data()
    em = EM(BayesianLinearRegression(), objective="mle")
    for precision, noise in ((0.1, 2.0), (3.0, 0.2)):
        kernel = em.bind(X, y)
        (review,) = kernel.review({"lambda": np.array([precision]), "beta": np.array([noise])})
        assert review.log_likelihood == pytest.approx(log_evidence(X, y, precision, noise), rel=1e-10)


def test_one_em_step_is_the_textbook_formula() -> None:
    X, y = data()
    X, y = X - X.mean(axis=0), y - y.mean()
    em = EM(BayesianLinearRegression(intercept=False), objective="mle")
    kernel = em.bind(X, y)
    precision, noise = 0.7, 0.3
    following, _, _ = kernel.problem.step({"lambda": np.float64(precision), "beta": np.float64(noise)})
    Sigma = np.linalg.inv(precision * np.eye(5) + noise * X.T @ X)
    mu = noise * Sigma @ X.T @ y
    assert float(following["lambda"]) == pytest.approx(5 / (mu @ mu + np.trace(Sigma)), rel=1e-10)
    expected = len(y) / (np.sum((y - X @ mu) ** 2) + np.trace(X @ Sigma @ X.T))
    assert float(following["beta"]) == pytest.approx(expected, rel=1e-10)
    mean, covariance = kernel.weights_posterior(precision, noise)
    np.testing.assert_allclose(mean, mu, rtol=1e-10)
    np.testing.assert_allclose(covariance, Sigma, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["mle", "map"])
def test_the_three_ways_meet_where_the_gradient_vanishes(objective: str) -> None:
    X, y = data()
    model = BayesianLinearRegression()
    fits = {
        update: EM(model, objective=objective, update=update, tol=1e-12, draws=0).run(jax.random.key(0), X, y)
        for update in STEPS
    }
    for fit in fits.values():
        assert fit.status.ok
        for name, value in fit.parameters.items():
            np.testing.assert_allclose(value, fits["em"].parameters[name], rtol=1e-4)
        assert np.all(np.diff(fit.objective) >= -1e-10 * np.abs(fit.objective[1:]))
        np.testing.assert_allclose(fit.objective[-1], fits["em"].objective[-1], atol=1e-8)
    precision, noise = (float(fits["gradient"].parameters[name]) for name in ("lambda", "beta"))

    def target(log_precision: float, log_noise: float) -> float:
        first, second = np.exp(log_precision), np.exp(log_noise)
        value = log_evidence(X, y, first, second)
        if objective == "map":
            prior = model.prior(X, y)
            value += gamma(prior.lambda_shape, scale=1 / prior.lambda_rate).logpdf(first)
            value += gamma(prior.beta_shape, scale=1 / prior.beta_rate).logpdf(second)
        return value

    u, v, h = np.log(precision), np.log(noise), 1e-4
    assert abs(target(u + h, v) - target(u - h, v)) / (2 * h) < 1e-4
    assert abs(target(u, v + h) - target(u, v - h)) / (2 * h) < 1e-4
    assert fits["gradient"].objective[-1] == pytest.approx(target(u, v), abs=1e-8)


def test_scikit_learn_reaches_the_same_optimum() -> None:
    X, y = data(2)
    fit = EM(BayesianLinearRegression(), objective="mle", tol=1e-12, draws=0).run(jax.random.key(0), X, y)
    peer = BayesianRidge(max_iter=10_000, tol=1e-13, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0).fit(X, y)
    np.testing.assert_allclose(fit.parameters["w"], peer.coef_, rtol=1e-5)
    assert float(fit.parameters["intercept"]) == pytest.approx(peer.intercept_, rel=1e-5)
    assert float(fit.parameters["beta"]) == pytest.approx(peer.alpha_, rel=1e-4)
    assert float(fit.parameters["lambda"]) == pytest.approx(peer.lambda_, rel=1e-4)


def test_a_weight_is_that_many_rows_and_units_do_not_matter() -> None:
    X, y = data(3)
    weight = np.random.default_rng(1).integers(1, 4, len(y))
    em = EM(BayesianLinearRegression(), objective="mle", tol=1e-12, draws=0)
    one = em.run(jax.random.key(0), X, y, sample_weight=weight)
    other = em.run(jax.random.key(0), np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-7)
    np.testing.assert_allclose(one.parameters["w"], other.parameters["w"], rtol=1e-6)
    em = EM(BayesianLinearRegression(), tol=1e-12, draws=0)
    plain, scaled = em.run(jax.random.key(0), X, y), em.run(jax.random.key(0), 1e-4 * X, 1e5 * y)
    np.testing.assert_allclose(scaled.parameters["w"], 1e9 * plain.parameters["w"], rtol=1e-5)
    assert float(scaled.parameters["beta"]) == pytest.approx(
        1e-10 * float(plain.parameters["beta"]), rel=1e-5
    )


def test_the_laplace_draws_have_the_moments_of_the_exact_posterior() -> None:
    """Quadrature over (log λ, log β) gives the exact posterior of w; the draws' mean is within its error."""
    X, y = data(4, rows=200)
    model = BayesianLinearRegression()
    fit = EM(model, draws=4000).run(jax.random.key(0), X, y)
    kernel, prior = EM(model).bind(X, y), model.prior(X, y)
    u = np.log(float(fit.parameters["lambda"])) + np.linspace(-5, 4, 60)
    v = np.log(float(fit.parameters["beta"])) + np.linspace(-0.6, 0.6, 41)
    log_weight, means, squares = [], [], []
    for precision in np.exp(u):
        reviews = kernel.review({"lambda": np.full(len(v), precision), "beta": np.exp(v)})
        for noise, review in zip(np.exp(v), reviews, strict=True):
            mean, covariance = kernel.weights_posterior(precision, noise)
            log_prior = gamma(prior.lambda_shape, scale=1 / prior.lambda_rate).logpdf(precision)
            log_prior += gamma(prior.beta_shape, scale=1 / prior.beta_rate).logpdf(noise)
            flat = -0.5 * np.log(noise)  # the intercept integrated over its flat prior
            log_weight.append(review.log_likelihood + log_prior + flat + np.log(precision * noise))
            means.append(mean)
            squares.append(np.diagonal(covariance) + mean**2)
    weights = np.exp(np.array(log_weight) - np.max(log_weight))
    weights /= weights.sum()
    mean, sd = weights @ means, np.sqrt(weights @ squares - (weights @ means) ** 2)
    draws = fit.data["posterior"]["w"].values[0]
    assert np.max(np.abs(draws.mean(axis=0) - mean) / sd) < 0.1
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.08)


def test_pure_noise_sends_lambda_to_its_bound_and_says_so() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(50, 3))
    y = generator.normal(size=50)
    y -= X @ np.linalg.lstsq(X, y, rcond=None)[0]
    with pytest.warns(UserWarning, match="WEIGHTS_VANISH"):
        EM(BayesianLinearRegression(), objective="mle", update="gradient", draws=0).run(
            jax.random.key(0), X, y
        )
