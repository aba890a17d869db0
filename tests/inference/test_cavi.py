"""Coordinate ascent against enumeration, Monte Carlo, scikit-learn and the exact evidence."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from scipy.special import gammaln, logsumexp
from scipy.stats import t

from triptych.inference.cavi import CAVI
from triptych.inference.cavi.algorithm import bound
from triptych.inference.exact import exact_evidence
from triptych.inference.gibbs import Gibbs
from triptych.inference.posterior import draws, in_batches
from triptych.inference.status import Status
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture, InputError

MODELS = {
    "full": GaussianMixture(2),
    "tied": GaussianMixture(2, covariance="tied"),
    "diagonal": GaussianMixture(2, covariance="diagonal"),
    "spherical": GaussianMixture(2, covariance="spherical"),
    "known": GaussianMixture(2, scale=(7.0, 15.0)),
    "bernoulli": BernoulliMixture(2, probs_concentration=(0.8, 2.0)),
}
REAL = np.random.default_rng(0).normal(size=(11, 2)) * [1.0, 30.0] + [0.0, 500.0]
BINARY = np.random.default_rng(1).integers(0, 2, size=(11, 3)).astype(float)


def exact_log_evidence(x, prior, components):
    """Log p(x) of a mixture in one dimension by summing over all labellings (Student t predictives)."""
    tables = []
    for labelling in itertools.product(range(components), repeat=len(x)):
        z = np.array(labelling)
        alpha, counts = prior.concentration, np.bincount(z, minlength=components)
        value = gammaln(alpha.sum()) - gammaln(alpha.sum() + len(x))
        value += np.sum(gammaln(alpha + counts) - gammaln(alpha))
        for k in range(components):
            m, kappa, nu = prior.location[0], prior.mean_precision, prior.degrees_of_freedom
            spread = np.ravel(prior.spread)[0]
            for one in x[z == k]:
                value += t.logpdf(one, nu, m, np.sqrt(spread * (kappa + 1) / (kappa * nu)))
                spread += kappa / (kappa + 1) * (one - m) ** 2
                m, kappa, nu = (kappa * m + one) / (kappa + 1), kappa + 1, nu + 1
        tables.append(value)
    return logsumexp(tables)


def test_the_bound_is_below_the_evidence_by_enumeration(key):
    x = np.array([-2.2, -1.7, -0.4, 5.3, 5.9, 6.6, 7.0])
    model = GaussianMixture(2, mean_precision=0.1)
    truth = exact_log_evidence(x, model.prior(x[:, None]), 2)
    fit = CAVI(model).run(key, x[:, None])
    assert (fit.method, fit.status) == ("cavi", Status.CONVERGED)
    assert fit.evidence.elbo < truth
    # Both labellings counted; what is missing is that z and θ are independent under q.
    assert fit.evidence.elbo > truth - 1.0
    # Labels summed out the bound is tighter, and tighter still with more weights.
    first, *_, last = fit.evidence.bounds
    assert fit.evidence.elbo < first.nats < last.nats < truth + 4 * last.standard_error
    assert fit.data["restarts"].sizes["restart"] == 10
    np.testing.assert_allclose(draws(fit)["means"].mean((0, 1)), fit.parameters["means"], atol=0.3)


@pytest.mark.slow
def test_the_bridge_of_gibbs_meets_the_enumeration(key):
    x = np.array([-2.2, -1.7, -0.4, 5.3, 5.9, 6.6, 7.0])
    model = GaussianMixture(2, mean_precision=0.1)
    fit = Gibbs(model, draws=2000).run(key, x[:, None])
    truth = exact_log_evidence(x, model.prior(x[:, None]), 2)
    assert fit.evidence.log_evidence == pytest.approx(truth, abs=4 * fit.evidence.standard_error)


@pytest.mark.parametrize(
    "name",
    [
        "bernoulli",
        *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "bernoulli"),
    ],
)
def test_the_bound_in_closed_form_is_its_monte_carlo_average(name, key):
    """At any q(θ), q(z) optimal: E log p(x, z | θ) by draws, through the program's own density."""
    model, x = MODELS[name], BINARY if name == "bernoulli" else REAL
    kernel = bound(model, (x,), {})
    point = {
        site: value[0] for site, value in kernel.starts(key, 1, "random_responsibilities").parameters.items()
    }
    problem = kernel.problem
    step = jax.jit(lambda q: problem.step(q)[:2])
    following, first = step(point)
    _, elbo = step(following)
    assert elbo > first
    q = kernel.posterior(following)

    def one(index):
        theta = q.draw(jax.random.fold_in(key, index))
        columns = []
        for k in range(2):
            program = handlers.substitute(handlers.seed(model, 0), {**theta, "z": jnp.full(len(x), k)})
            trace = handlers.trace(program).get_trace(jnp.asarray(x))
            columns.append(trace["x"]["fn"].log_prob(x) + trace["z"]["fn"].log_prob(k))
        prior = sum(jnp.sum(trace[site]["fn"].log_prob(value)) for site, value in theta.items())
        return jnp.stack(columns, axis=1), prior - q.log_density(theta)

    table, drift = in_batches(one, np.arange(20_000))
    estimate = logsumexp(table.mean(0), axis=1).sum() + drift.mean()
    responsibilities = np.exp(table.mean(0) - logsumexp(table.mean(0), axis=1, keepdims=True))
    noise = np.std((table * responsibilities).sum((1, 2)) + drift) / np.sqrt(len(drift))
    assert noise < 0.1
    assert float(elbo) == pytest.approx(estimate, abs=4 * noise + 1e-3)


