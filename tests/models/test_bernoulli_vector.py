"""The fast Bernoulli vector is NumPyro's, for every way that rows meet components."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from triptych.models.distributions import BernoulliVector


@pytest.mark.parametrize("shape", [(3, 1, 5), (3, 5), (5,), (7, 5), (2, 3, 1, 5)])
def test_log_prob_and_gradient_are_those_of_numpyro(shape):
    random = np.random.default_rng(0)
    probs = jnp.asarray(random.uniform(size=shape))
    rows = (7,) if shape != (3, 5) else (3,)
    value = (random.uniform(size=(*rows, 5)) < 0.5).astype(float)
    ours = BernoulliVector(probs).log_prob(value)
    theirs = dist.Bernoulli(probs).to_event(1).log_prob(value)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    gradient = jax.grad(lambda p: BernoulliVector(p).log_prob(value).sum())(probs)
    expected = jax.grad(lambda p: dist.Bernoulli(p).to_event(1).log_prob(value).sum())(probs)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9)


def test_certain_entries_are_finite():
    certain = BernoulliVector(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(certain.log_prob(jnp.array([0.0, 1.0])), 0, atol=1e-12)
    assert certain.log_prob(jnp.array([1.0, 1.0])) < -700


def test_draws_have_their_means(key):
    draws = BernoulliVector(jnp.array([0.2, 0.9])).sample(key, (4000,))
    np.testing.assert_allclose(draws.mean(axis=0), [0.2, 0.9], atol=0.03)
