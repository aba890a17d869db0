"""Every full conditional against the model's own joint density, and the draws against their density."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy.special import logsumexp

from triptych.inference.em import EM
from triptych.inference.gibbs.algorithm import Gibbs, bound
from triptych.inference.gibbs.mixture import CONDITIONALS, draw_parameters, statistics, table
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture, InputError

MIXTURES = {
    "full": GaussianMixture(2),
    "tied": GaussianMixture(2, covariance="tied"),
    "diagonal": GaussianMixture(2, covariance="diagonal"),
    "spherical": GaussianMixture(2, covariance="spherical"),
    "known": GaussianMixture(2, scale=(0.7, 1.5)),
    "bernoulli": BernoulliMixture(2, probs_concentration=(0.8, 2.0)),
}
REAL = np.random.default_rng(0).normal(size=(9, 2)) * [1.0, 30.0] + [0.0, 500.0]
BINARY = np.random.default_rng(1).integers(0, 2, size=(9, 3)).astype(float)
Z = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1])


def joint_of(model, x):
    """Log p(x, z, θ) by the program itself, of θ and z."""
    return jax.jit(lambda theta, z: log_density(model, (x,), {}, {**theta, "z": z})[0])


@pytest.mark.parametrize("name", MIXTURES)
def test_conditionals_of_a_mixture_are_those_of_the_joint(name, key):
    model = MIXTURES[name]
    x = BINARY if name == "bernoulli" else REAL
    kernel = EM(model).bind(x)
    sweep = bound(kernel)
    family, hyper = kernel.problem.family, kernel.problem.hyper
    conditional = CONDITIONALS[type(family)]
    joint = joint_of(model, x)
    sums = statistics(sweep.problem, sweep.features, jnp.asarray(Z))
    draw = jax.jit(lambda key: draw_parameters(key, sweep.problem, sums))
    first, second = (jax.tree.map(np.asarray, draw(one)) for one in jax.random.split(key))
    # Parameters given labels: both parts of the block at once.
    given = conditional.posterior(family, sums, hyper)
    alpha = np.asarray(hyper.concentration) + np.bincount(Z)

    def conditional_density(theta):
        weights = np.sum((alpha - 1) * np.log(theta["weights"]))
        return float(weights + conditional.log_density(family, given, theta))

    expected = [float(joint(kernel.outward(theta), Z)) for theta in (first, second)]
    assert conditional_density(first) - conditional_density(second) == pytest.approx(
        expected[0] - expected[1], abs=1e-8
    )
    # Labels given parameters: enumerated, one row at a time.
    theta = kernel.outward(first)
    for row in (0, 4):
        others = [np.where(np.arange(len(x)) == row, k, Z) for k in range(2)]
        log_joints = np.array([float(joint(theta, z)) for z in others])
        own = np.asarray(table(sweep.problem, sweep.features, first))[row]
        np.testing.assert_allclose(own - logsumexp(own), log_joints - logsumexp(log_joints), atol=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        *("full", "diagonal", "bernoulli"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("tied", "spherical", "known")),
    ],
)
def test_draws_have_the_density_that_is_claimed(name, key):
    """E_q[p₂/p₁] = 1 for densities p₁, p₂ of nearby conditionals: wrong draws or constants would show."""
    model = MIXTURES[name]
    x = BINARY if name == "bernoulli" else REAL
    sweep = bound(EM(model).bind(x))
    family, hyper = sweep.problem.family, sweep.problem.hyper
    conditional = CONDITIONALS[type(family)]
    sums = statistics(sweep.problem, sweep.features, jnp.asarray(Z))
    given = conditional.posterior(family, sums, hyper)
    # The other: a little more of everything, so that its tails are within those of the first.
    more = sums._replace(sums=1.1 * sums.sums, totals=1.1 * sums.totals)
    other = conditional.posterior(family, more, hyper)

    @jax.jit
    @jax.vmap
    def ratio(one):
        theta = conditional.draw(one, family, given)
        return conditional.log_density(family, other, theta) - conditional.log_density(family, given, theta)

    weights = np.exp(ratio(jax.random.split(key, 20_000)))
    error = weights.std() / np.sqrt(len(weights))
    assert error < 0.02
    assert weights.mean() == pytest.approx(1, abs=4 * error)


def test_weights_of_a_regression_are_drawn_from_their_joint_conditional(key):
    random = np.random.default_rng(2)
    X = random.normal(size=(12, 3)) + 5
    X[:, 2] = X[:, 0] + X[:, 1]  # a direction the data say nothing about
    y = X @ [1.0, -1.0, 0.5] + random.normal(size=12) + 3
    sweep = bound(EM(BayesianLinearRegression()).bind(X, y))
    state = {"w": jnp.zeros(3), "lambda": jnp.asarray(2.0), "beta": jnp.asarray(1.3)}
    draws = jax.vmap(lambda k: sweep.sweep(k, state))(jax.random.split(key, 40_000))
    table = np.column_stack([draws["w"], draws["intercept"]])
    design = np.column_stack([X, np.ones(12)])
    covariance = np.linalg.inv(np.diag([2.0, 2.0, 2.0, 0.0]) + 1.3 * design.T @ design)
    mean = 1.3 * covariance @ design.T @ y
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((table.mean(0) - mean) / sd, 0, atol=4 / np.sqrt(40_000))
    np.testing.assert_allclose(np.cov(table.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.03)
    # The precisions given the weights: a Gamma fits each one's share of the sweep.
    residual = np.sum((y - table @ design.T) ** 2, axis=1)
    for name, shape, rate in (
        ("lambda", sweep.prior[0] + 1.5, sweep.prior[1] + np.sum(table[:, :3] ** 2, axis=1) / 2),
        ("beta", sweep.prior[2] + 6.0, sweep.prior[3] + residual / 2),
    ):
        standard = np.asarray(draws[name]) * rate  # Gamma(shape, 1)
        assert standard.mean() == pytest.approx(float(shape), abs=4 * np.sqrt(shape / 40_000))
        assert standard.var() == pytest.approx(float(shape), rel=0.05)
        assert abs(np.corrcoef(standard, rate)[0, 1]) < 0.02


def test_what_gibbs_does_not_have_is_said(key):
    with pytest.raises(InputError, match="`thin`"):
        Gibbs(GaussianMixture(2), thin=0)
    with pytest.raises(InputError, match=r"GaussianMixture, BernoulliMixture.*use MCMC"):
        Gibbs(lambda x: None).run(key, REAL)
    holes = np.where(np.arange(18).reshape(9, 2) == 3, np.nan, REAL)
    with pytest.raises(InputError, match="every cell"):
        Gibbs(GaussianMixture(1, missing=True)).run(key, holes)
