"""Responsibilities of a fit: at EM's point, averaged over the draws of SVI and MCMC."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr

from triptych.inference.fit import Fit, Seconds
from triptych.inference.marginal import marginal
from triptych.inference.responsibilities import average_posteriors, responsibilities
from triptych.inference.status import Status
from triptych.models.errors import InputError

X = np.random.default_rng(0).normal(size=7)
DRAWS = {
    "means": np.random.default_rng(1).normal(size=(2, 5, 3)),
    "weights": np.random.default_rng(2).dirichlet(np.ones(3), size=(2, 5)),
}


def mixture(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    means = numpyro.sample("means", dist.Normal(0, 3).expand([3]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)


def two_latents(x):
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(0.3))
        b = numpyro.sample("b", dist.Bernoulli(0.6))
        numpyro.sample("x", dist.Normal(a + 2 * b, 1), obs=x)


def no_latent(x):
    numpyro.sample("x", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), 1), obs=x)


def a_fit(method, model, parameters=None, draws=None):
    posterior = {
        name: (("chain", "draw", *(f"{name}_{i}" for i in range(v.ndim - 2))), v)
        for name, v in (draws or {}).items()
    }
    data = xr.DataTree.from_dict({"posterior": xr.Dataset(posterior)})
    return Fit(method, model, Status.CONVERGED, Seconds(0, 0), parameters or {}, 0.0, np.zeros(1), data)


def shares(weights, means, x):
    table = np.log(weights)[..., None, :] - 0.5 * (x[:, None] - means[..., None, :]) ** 2
    return np.asarray(jax.nn.softmax(table, axis=-1))


def test_em_at_its_point_for_new_data_too():
    point = {name: value[0, 0] for name, value in DRAWS.items()}
    fit = a_fit("em", mixture, point)
    for x in (X, X[:2] + 1):
        got = fit.responsibilities(x)
        assert isinstance(got, np.ndarray)
        np.testing.assert_allclose(got, shares(point["weights"], point["means"], x), rtol=1e-12)
        np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize("method", ["svi", "mcmc"])
def test_draws_are_averaged(method):
    point = {name: value[0, 0] for name, value in DRAWS.items()}
    got = responsibilities(a_fit(method, mixture, point, DRAWS), X)
    expected = shares(DRAWS["weights"].reshape(10, 3), DRAWS["means"].reshape(10, 3), X).mean(0)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_several_latents_come_by_name():
    got = responsibilities(a_fit("em", two_latents), X)
    assert {name: value.shape for name, value in got.items()} == {"a": (7, 2), "b": (7, 2)}


def test_float32_stays_float32():
    point = {name: value[0, 0].astype(np.float32) for name, value in DRAWS.items()}
    with jax.enable_x64(False):
        assert responsibilities(a_fit("em", mixture, point), X.astype(np.float32)).dtype == np.float32


def test_average_of_one_draw_is_that_draw():
    draws = {name: value[0, :1] for name, value in DRAWS.items()}
    got = average_posteriors(marginal(mixture), draws, X)["z"]
    np.testing.assert_allclose(got, shares(draws["weights"][0], draws["means"][0], X), rtol=1e-12)


def test_no_latent_is_an_error():
    with pytest.raises(InputError, match="no discrete latent"):
        responsibilities(a_fit("em", no_latent, {"mu": np.zeros(())}), X)
