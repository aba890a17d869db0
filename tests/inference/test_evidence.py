"""The log evidence of whole posteriors, labels counted, against enumeration and quadrature."""

from __future__ import annotations

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.special import betaln, gammaln, logsumexp
from scipy.stats import gamma, multivariate_normal

from triptych.inference.em import EM
from triptych.inference.em.regression import decompose
from triptych.inference.evidence import Walked, of_chains
from triptych.inference.exact import exact_evidence, log_integral, regression_evidence
from triptych.inference.exchangeable import Exchangeable
from triptych.inference.mcmc import MCMC
from triptych.inference.svi import SVI
from triptych.inference.symmetry import NO_LABELS, relabellings
from triptych.inference.unconstrained import coordinates
from triptych.models import BayesianLinearRegression, BernoulliMixture, InferenceWarning

PAIR = Exchangeable(("z",), 2, {"mu": (0,), "weights": (0,)})


def enumerated(N, K, concentration, of_component):
    """Give log p(x) of a mixture by summing over all K^N labels; `of_component` is rows → log p(their x)."""
    total = []
    for z in itertools.product(range(K), repeat=N):
        rows = [np.flatnonzero(np.array(z) == k) for k in range(K)]
        counts = np.array([len(row) for row in rows])
        value = gammaln(np.sum(concentration)) - gammaln(np.sum(concentration) + N)
        value += np.sum(gammaln(concentration + counts) - gammaln(concentration))
        total.append(value + sum(of_component(row) for row in rows if len(row)))
    return logsumexp(total)


def test_labels_are_exchanged_in_the_space_of_the_parameters():
    space = coordinates({"mu": ((2,), constraints.real_vector), "weights": ((2,), constraints.simplex)})
    labels = relabellings([PAIR])
    assert labels.size == 2
    centre = jnp.array([0.3, -0.4, 0.5])

    def log_q(u):
        return jnp.sum(dist.Normal(centre, 0.8).log_prob(u))

    def of_parameters(u):
        return labels.exchanged(space, log_q, u) - space.log_jacobian(u)

    u = jnp.array([0.1, 0.9, -0.7])
    theta = {name: value[::-1] for name, value in space.constrain(u).items()}
    swapped = space.unconstrain(theta)
    assert float(of_parameters(u)) == pytest.approx(float(of_parameters(swapped)), rel=1e-10)
    by_hand = np.logaddexp(log_q(u) - space.log_jacobian(u), log_q(swapped) - space.log_jacobian(swapped))
    assert float(of_parameters(u)) == pytest.approx(float(by_hand) - np.log(2), rel=1e-10)
    many = Exchangeable(("z",), 9, {"mu": (0,)})
    far = relabellings([many])
    assert far.size == 1
    assert far.log_count == pytest.approx(gammaln(10))
    assert float(far.exchanged(space, log_q, u)) == pytest.approx(float(log_q(u)) - gammaln(10))


def test_labels_that_rows_name_are_not_exchanged():
    named = Exchangeable(("z",), 3, {"mu": (0,)}, fixed=(1,))
    labels = relabellings([named])
    assert labels.choices == (((0, 1, 2),), ((2, 1, 0),))
    assert labels.log_count == pytest.approx(np.log(2))


@pytest.mark.parametrize("distance", [0.6, 6.0])
def test_a_bridge_counts_every_copy_of_a_mode_near_or_far(key, distance):
    """Z · ½ [N(μ; m, I) + N(μ; m swapped, I)], its draws sorted: as aligned chains are."""
    space = coordinates({"mu": ((2,), constraints.real_vector)})
    m, log_z = jnp.array([-distance / 2, distance / 2]), 7.0
    labels = relabellings([PAIR._replace(axes={"mu": (0,)})])

    def density(u):
        each = [jnp.sum(dist.Normal(centre, 1.0).log_prob(u)) for centre in (m, m[::-1])]
        return log_z + jnp.logaddexp(each[0], each[1]) - jnp.log(2)

    draws = np.asarray(m) + np.random.default_rng(0).normal(size=(4, 1000, 2))
    draws = np.sort(draws, axis=-1)
    log_density = np.asarray(jax.vmap(jax.vmap(density))(jnp.asarray(draws)))
    found, doubts = of_chains(key, Walked(space, draws, log_density, density, labels))
    assert doubts == ()
    assert found.log_evidence == pytest.approx(log_z, abs=4 * found.standard_error)
    assert found.standard_error < 0.02
    _, weights = found.routes
    assert weights.nats == pytest.approx(log_z, abs=4 * weights.standard_error)
    # Taken for one mode among separate copies, near ones would be counted twice.
    if distance > 5:
        apart = relabellings([PAIR._replace(axes={"mu": (0,)})], most=1)
        found, doubts = of_chains(key, Walked(space, draws, log_density, density, apart, separate=False))
        assert found.log_evidence == pytest.approx(log_z, abs=0.05)
        assert found.symmetry == pytest.approx(np.log(2))
        assert [doubt.code for doubt in doubts] == ["EVIDENCE_LABELS"]


