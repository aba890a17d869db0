"""The whole sampler: Geweke's joint-distribution test, NUTS' posterior, and what the fit keeps."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from scipy.stats import ks_2samp

from triptych.inference.compare import compare
from triptych.inference.distances import elements
from triptych.inference.em import EM
from triptych.inference.gibbs.algorithm import Gibbs, bound
from triptych.inference.gibbs.mixture import MixtureSweep
from triptych.inference.mcmc import MCMC
from triptych.inference.posterior import draws
from triptych.inference.status import Status
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture, InferenceWarning

SPREAD = ((1.0, 0.3), (0.3, 2.0))
FIXED = {"location": (1.0, -1.0), "degrees_of_freedom": 6.0, "mean_precision": 0.5, "concentration": 1.5}
MIXTURES = {
    "full": GaussianMixture(2, spread=SPREAD, **FIXED),
    "tied": GaussianMixture(2, covariance="tied", spread=SPREAD, **FIXED),
    "diagonal": GaussianMixture(2, covariance="diagonal", spread=(1.0, 3.0), **FIXED),
    "spherical": GaussianMixture(2, covariance="spherical", spread=2.0, **FIXED),
    "known": GaussianMixture(2, scale=(0.7, 1.5), **FIXED),
    "bernoulli": BernoulliMixture(2, concentration=1.5, probs_concentration=(0.8, 2.0)),
}
CHAINS, STEPS, ROWS = 3000, 12, 5


def program(model, key, theta, *args, **kwargs):
    """Run the program, with some sites given: site → value."""
    seeded = handlers.seed(handlers.substitute(model, theta), key)
    trace = handlers.trace(seeded).get_trace(*args, **kwargs)
    return {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}


def assert_same(first, second):
    """Kolmogorov–Smirnov on every element, on squares and on products: false alarm once in 10⁴ runs."""
    pairs = [(elements({s: np.asarray(v)[None] for s, v in one.items()})) for one in (first, second)]
    values = [np.stack([v.ravel() for v in pair.values()], axis=1) for pair in pairs]
    table = [np.column_stack([v, v[:, :1] * v, v.sum(axis=1)]) for v in values]
    p_values = [ks_2samp(a, b).pvalue for a, b in zip(table[0].T, table[1].T, strict=True)]
    assert min(p_values) > 1e-4 / len(p_values), dict(enumerate(p_values))


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXTURES)
def test_data_and_parameters_redrawn_in_turn_keep_the_prior(name, key):
    """Geweke (2004), Getting it right, JASA 99: p(θ) p(x|θ), x|θ and θ|x redrawn in turn, is stationary."""
    model = MIXTURES[name]
    x = np.random.default_rng(0).normal(size=(ROWS, 2)) if name != "bernoulli" else np.eye(ROWS)[:, :2]
    problem = EM(model).bind(x).problem
    # In the data's own units, so that other rows can be put in: the prior depends on none of them.
    hyper, family = problem.hyper, problem.family
    if name != "bernoulli":
        prior = model.prior(None, columns=2)
        hyper = hyper._replace(
            location=prior.location, mean_precision=prior.mean_precision, spread=prior.spread
        )
        hyper = hyper._replace(degrees=prior.degrees_of_freedom)
    if name == "known":
        family = dataclasses.replace(family, known=(0.49, 2.25))
    problem = dataclasses.replace(
        problem, hyper=hyper, family=family, centre=jnp.zeros(2), inverse_scale=jnp.ones(2)
    )
    sites = ("weights", "probs") if name == "bernoulli" else ("weights", "means", "covariances")

    def chain(key):
        first, *keys = jax.random.split(key, STEPS + 1)
        drawn = program(model, first, {}, rows=ROWS, columns=2)
        start = {site: drawn[site] for site in sites if site in drawn}

        def step(theta, key):
            key_data, key_sweep = jax.random.split(key)
            rows = program(model, key_data, theta, rows=ROWS, columns=2)["x"].astype(float)
            bound_rows = dataclasses.replace(problem, rows=rows, totals=family.totals(rows, None))
            return MixtureSweep.of(bound_rows).sweep(key_sweep, theta), None

        return start, jax.lax.scan(step, start, jnp.stack(keys))[0]

    before, after = jax.jit(jax.vmap(chain))(jax.random.split(key, CHAINS))
    # Another half of the chains' starts: the same ones would be correlated with the ends.
    half = CHAINS // 2
    assert_same({s: v[:half] for s, v in before.items()}, {s: v[half:] for s, v in after.items()})


@pytest.mark.slow
def test_a_regression_redrawn_in_turn_keeps_the_prior(key):
    model = BayesianLinearRegression(intercept=False, lambda_shape=3.0, lambda_rate=2.0, beta_shape=4.0)
    model = dataclasses.replace(model, beta_rate=3.0)
    X = np.random.default_rng(0).normal(size=(ROWS, 2))
    sweep = bound(EM(model).bind(X, X[:, 0] + 1.0))
    U, singular, _ = np.linalg.svd(X, full_matrices=False)
    np.testing.assert_allclose(sweep.moments.singular, singular)
    prior = jnp.asarray([float(value) for value in model.prior(X)])

    def chain(key):
        first, *keys = jax.random.split(key, STEPS + 1)
        drawn = program(model, first, {}, X)
        start = {site: drawn[site] for site in ("w", "lambda", "beta")}
        signs = jnp.sign(jnp.sum(U * (X @ sweep.rotation), axis=0))

        def step(theta, key):
            key_data, key_sweep = jax.random.split(key)
            y = program(model, key_data, theta, X)["y"]
            projected = signs * (U.T @ y)
            residual = jnp.sum((y - U @ (U.T @ y)) ** 2)
            moments = sweep.moments._replace(projected=projected, residual=residual)
            return dataclasses.replace(sweep, moments=moments, prior=prior).sweep(key_sweep, theta), None

        return start, jax.lax.scan(step, start, jnp.stack(keys))[0]

    before, after = jax.jit(jax.vmap(chain))(jax.random.split(key, CHAINS))
    half = CHAINS // 2
    assert_same({s: v[:half] for s, v in before.items()}, {s: v[half:] for s, v in after.items()})


def test_what_the_fit_keeps(key, faithful):
    seen = []
    model = GaussianMixture(2, covariance="diagonal")
    fit = Gibbs(model, warmup=100, draws=200, chains=3, thin=2).run(
        key, faithful, progress=lambda *a: seen.append(a[:2])
    )
    assert (fit.method, fit.status) == ("gibbs", Status.CONVERGED)
    assert fit.settings == {"warmup": 100, "draws": 200, "chains": 3, "thin": 2}
    assert seen[-1] == (300, 300)
    assert draws(fit)["means"].shape == (3, 200, 2, 2)
    assert fit.data["log_likelihood"]["x"].shape == (3, 200, 272)
    # The bridge over these draws meets the ELBO's region, known from EM's Laplace evidence.
    em = EM(model).run(key, faithful)
    assert fit.evidence.log_evidence == pytest.approx(em.evidence.log_evidence, abs=0.3)
    assert fit.log_likelihood == pytest.approx(em.log_likelihood, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faithful", "diabetes", "carcinoma"])
def test_nuts_agrees_within_the_monte_carlo_error(name, key, faithful, data_path):
    table = faithful if name == "faithful" else np.loadtxt(data_path(name), delimiter=",", skiprows=1)
    if name == "faithful":
        model, args = GaussianMixture(2), (faithful,)
    elif name == "diabetes":
        model, args = BayesianLinearRegression(), (table[:, :-1], table[:, -1])
    else:
        model, args = BernoulliMixture(2), (table - 1.0,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        fits = [Gibbs(model).run(key, *args), MCMC(model).run(key, *args)]
    assert fits[0].status is Status.CONVERGED
    found = compare({"gibbs": fits[0], "mcmc": fits[1]}, reference="mcmc").parameters
    found = found[(found["method"] == "gibbs") & (found["noise"] > 0)]
    assert np.max(np.abs(found["mean_error"] / found["noise"])) < 4.5
    gap = fits[0].evidence.log_evidence - fits[1].evidence.log_evidence
    assert abs(gap) < 4 * np.hypot(*(fit.evidence.standard_error for fit in fits)) + 0.01
