"""Every autoguide of NumPyro, and NUTS, on a plated mixture (NumPyro alone: KeyError 'z')."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, autoguide

from triptych.inference.marginal import marginal

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(-3, 1, size=40), RNG.normal(2, 1, size=80)])


def mixture(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        means = numpyro.sample("means", dist.Normal(jnp.array([-5.0, 5.0]), 3))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)


GUIDES = {
    "AutoDiagonalNormal": {},
    "AutoMultivariateNormal": {},
    "AutoLowRankMultivariateNormal": {"rank": 1},
    "AutoLaplaceApproximation": {},
    "AutoIAFNormal": {"hidden_dims": [4, 4]},
    "AutoBNAFNormal": {"hidden_factors": [2]},
    "AutoDAIS": {"K": 2},
    "AutoDelta": {},
    "AutoNormal": {},
}


@pytest.mark.parametrize("name", GUIDES)
def test_autoguide_runs(name, key):
    m = marginal(mixture)
    guide = getattr(autoguide, name)(m, **GUIDES[name])
    svi = SVI(m, guide, optax.adam(0.01), Trace_ELBO())
    result = svi.run(key, 2, X, progress_bar=False)
    assert np.all(np.isfinite(result.losses))
    shapes = jax.eval_shape(lambda p: guide.sample_posterior(key, p, X, sample_shape=(3,)), result.params)
    assert (shapes["weights"].shape, shapes["means"].shape) == ((3, 2), (3, 2))


def test_svi_finds_the_truth(key):
    m = marginal(mixture)
    guide = autoguide.AutoNormal(m)
    result = SVI(m, guide, optax.adam(0.03), Trace_ELBO()).run(key, 1500, X, progress_bar=False)
    median = guide.median(result.params)
    np.testing.assert_allclose(median["means"], [X[:40].mean(), X[40:].mean()], atol=0.15)
    np.testing.assert_allclose(median["weights"], [1 / 3, 2 / 3], atol=0.05)


def test_nuts_finds_the_truth_and_draws_come_back_whole(key):
    m = marginal(mixture)
    mcmc = MCMC(NUTS(m), num_warmup=200, num_samples=300, progress_bar=False)
    mcmc.run(key, X)
    draws = mcmc.get_samples()
    assert set(draws) == {"weights", "means"}
    # Well separated and the variance known: the posterior of a mean is N(its rows' mean, 1/n), nearly.
    np.testing.assert_allclose(draws["means"].mean(0), [X[:40].mean(), X[40:].mean()], atol=0.05)
    np.testing.assert_allclose(draws["means"].std(0), [40**-0.5, 80**-0.5], rtol=0.25)
    pointwise = jax.vmap(lambda p: m.log_likelihood(p, X)["x"])(draws)
    assert pointwise.shape == (300, 120)


def test_predictive_replays_the_marginal(key):
    draws = {"weights": jnp.full((3, 2), 0.5), "means": jnp.tile(jnp.array([-3.0, 2.0]), (3, 1))}
    sites = Predictive(marginal(mixture), draws)(key, X)
    assert "log_marginal" in sites