def test_chains_that_saw_one_mode_and_then_another_are_said(key):
    space = coordinates({"a": ((1,), constraints.real_vector)})

    def density(u):
        return jnp.logaddexp(*(jnp.sum(dist.Normal(c, 0.3).log_prob(u)) for c in (-4.0, 4.0)))

    draws = 0.3 * np.random.default_rng(0).normal(size=(2, 500, 1))
    draws[:, :250] -= 4
    draws[:, 250:] += 4
    log_density = np.asarray(jax.vmap(jax.vmap(density))(jnp.asarray(draws)))
    _, doubts = of_chains(key, Walked(space, draws, log_density, density, NO_LABELS))
    assert doubts
    assert doubts[0].code == "EVIDENCE_DOUBTFUL"


def test_too_few_draws_for_the_space_give_no_bridge(key):
    space = coordinates({"a": ((30,), constraints.real_vector)})
    draws = np.random.default_rng(0).normal(size=(2, 50, 30))
    found, doubts = of_chains(key, Walked(space, draws, np.zeros((2, 50)), jnp.sum, NO_LABELS))
    assert found.log_evidence is None
    assert "30 coordinates need 300 draws" in found.method
    assert doubts == ()


def test_the_regression_by_quadrature_and_by_a_grid():
    random = np.random.default_rng(0)
    X = random.normal(size=(9, 3))
    y = X[:, 0] * 2 + random.normal(size=9) + 1
    for intercept in (True, False):
        model = BayesianLinearRegression(intercept=intercept)
        moments, _ = decompose(X - X.mean(axis=0) * intercept, y - y.mean() * intercept)
        # For fixed λ and β the N-dimensional Gaussian, with a flat direction where there is an intercept.
        total = np.eye(9) / 0.7 + X @ X.T / 0.3
        if intercept:
            wide = total + 1e8 * np.ones((9, 9))
            expected = multivariate_normal(np.zeros(9), wide).logpdf(y) + 0.5 * np.log(2 * np.pi * 1e8)
        else:
            expected = multivariate_normal(np.zeros(9), total).logpdf(y)
        fixed = regression_evidence(moments, 0.3, 0.7, intercept=intercept)[0]
        assert fixed == pytest.approx(expected, abs=1e-5)
        prior = model.prior(X, y)
        lam, beta = np.exp(np.linspace(-14, 12, 261)), np.exp(np.linspace(-9, 9, 181))
        grid = np.stack(np.meshgrid(lam, beta, indexing="ij"), axis=-1).reshape(-1, 2)
        values = regression_evidence(moments, grid[:, 0], grid[:, 1], intercept=intercept)
        values += gamma.logpdf(grid[:, 0], prior[0], scale=1 / prior[1]) + np.log(grid[:, 0])
        values += gamma.logpdf(grid[:, 1], prior[2], scale=1 / prior[3]) + np.log(grid[:, 1])
        found = exact_evidence(model, (X, y))
        assert found.nats == pytest.approx(logsumexp(values) + 2 * np.log(0.1), abs=1e-8)
        assert found.standard_error < 1e-8
    assert exact_evidence(BernoulliMixture(2), (X,)) is None


def test_an_integral_over_the_plane():
    """A Gumbel's tail in one direction and a bend: ∫∫ exp(a s − e^s) N(t; s/2, 1) = Γ(a)."""

    def log_density(t):
        return 2 * t[:, 0] - np.exp(t[:, 0]) - 0.5 * (t[:, 1] - t[:, 0] / 2) ** 2 - 0.5 * np.log(2 * np.pi)

    value, error = log_integral(log_density, np.array([0.5, 0.1]))
    assert value == pytest.approx(gammaln(2), abs=1e-9)
    assert error < 1e-9


