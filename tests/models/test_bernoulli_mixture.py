"""The Bernoulli mixture against enumeration of every outcome, scipy, and what it simulates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats

from triptych.models import BernoulliMixture, InputError, mixture_covariance, mixture_mean

K, D = 3, 4
RNG = np.random.default_rng(0)
WEIGHTS, PROBS = RNG.dirichlet(np.ones(K)), RNG.uniform(0.05, 0.95, size=(K, D))
OUTCOMES = np.array(list(itertools.product([0.0, 1.0], repeat=D)))


def enumerated_mass(weights=WEIGHTS, probs=PROBS):
    """Give p(x) of each of the 2^D outcomes."""
    rows = np.prod(np.where(OUTCOMES[:, None, :] == 1, probs, 1 - probs), axis=-1)
    return rows @ weights


def test_log_density_is_the_declared_one():
    x, z = OUTCOMES, np.arange(len(OUTCOMES)) % K
    model = BernoulliMixture(K, concentration=(1.0, 2.0, 3.0), probs_concentration=(2.0, 3.0))
    expected = stats.dirichlet([1, 2, 3]).logpdf(WEIGHTS) + stats.beta(2, 3).logpdf(PROBS).sum()
    expected += np.log(WEIGHTS)[z].sum() + stats.bernoulli(PROBS[z]).logpmf(x).sum()
    values = {"weights": WEIGHTS, "probs": PROBS, "z": z}
    for data in (x, x.astype(int), x.astype(bool)):
        density = float(log_density(model, (data,), {}, values)[0])
        assert density == pytest.approx(expected, rel=1e-10)


def test_float32_stays_float32():
    # With x64 off: NumPyro's Bernoulli takes its values in the session's default precision.
    with jax.enable_x64(False):
        values = {"weights": np.float32(WEIGHTS), "probs": np.float32(PROBS), "z": np.zeros(16, int)}
        assert log_density(BernoulliMixture(K), (np.float32(OUTCOMES),), {}, values)[0].dtype == np.float32


def test_mean_and_covariance_against_enumeration():
    mass = enumerated_mass()
    assert mass.sum() == pytest.approx(1)
    mean = mass @ OUTCOMES
    covariance = (OUTCOMES - mean).T * mass @ (OUTCOMES - mean)
    np.testing.assert_allclose(mixture_mean(WEIGHTS, PROBS), mean, rtol=1e-12)
    np.testing.assert_allclose(mixture_covariance(WEIGHTS, PROBS), covariance, atol=1e-14)


def test_covariance_is_the_formula_of_the_textbook():
    mean = WEIGHTS @ PROBS
    within = [np.diag(p * (1 - p)) + np.outer(p, p) for p in PROBS]
    expected = np.einsum("k,kde->de", WEIGHTS, within) - np.outer(mean, mean)
    np.testing.assert_allclose(mixture_covariance(WEIGHTS, PROBS), expected, atol=1e-14)


def test_moments_of_many_mixtures_at_once_and_in_jax():
    weights, probs = np.stack([WEIGHTS, WEIGHTS[::-1]]), np.stack([PROBS, PROBS[::-1]])
    covariances = mixture_covariance(weights, probs)
    np.testing.assert_allclose(covariances[0], covariances[1], atol=1e-14)  # labels do not matter
    assert mixture_mean(weights, probs).shape == (2, D)
    traced = mixture_covariance(jnp.asarray(weights), jnp.asarray(probs))
    np.testing.assert_allclose(traced, covariances, rtol=1e-12)


def test_simulated_moments(key):
    rows = 40_000
    x, latents = BernoulliMixture(K).simulate(key, rows, parameters={"weights": WEIGHTS, "probs": PROBS})
    assert x.shape == (rows, D)
    assert set(np.unique(x)) == {0, 1}
    mean, covariance = mixture_mean(WEIGHTS, PROBS), mixture_covariance(WEIGHTS, PROBS)
    # Within 5 standard errors; that of a covariance is taken from the exact fourth moments.
    assert np.all(abs(x.mean(axis=0) - mean) < 5 * np.sqrt(np.diag(covariance) / rows))
    away = OUTCOMES - mean
    products = away[:, :, None] * away[:, None, :]
    error = np.sqrt((np.tensordot(enumerated_mass(), products**2, 1) - covariance**2) / rows)
    assert np.all(abs(np.cov(x.T) - covariance) < 5 * error + 1e-12)
    shares = np.bincount(latents["z"]) / rows
    assert np.all(abs(shares - WEIGHTS) < 5 * np.sqrt(WEIGHTS * (1 - WEIGHTS) / rows))


def test_shapes(key):
    x, latents = BernoulliMixture(K).simulate(key, rows=9)
    assert x.shape == (9, 2)
    assert {site: v.shape for site, v in latents.items()} == {"weights": (K,), "probs": (K, 2), "z": (9,)}
    assert handlers.seed(BernoulliMixture(K), key)().shape == (100, 2)


def test_prior_and_value():
    model = BernoulliMixture(4, probs_concentration=[2, 3])
    np.testing.assert_allclose(model.prior().concentration, [1.25] * 4)
    np.testing.assert_array_equal(model.prior(OUTCOMES).probs_concentration, [2, 3])
    assert hash(model) == hash(BernoulliMixture(4, probs_concentration=(2.0, 3.0)))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"components": 0}, "`components` must be a whole number"),
        ({"components": 2, "concentration": (1.0,)}, "`concentration` has 1 numbers for 2 components"),
        ({"components": 2, "probs_concentration": 1.0}, "two numbers above 0"),
        ({"components": 2, "probs_concentration": (1.0, 0.0)}, "two numbers above 0"),
        ({"components": 2, "probs_concentration": "ab"}, "finite numbers"),
    ],
)
def test_wrong_hyperparameters(arguments, says):
    with pytest.raises(InputError, match=says):
        BernoulliMixture(**arguments)


def test_parameters_of_another_width():
    values = {"weights": WEIGHTS, "probs": PROBS[:, :2], "z": np.zeros(16, int)}
    with pytest.raises(InputError, match="`x` has 4 columns, but `probs` has 2"):
        log_density(BernoulliMixture(K), (OUTCOMES,), {}, values)
