"""EM derived for the shipped programs, against published optima and direct maximisation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import gammaln, logsumexp, xlogy
from scipy.stats import multivariate_normal, norm, poisson

from triptych.experiments.data import Data, load_data
from triptych.experiments.programs import load_model
from triptych.experiments.reading import read_experiment
from triptych.inference.em import EM
from triptych.inference.fit import Fit
from triptych.models.errors import InputError


def fitted(name: str, *overrides: str, fit: str = "em", **settings: Any) -> tuple[Fit, Data]:
    experiment = read_experiment(name, overrides)
    model = load_model(experiment.config.model, experiment.base)
    data = load_data(experiment.config, experiment.base, model)
    chosen = experiment.config.fits[fit].model_dump(exclude={"method"}) | {"draws": 0, **settings}
    found = EM(model, **chosen).run(jax.random.key(0), *data.args)
    assert found.status.ok
    assert np.all(np.diff(found.objective) >= -1e-8)
    return found, data


def test_death_notices_reach_the_published_optimum() -> None:
    """Hasselblad 1969: share 0.3599, rates 1.256 and 2.663, log-likelihood −1989.946."""
    fit, data = fitted("death_notices", restarts=2)
    assert data.x.shape == (1096, 1)
    order = np.argsort(fit.parameters["rate"])
    np.testing.assert_allclose(fit.parameters["rate"][order], [1.256, 2.663], atol=2e-3)
    np.testing.assert_allclose(fit.parameters["weights"][order], [0.3599, 0.6401], atol=2e-3)
    assert fit.log_likelihood == pytest.approx(-1989.946, abs=1e-3)


@pytest.mark.slow
def test_sleepstudy_has_the_maximum_likelihood_of_lme4() -> None:
    """Bates et al. 2015: sds 23.78 and 5.72, residual 25.59, correlation 0.08, log-likelihood −875.97."""
    fit, _ = fitted("sleepstudy", restarts=1)
    covariance = fit.parameters["covariance"]
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(sd, [23.78, 5.72], atol=0.01)
    assert covariance[0, 1] / sd.prod() == pytest.approx(0.081, abs=2e-3)
    assert np.sqrt(fit.parameters["noise"]) == pytest.approx(25.59, abs=0.01)
    np.testing.assert_allclose(fit.parameters["fixed"], [251.405, 10.467], atol=1e-2)
    assert fit.log_likelihood == pytest.approx(-875.97, abs=5e-3)
    assert fit.parameters["effect"].shape == (18, 2)


def test_attitude_has_the_closed_form_of_principal_components() -> None:
    """Tipping & Bishop 1999: noise is the mean of the discarded eigenvalues."""
    arguments = "model.arguments={factors: 2, own: false}"
    fit, data = fitted("attitude", arguments, objective="mle", restarts=2, tol=1e-8)
    n, d = data.x.shape
    values = np.linalg.eigvalsh(np.cov(data.x.T, bias=True))[::-1]
    noise = values[2:].mean()
    exact = -n / 2 * (d * np.log(2 * np.pi) + np.log(values[:2]).sum() + (d - 2) * np.log(noise) + d)
    assert fit.log_likelihood == pytest.approx(exact, abs=1e-6)
    assert float(fit.parameters["noise"]) == pytest.approx(noise, rel=1e-3)


@pytest.mark.slow
def test_attitude_has_the_factor_that_direct_maximisation_finds() -> None:
    fit, data = fitted("attitude", objective="mle", restarts=2, tol=1e-8)
    n, d = data.x.shape
    moments = data.x.T @ data.x

    def loss(u: np.ndarray) -> float:
        covariance = np.outer(u[:d], u[:d]) + np.diag(np.exp(u[d:]))
        fit_term = np.trace(np.linalg.solve(covariance, moments))
        return 0.5 * (n * np.linalg.slogdet(2 * np.pi * covariance)[1] + fit_term)

    peer = minimize(loss, np.concatenate([np.full(d, 0.6), np.full(d, -0.7)]), tol=1e-10)
    assert fit.log_likelihood == pytest.approx(-peer.fun, abs=1e-5)
    loadings = fit.parameters["loadings"][:, 0]
    np.testing.assert_allclose(loadings * np.sign(loadings[0]), peer.x[:d], atol=5e-3)
    independent = multivariate_normal(np.zeros(d), np.cov(data.x.T, bias=True)).logpdf(data.x).sum()
    assert fit.log_likelihood < independent


def test_tone_has_the_two_lines_of_the_literature() -> None:
    """De Veaux 1989; flexmix: a line near the octave, 1.92 + 0.04 x, and one with the stretch, y = x."""
    fit, _ = fitted("tone", restarts=3)
    order = np.argsort(fit.parameters["coefficients"][:, 1])
    expected = [[1.916, 0.043], [-0.019, 0.992]]
    np.testing.assert_allclose(fit.parameters["coefficients"][order], expected, atol=5e-3)
    np.testing.assert_allclose(fit.parameters["weights"][order], [0.70, 0.30], atol=0.02)


Table = Callable[[Any], np.ndarray]  # θ → log p(x_n, z_n = k), (N, K)


def climbed(table: Table, maximise: Callable[[np.ndarray], Any], start: np.ndarray) -> tuple[Any, float]:
    """EM in NumPy from responsibilities (N, K), to the end: θ and log p(x | θ)."""
    r, before, level = start, -np.inf, np.zeros(1)
    for _ in range(5000):
        theta = maximise(r)
        joint = table(theta)
        level = logsumexp(joint, axis=1)
        r = np.exp(joint - level[:, None])
        if level.sum() - before < 1e-10:
            break
        before = level.sum()
    return theta, float(level.sum())


def test_zero_inflated_counts_have_the_maximum_of_the_marginal() -> None:
    fit, data = fitted("zero_inflated", objective="mle", restarts=1, tol=1e-8)

    def loss(u: np.ndarray) -> float:
        never, rate = 1 / (1 + np.exp(-u[0])), np.exp(u[1])
        return -np.log(never * (data.x == 0) + (1 - never) * poisson(rate).pmf(data.x)).sum()

    peer = minimize(loss, np.zeros(2), tol=1e-10)
    assert fit.log_likelihood == pytest.approx(-peer.fun, abs=1e-6)
    assert float(fit.parameters["never"]) == pytest.approx(1 / (1 + np.exp(-peer.x[0])), abs=1e-3)
    assert float(fit.parameters["rate"]) == pytest.approx(np.exp(peer.x[1]), abs=1e-3)


@pytest.mark.slow
def test_mixed_columns_agree_with_em_in_numpy() -> None:
    fit, data = fitted("mixed_columns", objective="mle", restarts=2, tol=1e-8)
    spent, member, colour, visits = data.args
    assert data.truth is not None
    hot = np.eye(3)[colour.astype(int)]

    def maximise(r: np.ndarray) -> Any:
        n = r.sum(axis=0)
        mean = r.T @ spent / n
        variance = (r * (spent[:, None] - mean) ** 2).sum(axis=0) / n
        return n / len(spent), mean, variance, r.T @ member / n, (r.T @ hot) / n[:, None], r.T @ visits / n

    def table(theta: Any) -> np.ndarray:
        weights, mean, variance, share, colours, rate = theta
        x, m, v = spent[:, None], member[:, None], visits[:, None]
        yes = xlogy(m, share) + xlogy(1 - m, 1 - share)
        counts = xlogy(v, rate) - rate - gammaln(v + 1)
        return (
            np.log(weights) + norm(mean, np.sqrt(variance)).logpdf(x) + yes + hot @ np.log(colours).T + counts
        )

    theta, level = climbed(table, maximise, np.eye(2)[data.truth["group"].astype(int)])
    assert fit.log_likelihood == pytest.approx(level, abs=1e-5)
    order = np.argsort(fit.parameters["mean"])
    for name, value in zip(("weights", "mean", "variance", "share", "colours", "rate"), theta, strict=True):
        np.testing.assert_allclose(fit.parameters[name][order], value, atol=2e-3)


@pytest.mark.slow
def test_election_with_missing_answers_agrees_with_em_in_numpy() -> None:
    fit, data = fitted("election", objective="mle", restarts=3)
    given = ~np.isnan(data.x)
    assert 0 < (~given).sum() < given.sum()
    hot = np.eye(4)[np.where(given, data.x - 1, 0).astype(int)] * given[..., None]  # (N, J, 4)

    def maximise(r: np.ndarray) -> Any:
        counts = np.einsum("nk,njl->kjl", r, hot) + 1e-300
        return r.mean(axis=0), counts / counts.sum(axis=-1, keepdims=True)

    def table(theta: Any) -> np.ndarray:
        return np.log(theta[0]) + np.einsum("njl,kjl->nk", hot, np.log(theta[1]))

    generator = np.random.default_rng(0)
    starts = [generator.dirichlet(np.ones(3), len(hot)) for _ in range(3)]
    (weights, _), level = max((climbed(table, maximise, start) for start in starts), key=lambda end: end[1])
    assert fit.log_likelihood == pytest.approx(level, abs=1e-3)
    np.testing.assert_allclose(np.sort(fit.parameters["weights"]), np.sort(weights), atol=1e-2)


@pytest.mark.slow
def test_iris_with_some_labels_agrees_with_em_in_numpy() -> None:
    fit, data = fitted("iris_some_labels", objective="mle", restarts=1, tol=1e-8)
    X, y = data.args
    truth = np.eye(3)[y.astype(int)]
    hidden = np.where((np.arange(150) % 10 == 0)[:, None] & (truth == 0), -np.inf, 0.0)

    def maximise(r: np.ndarray) -> Any:
        means = (r.T @ X) / r.sum(axis=0)[:, None]
        off = X[:, None] - means
        return r.mean(axis=0), means, np.einsum("nk,nki,nkj->ij", r, off, off) / len(X)

    def table(theta: Any) -> np.ndarray:
        weights, means, covariance = theta
        densities = [multivariate_normal(mean, covariance).logpdf(X) for mean in means]
        return np.log(weights) + np.stack(densities, axis=1) + hidden

    (weights, means, covariance), level = climbed(table, maximise, truth)
    assert fit.log_likelihood == pytest.approx(level, abs=1e-6)
    for name, value in (("weights", weights), ("means", means), ("covariance", covariance)):
        np.testing.assert_allclose(fit.parameters[name], value, atol=1e-3)  # labels settle the order


def test_a_column_of_counts_repeats_rows_or_is_refused() -> None:
    with pytest.raises(InputError, match=r"data.repeat.*no column 'frq'"):
        fitted("death_notices", "data.repeat=frq")
    with pytest.raises(InputError, match=r"data.repeat: row 1 of tone has 1.35"):
        fitted("tone", "data.repeat=stretchratio")


@pytest.mark.slow
def test_complete_labels_are_the_maximum_likelihood_classifier_in_one_step() -> None:
    fit, data = fitted("iris_all_labels")
    X, y = data.args
    groups = [X[y == label] for label in range(3)]
    np.testing.assert_allclose(fit.parameters["means"], [group.mean(axis=0) for group in groups], rtol=1e-9)
    pooled = sum((group - group.mean(axis=0)).T @ (group - group.mean(axis=0)) for group in groups) / len(X)
    np.testing.assert_allclose(fit.parameters["covariance"], pooled, rtol=1e-8)
    assert np.ptp(fit.objective[1:]) < 1e-9  # the first step arrives


@pytest.mark.slow
def test_k_means_is_the_limit_of_the_spherical_mixture() -> None:
    from sklearn.cluster import KMeans

    hard, data = fitted("iris_k_means", fit="hard")
    peer = KMeans(3, n_init=20, random_state=0).fit(data.x)
    order = np.lexsort(peer.cluster_centers_.T)
    centres = hard.parameters["centre"]
    np.testing.assert_allclose(centres[np.lexsort(centres.T)], peer.cluster_centers_[order], rtol=1e-8)
    start, gaps = {"centre": peer.cluster_centers_}, []
    for scale in (0.4, 0.02):
        arguments = f"model.arguments={{components: 3, scale: {scale}}}"
        experiment = read_experiment("iris_k_means", (arguments,))
        em = EM(load_model(experiment.config.model, experiment.base), objective="mle", draws=0)
        soft = em.run(jax.random.key(0), data.x, parameters=start)
        gaps.append(np.abs(soft.parameters["centre"] - peer.cluster_centers_).max())
    assert gaps[1] < 1e-3 < gaps[0]


@pytest.mark.slow
def test_swapped_roles_have_the_weights_that_maximise_their_own_marginal() -> None:
    """With λ and β integrated out, log p(y, w) is a sum of two Student terms in w."""
    fit, data = fitted("diabetes_weights", fit="swapped")
    X, y = data.args
    prior = load_model(read_experiment("diabetes_weights", ()).config.model, Path()).prior(X, y)
    n, d = X.shape

    def loss(u: np.ndarray) -> float:
        w, intercept = u[:d], u[d]
        weights = -(prior.lambda_shape + d / 2) * np.log(prior.lambda_rate + w @ w / 2)
        misfit = np.sum((y - intercept - X @ w) ** 2)
        return -(weights - (prior.beta_shape + n / 2) * np.log(prior.beta_rate + misfit / 2))

    start = np.append(fit.parameters["w"] * 0.9, fit.parameters["intercept"] + 1.0)
    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-8})
    here = np.append(fit.parameters["w"], fit.parameters["intercept"])
    assert loss(here) == pytest.approx(best.fun, abs=1e-6)
    np.testing.assert_allclose(here, best.x, rtol=1e-3, atol=1e-2)


def trait_loss(data: Data) -> Callable[[np.ndarray], float]:
    """Minus the Rasch model's log-likelihood at (thresholds, log spread), by Gauss–Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    log_weights = np.log(weights / np.sqrt(2 * np.pi))

    def loss(u: np.ndarray) -> float:
        logits = np.exp(u[-1]) * nodes[:, None] - u[:-1]
        table = data.x @ logits.T - np.logaddexp(0, logits).sum(axis=1)
        return -float(np.sum(logsumexp(table + log_weights, axis=1)))

    return loss