GAUSSIAN = np.array([-1.2, -0.4, 0.3, 0.9, 2.2])


def overlapping(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 2).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def of_gaussian(rows):
    n = len(rows)
    return multivariate_normal(np.zeros(n), np.eye(n) + 4 * np.ones((n, n))).logpdf(GAUSSIAN[rows])


def poisson(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rate[z]), obs=x)


COUNTS = np.array([0, 1, 1, 7, 9, 2])


def of_poisson(rows):
    x = COUNTS[rows]
    value = 2 * np.log(0.5) - gammaln(2) + gammaln(2 + x.sum()) - (2 + x.sum()) * np.log(0.5 + len(x))
    return value - np.sum(gammaln(x + 1))


def quietly(method, key, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        return method.run(key, *args)


def test_chains_on_overlapping_components_against_enumeration(key):
    """The hard case: the labels run into each other, so no single labelled mode stands for the rest."""
    exact = enumerated(len(GAUSSIAN), 2, np.ones(2), of_gaussian)
    fit = quietly(MCMC(overlapping, warmup=500, draws=1000), key, GAUSSIAN)
    assert fit.evidence.log_evidence == pytest.approx(exact, abs=4 * fit.evidence.standard_error)
    assert fit.evidence.standard_error < 0.03
    assert fit.evidence.method == "bridge sampling, all 2 labellings counted"


@pytest.mark.slow
def test_every_method_on_tiny_mixtures_against_enumeration(key):
    exact = enumerated(len(COUNTS), 2, np.ones(2), of_poisson)
    fit = quietly(MCMC(poisson, warmup=500, draws=1000), key, COUNTS)
    assert fit.evidence.log_evidence == pytest.approx(exact, abs=4 * fit.evidence.standard_error)
    guide = quietly(SVI(poisson), key, COUNTS)
    assert guide.evidence.elbo < exact + 4 * guide.evidence.elbo_error
    for bound in guide.evidence.bounds:
        assert bound.nats < exact + 4 * bound.standard_error
    if guide.evidence.log_evidence is not None:
        assert guide.evidence.log_evidence == pytest.approx(exact, abs=0.1)

    random = np.random.default_rng(0)
    x = (random.uniform(size=(6, 3)) < np.array([[0.9, 0.8, 0.1]])).astype(float)
    x[:3] = 1 - x[:3]
    model = BernoulliMixture(2)
    prior = model.prior(x)
    a, b = np.broadcast_to(np.asarray(prior.probs_concentration), (2,))

    def of_bernoulli(rows):
        ones = x[rows].sum(axis=0)
        return np.sum(betaln(a + ones, b + len(rows) - ones) - betaln(a, b))

    concentration = np.broadcast_to(prior.concentration, (2,))
    exact = enumerated(len(x), 2, concentration, of_bernoulli)
    fit = quietly(MCMC(model, warmup=500, draws=1000), key, x)
    assert fit.evidence.log_evidence == pytest.approx(exact, abs=4 * fit.evidence.standard_error)
    optimum = quietly(EM(model), key, x)
    weights = optimum.evidence.routes[-1]
    assert weights.nats == pytest.approx(exact, abs=0.3)
    assert optimum.evidence.elbo < exact + 4 * optimum.evidence.elbo_error


@pytest.mark.slow
def test_every_method_on_a_regression_against_quadrature(key):
    random = np.random.default_rng(0)
    X = random.normal(size=(40, 4))
    y = X @ np.array([1.0, 0, -1, 0.5]) + random.normal(size=40)
    model = BayesianLinearRegression()
    exact = exact_evidence(model, (X, y)).nats
    chains = quietly(MCMC(model), key, X, y).evidence
    assert chains.log_evidence == pytest.approx(exact, abs=4 * chains.standard_error)
    guide = quietly(SVI(model), key, X, y).evidence
    assert guide.elbo < exact + 4 * guide.elbo_error
    assert guide.log_evidence == pytest.approx(exact, abs=0.05)
    optimum = quietly(EM(model), key, X, y).evidence
    assert optimum.log_evidence == pytest.approx(exact, abs=0.2)
    assert optimum.routes[-1].nats == pytest.approx(exact, abs=4 * optimum.routes[-1].standard_error)
