"""log p(x | θ) = ELBO + KL against enumeration by hand, for rows, chains, trees and regressions."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

from triptych.inference.em import EM
from triptych.inference.em.ledger import ledger, path
from triptych.models import BayesianLinearRegression, GaussianMixture, InputError

X = np.random.default_rng(1).normal(size=5) * 2


def chain(x):
    """A hidden chain of two states, written as a loop."""
    A = numpyro.sample("A", dist.Dirichlet(jnp.ones(2)).expand([2]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    z = 0
    for t in range(len(x)):
        z = numpyro.sample(f"z{t}", dist.Categorical(A[z]))
        numpyro.sample(f"x{t}", dist.Normal(mu[z], 1.0), obs=x[t])


THETA = {"A": np.array([[0.7, 0.3], [0.2, 0.8]]), "mu": np.array([-1.0, 1.0])}
OTHER = {"A": np.array([[0.5, 0.5], [0.4, 0.6]]), "mu": np.array([-2.0, 1.5])}


def chain_joint(theta):
    """Give log p(x, z | θ) of every path by hand: (2^T,)."""
    values = []
    for z in itertools.product((0, 1), repeat=len(X)):
        steps = np.log([theta["A"][a, b] for a, b in zip((0, *z), z, strict=False)])
        values.append(np.sum(steps) + np.sum(norm.logpdf(X, theta["mu"][list(z)], 1)))
    return np.array(values)


def by_hand(joint, log_q):
    """Give log p(x), ELBO and KL from every z in turn."""
    total = np.logaddexp.reduce(joint)
    q = np.exp(log_q)
    return total, np.sum(q * (joint - log_q)), np.sum(q * (log_q - (joint - total)))


def test_a_chain_with_the_posterior_of_another_point():
    other = chain_joint(OTHER)
    expected = by_hand(chain_joint(THETA), other - np.logaddexp.reduce(other))
    found = ledger(chain, THETA, X, q=OTHER)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert abs(found.residual) < 1e-12


def test_a_chain_with_responsibilities_of_ones_own():
    random = np.random.default_rng(0)
    q = {f"z{t}": random.dirichlet([1, 1]) for t in range(len(X))}
    paths = itertools.product((0, 1), repeat=len(X))
    log_q = np.array([sum(np.log(q[f"z{t}"][k]) for t, k in enumerate(z)) for z in paths])
    np.testing.assert_allclose(ledger(chain, THETA, X, q=q), by_hand(chain_joint(THETA), log_q), rtol=1e-12)


def test_a_latent_above_rows_of_latents():
    table = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])

    def tree(x):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([3, 2]).to_event(2))
        g = numpyro.sample("g", dist.Categorical(p))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(table)[g]))
            numpyro.sample("x", dist.Normal(mu[g, z], 1.0), obs=x)

    theta = {"p": np.array([0.2, 0.3, 0.5]), "mu": np.array([[-1.0, 1], [0, 2], [-2, 0.3]])}
    random = np.random.default_rng(0)
    q = {"g": random.dirichlet(np.ones(3)), "z": random.dirichlet([1, 1], size=len(X))}
    joint, log_q = [], []
    for g in range(3):
        for z in itertools.product((0, 1), repeat=len(X)):
            rows = np.arange(len(X))
            value = np.log(theta["p"][g]) + np.sum(np.log(table[g, list(z)]))
            joint.append(value + np.sum(norm.logpdf(X, theta["mu"][g, list(z)], 1)))
            log_q.append(np.log(q["g"][g]) + np.sum(np.log(q["z"][rows, list(z)])))
    expected = by_hand(np.array(joint), np.array(log_q))
    np.testing.assert_allclose(ledger(tree, theta, X, q=q), expected, rtol=1e-12)


def test_a_loop_of_latents_is_refused():
    def loop(x):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
        a = numpyro.sample("a", dist.Categorical(p))
        b = numpyro.sample("b", dist.Categorical(jnp.array([[0.2, 0.8], [0.6, 0.4]])[a]))
        c = numpyro.sample("c", dist.Categorical(jnp.array([[0.3, 0.7], [0.6, 0.4]])[b]))
        numpyro.sample("x", dist.Normal(a * 1.0 + c * 2, 1.0), obs=x[0])

    with pytest.raises(InputError, match="has a loop"):
        ledger(loop, {"p": np.array([0.5, 0.5])}, X)


def test_the_gap_closes_at_each_e_step_and_opens_at_each_m_step(faithful):
    model = GaussianMixture(2)
    start = EM(model).init(jax.random.key(0), faithful).parameters
    found = path(model, start, faithful, steps=12, objective="mle")
    values = found.log_likelihood
    np.testing.assert_allclose(found.elbo_after_e, values[:-1], rtol=1e-12)
    np.testing.assert_allclose(found.kl_after_e, 0, atol=1e-12)
    np.testing.assert_allclose(found.elbo_after_m + found.kl_after_m, values[1:], rtol=1e-12)
    assert np.all(found.kl_after_m[:6] > 0)
    assert np.all(found.elbo_after_m - found.elbo_after_e > -1e-9)  # the M-step raises the bound
    # The path is EM's own: its end is where the algorithm says it is.
    last = {site: value[-1] for site, value in found.parameters.items()}
    entry = ledger(model, last, faithful)
    assert entry.log_likelihood == pytest.approx(values[-1], rel=1e-12)


def test_responsibilities_given_for_rows(faithful):
    model = GaussianMixture(2)
    theta = {
        "weights": np.array([0.4, 0.6]),
        "means": np.array([[2.0, 55.0], [4.3, 80.0]]),
        "covariances": np.stack([np.diag([0.1, 30.0])] * 2),
    }
    r = np.random.default_rng(0).dirichlet([1, 1], size=len(faithful))
    found = ledger(model, theta, faithful, q=r)
    joint = np.log(theta["weights"]) + np.stack(
        [norm.logpdf(faithful, theta["means"][k], np.sqrt([0.1, 30.0])).sum(axis=1) for k in range(2)],
        axis=1,
    )
    elbo = np.sum(r * (joint - np.log(r)))
    total = np.logaddexp.reduce(joint, axis=1)
    assert found.log_likelihood == pytest.approx(total.sum(), rel=1e-12)
    assert found.elbo == pytest.approx(elbo, rel=1e-12)
    # Hard wrong labels: the divergence is finite although the posterior of some is e^−100.
    wrong = np.eye(2)[(faithful[:, 0] > 3).astype(int)[::-1]]
    found = ledger(model, theta, faithful, q=wrong)
    assert np.isfinite(found.kl)
    assert abs(found.residual) < 1e-8


def test_a_regression_with_a_mean_field_gaussian():
    random = np.random.default_rng(0)
    design, lam, beta = random.normal(size=(12, 3)) @ random.normal(size=(3, 3)), 0.7, 2.0
    y = random.normal(size=12)
    model = BayesianLinearRegression(intercept=False)
    precision = lam * np.eye(3) + beta * design.T @ design
    mean = beta * np.linalg.solve(precision, design.T @ y)
    q = {"mean": mean, "covariance": np.diag(1 / np.diag(precision))}
    found = ledger(model, {"lambda": lam, "beta": beta}, design, y, q=q)
    # The optimal mean-field Gaussian: KL = ½ (Σ log P_dd − log |P|).
    kl = 0.5 * (np.sum(np.log(np.diag(precision))) - np.linalg.slogdet(precision)[1])
    total = np.eye(12) / beta + design @ design.T / lam
    exact = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    np.testing.assert_allclose(found, [exact, exact - kl, kl], rtol=1e-10)
    steps = path(model, {"lambda": lam, "beta": beta}, design, y, steps=4)
    np.testing.assert_allclose(steps.elbo_after_m + steps.kl_after_m, steps.log_likelihood[1:], rtol=1e-12)
    assert np.all(steps.kl_after_m > 0)


def test_wrong_input_is_refused_in_words(faithful):
    with pytest.raises(InputError, match="no discrete latent"):
        ledger(lambda: numpyro.sample("a", dist.Normal(0, 1)), {"a": np.zeros(())})
    with pytest.raises(InputError, match="`parameters` has no 'A'"):
        ledger(chain, {"mu": THETA["mu"]}, X)
    with pytest.raises(InputError, match="lacks 'A'"):
        ledger(chain, THETA, X, q={"mu": THETA["mu"]})
    with pytest.raises(InputError, match="an array, but there are latents"):
        ledger(chain, THETA, X, q=np.ones((5, 2)))
    bad = {f"z{t}": np.array([0.5, 0.6]) for t in range(len(X))}
    with pytest.raises(InputError, match="sum to 1"):
        ledger(chain, THETA, X, q=bad)
    with pytest.raises(InputError, match="has shape"):
        ledger(chain, THETA, X, q={**bad, "z0": np.ones(3) / 3})
    with pytest.raises(InputError, match="`q` of a regression"):
        ledger(
            BayesianLinearRegression(), {"lambda": 1.0, "beta": 1.0}, np.eye(3), np.arange(3.0), q={"mean": 1}
        )