@pytest.mark.slow
def test_a_trait_by_variational_and_by_monte_carlo_em_against_quadrature() -> None:
    variational, data = fitted("carcinoma_trait")
    loss = trait_loss(data)
    start = np.append(variational.parameters["threshold"], np.log(variational.parameters["spread"]))
    best = minimize(loss, start, method="BFGS")
    # The bound lies below the likelihood at its own optimum, which lies below the maximum.
    assert variational.log_likelihood < -loss(start) < -best.fun + 1e-6
    assert variational.log_likelihood > -best.fun - 4.0
    experiment = read_experiment("carcinoma_monte_carlo", ())
    model = load_model(experiment.config.model, experiment.base)
    em = EM(model, objective="mle", latents=("trait",), e_step={"name": "monte_carlo", "rounds": 3}, draws=0)
    fit = em.run(jax.random.key(3), *data.args)
    error = fit.data["monte_carlo_errors"]
    assert np.all(np.abs(fit.parameters["threshold"] - best.x[:-1]) < 4 * error["threshold"].values + 1e-3)
    assert abs(float(fit.parameters["spread"]) - np.exp(best.x[-1])) < 4 * float(error["spread"]) + 1e-3
    assert float(error["spread"]) < 0.2 * float(fit.data["standard_errors"]["spread"])
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=max(0.3, 5 * fit.evidence.standard_error))


