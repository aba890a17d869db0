"""NUTS on the marginal against exact posteriors and quadrature."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

from triptych.inference.marginal import marginal
from triptych.inference.mcmc import MCMC, overdispersed
from triptych.inference.posterior import draws
from triptych.inference.starts import around, best_of_climbs, target
from triptych.inference.status import Status
from triptych.models import GaussianMixture, InferenceWarning, InputError


def conjugate(x):
    mu = numpyro.sample("mu", dist.Normal(1000.0, 3000.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 2.0), obs=x)


def two_means(x):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def test_a_conjugate_posterior_and_what_the_fit_keeps(key):
    x = np.random.default_rng(0).normal(5000.0, 2.0, size=25)
    seen = []
    fit = MCMC(conjugate, warmup=300, draws=1000).run(key, x, progress=lambda *a: seen.append(a))
    assert fit.status is Status.CONVERGED
    precision = 1 / 3000**2 + 25 / 4
    mean = (1000 / 3000**2 + x.sum() / 4) / precision
    mu = draws(fit)["mu"]
    assert mu.shape == (4, 1000)
    assert (mu.mean() - mean) * np.sqrt(precision) == pytest.approx(0, abs=0.1)
    assert mu.std() * np.sqrt(precision) == pytest.approx(1, rel=0.08)
    assert seen[-1][0] == seen[-1][1] == 1300
    statistics = fit.data["sample_stats"]
    assert {"lp", "diverging", "n_steps", "tree_depth", "acceptance_rate", "energy", "step_size"} <= set(
        statistics
    )
    expected = norm.logpdf(mu, 1000, 3000) + norm.logpdf(x, mu[..., None], 2).sum(-1)
    np.testing.assert_allclose(statistics["lp"], expected, rtol=1e-9)
    np.testing.assert_allclose(fit.data["log_likelihood"]["x"], norm.logpdf(x, mu[..., None], 2), rtol=1e-8)
    assert fit.log_likelihood == pytest.approx(norm.logpdf(x, mu.mean(), 2).sum())
    assert fit.objective.shape == (0,)
    assert fit.seconds.compile > 0


def test_chains_start_apart_in_the_scale_of_the_posterior(key):
    x = np.random.default_rng(0).normal(5000.0, 2.0, size=25)
    start = best_of_climbs(key, marginal(conjugate), (x,), {})
    assert start.centre[0] == pytest.approx(x.mean(), abs=0.1)
    assert start.scale[0] == pytest.approx(2 / 5, rel=1e-3)
    points = overdispersed(key, start, 400)
    assert points.shape == (400, 1)
    assert points.std() == pytest.approx(2, rel=0.15)


def test_the_start_with_the_best_elbo_is_not_the_highest_spike(key):
    # Four equal values: a component on them alone has an ever higher density, and no volume.
    x = np.concatenate([np.zeros(4), np.random.default_rng(0).normal(5, 1, size=40)])

    def program(x):
        scale = numpyro.sample("scale", dist.HalfNormal(3).expand([2]).to_event(1))
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
            numpyro.sample("x", dist.Normal(mu[z], scale[z]), obs=x)

    start = best_of_climbs(key, marginal(program), (x,), {})
    assert np.isfinite(start.elbo)


def test_wrong_settings_are_refused():
    for wrong in (
        {"warmup": 0},
        {"draws": 1.5},
        {"chains": True},
        {"target_accept": 1.0},
        {"chain_method": "x"},
    ):
        (name,) = wrong
        with pytest.raises(InputError, match=f"`{name}`"):
            MCMC(conjugate, **wrong)


def test_a_start_must_have_every_site(key):
    with pytest.raises(InputError, match="no 'mu'"):
        MCMC(conjugate).run(key, np.zeros(3), parameters={})


def test_short_chains_say_so(key):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = MCMC(conjugate, warmup=20, draws=30, chains=1, chain_method="sequential").run(
            key, np.arange(5.0)
        )
    codes = [finding.code for finding in fit.findings]
    assert "ONE_CHAIN" in codes
    assert "FEW_DRAWS" in codes
    assert not fit.status.ok
    assert {str(w.message).split("]")[0][1:] for w in caught if w.category is InferenceWarning} == set(codes)


@pytest.mark.slow
def test_a_tiny_mixture_against_quadrature(key):
    x = np.array([-2.2, -1.7, -0.4, 1.3, 1.9, 2.6])
    fit = MCMC(two_means, warmup=1000, draws=2000).run(key, x)
    grid = np.linspace(-8, 8, 401)
    first, second = grid[:, None, None], grid[None, :, None]
    rows = np.logaddexp(norm.logpdf(x, first, 1), norm.logpdf(x, second, 1)) - np.log(2)
    log_joint = rows.sum(-1) + norm.logpdf(grid, 0, 3)[:, None] + norm.logpdf(grid, 0, 3)
    weight = np.exp(log_joint - log_joint.max())
    weight /= weight.sum()
    low, high = np.minimum(first, second)[..., 0], np.maximum(first, second)[..., 0]
    mu = np.sort(draws(fit)["mu"], axis=-1).reshape(-1, 2)
    for values, column in ((low, 0), (high, 1)):
        mean = np.sum(weight * values)
        sd = np.sqrt(np.sum(weight * (values - mean) ** 2))
        assert (mu[:, column].mean() - mean) / sd == pytest.approx(0, abs=0.08)
        assert mu[:, column].std() / sd == pytest.approx(1, rel=0.08)


@pytest.mark.slow
def test_units_change_nothing_but_the_units(key, data_path):
    x = np.loadtxt(data_path("galaxies"), skiprows=1, delimiter=",").reshape(-1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        large = MCMC(GaussianMixture(3)).run(key, x)
        small = MCMC(GaussianMixture(3)).run(key, x / 1000)
    first, second = (np.sort(draws(fit)["means"][..., 0], axis=-1) for fit in (large, small))
    # Quartiles: the tails are another mode, which two runs visit a different number of times.
    low, middle, high = np.quantile(first, [0.25, 0.5, 0.75], axis=(0, 1))
    own_low, own_middle, own_high = 1000 * np.quantile(second, [0.25, 0.5, 0.75], axis=(0, 1))
    np.testing.assert_allclose((own_middle - middle) / (high - low), 0, atol=0.2)
    np.testing.assert_allclose((own_high - own_low) / (high - low), 1, rtol=0.25)


@pytest.mark.slow
def test_simulated_truth_is_within_the_stated_error(key):
    model = GaussianMixture(2, covariance="spherical")
    truth = {
        "weights": jnp.array([0.3, 0.7]),
        "means": jnp.array([[0.0, 0.0], [4.0, 1.0]]),
        "covariances": jnp.array([1.0, 0.5]),
    }
    x, _ = model.simulate(jax.random.key(1), rows=400, parameters=truth)
    fit = MCMC(model).run(key, np.asarray(x))
    assert fit.status is Status.CONVERGED
    means = draws(fit)["means"]
    order = np.argsort(fit.parameters["means"][:, 0])
    error = (fit.parameters["means"][order] - truth["means"]) / means.std(axis=(0, 1))[order]
    assert np.all(np.abs(error) < 3.5)


def test_a_mode_is_found_next_to_a_point(key):
    x = np.array([-3.0, -2.5, 2.5, 3.0])
    posterior = target(marginal(two_means), (x,), {})
    start = around(key, posterior, np.array([-1.0, 1.0]))
    gradient = np.asarray(posterior.value_and_grad(jnp.asarray(start.centre))[1])
    np.testing.assert_allclose(gradient, 0, atol=1e-4)
    assert start.centre[0] < 0 < start.centre[1]
    assert start.elbo < posterior.values(start.centre[None])[0] + 2 * np.log(2 * np.pi)
