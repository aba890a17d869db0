"""Derived EM over continuous latents: the certificate, and closed forms of regression, PPCA and effects."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from triptych.inference.em import EM
from triptych.inference.em.degree import degree_in
from triptych.inference.em.derived import derive
from triptych.inference.em.kernel import Call
from triptych.models import BayesianLinearRegression, InputError


def line(X: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(X @ w, s), obs=y)


def students(X: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.StudentT(3.0, X @ w, 1.0), obs=y)


def rectified(X: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(jnp.where(X @ w > 0, X @ w, 0.1 * (X @ w)), 1.0), obs=y)


@pytest.mark.parametrize(
    ("program", "others", "degree", "culprit"),
    [(line, {"s": 1.0}, 2.0, ""), (students, {}, np.inf, "pow"), (rectified, {}, np.inf, "select_n")],
)
def test_the_degree_is_proved_and_its_breaker_named(
    program: Any, others: dict, degree: float, culprit: str
) -> None:
    X = np.random.default_rng(0).normal(size=(8, 3))
    found = degree_in(lambda w: log_density(program, (X, X.sum(1)), {}, {"w": w, **others})[0], jnp.ones(3))
    assert found.degree == degree
    assert culprit in found.culprit


def test_degrees_add_and_compose() -> None:
    x = jnp.ones(3)
    assert degree_in(lambda u: jnp.sum(u**3), x).degree == 3
    assert degree_in(lambda u: jnp.sum(u * jnp.sum(u)), x).degree == 2
    assert degree_in(lambda u: jnp.dot(u, jnp.exp(jnp.arange(3.0))), x).degree == 1
    assert degree_in(lambda u: jnp.sum(1.0 / u), x).degree == np.inf
    assert degree_in(lambda u: jax.jit(jnp.square)(u[0]) + u[1] / 2, x).degree == 2
    assert degree_in(lambda u: jnp.sum(jnp.where(jnp.isfinite(u), u, -jnp.inf)), x).degree == 1


def test_regression_derived_equals_the_hand_written() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40, 4))
    y = X @ generator.normal(size=4) + generator.normal(size=40)
    for objective in ("mle", "map"):
        model = BayesianLinearRegression(intercept=False)
        hand = EM(model, objective=objective).bind(X, y)
        derived = derive(model, Call((X, y), {}, None, objective, "em", ("w",)))
        one = other = {"lambda": jnp.asarray(0.7), "beta": jnp.asarray(2.0)}
        step = jax.jit(lambda problem, theta: problem.step(theta)[:2])
        for _ in range(4):
            one, first = step(hand.problem, one)
            other, second = step(derived.problem, other)
            assert float(second) == pytest.approx(float(first), abs=1e-8)
            for name in one:
                assert float(other[name]) == pytest.approx(float(one[name]), rel=1e-8)
        mean, covariance = hand.weights_posterior(one["lambda"], one["beta"])
        np.testing.assert_allclose(derived.outward(other)["w"], mean, rtol=1e-8)
        completions, _ = jax.jit(derived.problem.shape.e_step.infer)(other, (X, y), {})
        spread = np.cov(completions.values["w"][0].T, bias=True)
        np.testing.assert_allclose(spread, covariance, rtol=1e-7, atol=1e-12)


def principal_components(y: Any) -> None:
    columns = y.shape[1]
    flat = dist.ImproperUniform(dist.constraints.real, (), (columns, 2))
    loadings = numpyro.sample("loadings", flat)
    noise = numpyro.sample("noise", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate("rows", len(y)):
        scores = numpyro.sample("scores", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(scores @ loadings.T, jnp.sqrt(noise)).to_event(1), obs=y)


def test_ppca_reaches_its_closed_form_optimum(key: jax.Array) -> None:
    """Tipping & Bishop 1999: noise = mean of the discarded eigenvalues, likelihood from the spectrum."""
    generator = np.random.default_rng(0)
    y = generator.normal(size=(150, 2)) @ generator.normal(size=(2, 4))
    y += 0.5 * generator.normal(size=(150, 4))
    y -= y.mean(axis=0)
    em = EM(principal_components, latents=("scores",), objective="mle", restarts=2, draws=0, tol=1e-9)
    fit = em.run(key, y)
    values = np.linalg.eigvalsh(np.cov(y.T, bias=True))[::-1]
    noise = values[2:].mean()
    exact = -75 * (4 * np.log(2 * np.pi) + np.log(values[:2]).sum() + 2 * np.log(noise) + 4)
    assert fit.log_likelihood == pytest.approx(exact, abs=1e-6)
    assert float(fit.parameters["noise"]) == pytest.approx(noise, rel=1e-4)
    covariance = fit.parameters["loadings"] @ fit.parameters["loadings"].T + noise * np.eye(4)
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance)[::-1][:2], values[:2], rtol=1e-3)
    assert fit.parameters["scores"].shape == (150, 2)
    assert np.all(np.diff(fit.objective) >= -1e-8)


def effects(days: Any, subject: Any, y: Any) -> None:
    level = numpyro.sample("level", dist.ImproperUniform(dist.constraints.real, (), ()))
    slope = numpyro.sample("slope", dist.ImproperUniform(dist.constraints.real, (), ()))
    between = numpyro.sample("between", dist.ImproperUniform(dist.constraints.positive, (), ()))
    within = numpyro.sample("within", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate("subjects", 6):
        effect = numpyro.sample("effect", dist.Normal(0.0, jnp.sqrt(between)))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(level + slope * days + effect[subject], jnp.sqrt(within)), obs=y)


def test_a_random_effect_is_found_by_itself_and_its_variances_are_the_ml_ones(key: jax.Array) -> None:
    generator = np.random.default_rng(1)
    subject, days = np.repeat(np.arange(6), 8), np.tile(np.arange(8.0), 6)
    y = 5 + 2 * days + 3 * generator.normal(size=6)[subject] + generator.normal(size=48)
    fit = EM(effects, objective="mle", restarts=2, draws=0, tol=1e-10).run(key, days, subject, y)
    assert fit.parameters["effect"].shape == (6,)
    same = (subject[:, None] == subject).astype(float)

    def loss(u: np.ndarray) -> float:
        covariance = np.exp(u[2]) * same + np.exp(u[3]) * np.eye(48)
        return -multivariate_normal(u[0] + u[1] * days, covariance).logpdf(y)

    peer = minimize(loss, np.array([5.0, 2.0, 2.0, 0.0]), tol=1e-10)
    assert fit.log_likelihood == pytest.approx(-peer.fun, abs=1e-5)
    assert float(fit.parameters["between"]) == pytest.approx(np.exp(peer.x[2]), rel=1e-2)
    assert float(fit.parameters["within"]) == pytest.approx(np.exp(peer.x[3]), rel=1e-2)


def test_a_latent_that_is_not_gaussian_is_refused_by_name(key: jax.Array) -> None:
    X = np.random.default_rng(0).normal(size=(8, 3))

    def robust(X: Any, y: Any) -> None:
        w = numpyro.sample("w", dist.Normal(0, 1).expand([3]).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.StudentT(3.0, X @ w, s), obs=y)

    with pytest.raises(InputError, match=r"'w'.*pow"):
        EM(robust, latents=("w",)).run(key, X, X.sum(1))
    with pytest.raises(InputError, match="'v'"):
        EM(robust, latents=("v",)).run(key, X, X.sum(1))


def test_explain_says_what_each_site_is() -> None:
    X = np.random.default_rng(0).normal(size=(20, 3))
    text = str(EM(BayesianLinearRegression(intercept=False), latents=("w",)).explain(X, X.sum(1)))
    for said in ("w", "exact Gaussian", "lambda", "closed form", "log x, x", "observed"):
        assert said in text