@pytest.mark.slow
def test_heavy_galaxies_have_the_posterior_mode_of_a_mixture_of_t() -> None:
    from scipy.stats import dirichlet, gamma, invgamma, t

    fit, data = fitted("galaxies_heavy", restarts=2)
    x = data.x.ravel()

    def log_joint(theta: dict[str, np.ndarray]) -> float:
        scale = np.sqrt(theta["variance"])
        table = np.log(theta["weights"]) + t(theta["freedom"], theta["mean"], scale).logpdf(x[:, None])
        return float(
            logsumexp(table, axis=1).sum()
            + dirichlet(np.full(3, 2.0)).logpdf(theta["weights"])
            + gamma(4.0, scale=2.0).logpdf(theta["freedom"])
            + norm(0, 2).logpdf(theta["mean"]).sum()
            + invgamma(2.0, scale=0.05).logpdf(theta["variance"]).sum()
        )

    theta = {name: np.asarray(fit.parameters[name]) for name in ("weights", "freedom", "mean", "variance")}
    assert fit.objective[-1] == pytest.approx(log_joint(theta), abs=1e-6)
    for name in ("mean", "variance", "freedom"):
        for factor in (0.98, 1.02):
            assert log_joint({**theta, name: theta[name] * factor}) < fit.objective[-1]


@pytest.mark.slow
def test_topics_are_found_again() -> None:
    fit, _ = fitted("topics", restarts=2)
    parameters = read_experiment("topics", ()).config.data.simulate.parameters
    truth = np.asarray(parameters["topic"])
    found = fit.parameters["topic"]
    likest = [int(np.argmin([np.abs(row - one).sum() for one in found])) for row in truth]
    assert sorted(likest) == [0, 1, 2]
    np.testing.assert_allclose(found[likest], truth, atol=0.07)
    assert fit.parameters["share"].shape == (30, 3)
    np.testing.assert_allclose(fit.parameters["share"].sum(axis=1), 1.0, rtol=1e-6)