@pytest.mark.slow
def test_scikit_learn_has_the_same_posterior_of_full_covariances(key, faithful):
    from sklearn.mixture import BayesianGaussianMixture

    model = GaussianMixture(2, concentration=0.7, mean_precision=0.5)
    prior = model.prior(faithful)
    theirs = BayesianGaussianMixture(
        n_components=2,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.7,
        mean_precision_prior=0.5,
        mean_prior=prior.location,
        degrees_of_freedom_prior=prior.degrees_of_freedom,
        covariance_prior=prior.spread,
        tol=1e-10,
        max_iter=1000,
        reg_covar=0.0,
        random_state=0,
    ).fit(faithful)
    plain = CAVI(model, acceleration="none", restarts=2, draws=1).run(key, faithful)
    ours = CAVI(model, restarts=2, tol=1e-9, draws=1).run(key, faithful)
    # The ELBO never falls, and acceleration finds the same top.
    assert np.diff(plain.objective).min() > -1e-9 * abs(plain.objective[-1])
    assert ours.objective[-1] == pytest.approx(plain.objective[-1], abs=1e-5)
    order, own = np.argsort(theirs.means_[:, 0]), np.argsort(ours.parameters["means"][:, 0])
    weights = theirs.weight_concentration_ / theirs.weight_concentration_.sum()
    np.testing.assert_allclose(ours.parameters["weights"][own], weights[order], rtol=1e-4)
    np.testing.assert_allclose(ours.parameters["means"][own], theirs.means_[order], rtol=1e-4)
    # Its `covariances_` are spread / degrees; the mean of Σ divides by degrees − D − 1.
    degrees = theirs.degrees_of_freedom_[order][:, None, None]
    covariances = theirs.covariances_[order] * degrees / (degrees - 3)
    np.testing.assert_allclose(ours.parameters["covariances"][own], covariances, rtol=1e-3)


def test_a_regression_by_its_exact_evidence(key):
    random = np.random.default_rng(0)
    X = random.normal(size=(25, 3)) + np.array([1, 2, 3])
    X[:, 2] = X[:, 0] - X[:, 1]  # a direction the data say nothing about
    y = X @ [1.0, 0.0, -1.0] + random.normal(size=25)
    fit = CAVI(BayesianLinearRegression()).run(key, X, y)
    assert fit.status is Status.CONVERGED
    assert np.diff(fit.objective).min() > -1e-12
    truth = exact_evidence(fit.model, (X, y))
    assert truth is not None
    assert fit.evidence.elbo < truth.nats
    monte_carlo = fit.evidence.bounds[0]
    assert fit.evidence.elbo == pytest.approx(monte_carlo.nats, abs=4 * monte_carlo.standard_error)
    last = fit.evidence.bounds[-1]
    assert fit.evidence.elbo < last.nats < truth.nats + 4 * last.standard_error
    sampled = draws(fit)
    np.testing.assert_allclose(sampled["w"].mean((0, 1)), fit.parameters["w"], atol=0.15)
    assert float(sampled["intercept"].mean()) == pytest.approx(float(fit.parameters["intercept"]), abs=0.2)


def test_what_it_does_not_have_is_said(key):
    with pytest.raises(InputError, match="`acceleration`"):
        CAVI(GaussianMixture(2), acceleration="fast")
    with pytest.raises(InputError, match=r"CAVI needs.*use SVI or MCMC"):
        CAVI(lambda x: None).run(key, REAL)


@pytest.mark.parametrize(
    "covariance",
    ["diagonal", *(pytest.param(c, marks=pytest.mark.slow) for c in ("full", "tied", "spherical"))],
)
def test_of_one_component_it_is_the_exact_posterior(covariance, key):
    """Every draw then has the same weight p(x, θ)/q(θ) = p(x), and the ELBO is log p(x)."""
    fit = CAVI(GaussianMixture(1, covariance=covariance), draws=50).run(key, REAL)
    weights = fit.data["sample_stats"]["log_weight"].values
    np.testing.assert_allclose(weights, fit.evidence.elbo, atol=1e-7)
    assert fit.evidence.elbo_error is None
    assert fit.status is Status.CONVERGED
