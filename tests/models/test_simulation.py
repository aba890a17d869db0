"""Ancestral sampling of any program, and the flat distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import Predictive

from triptych.models import MODELS, InputError, simulate
from triptych.models.distributions import Flat


def two_coins(heads=None, *, throws=50):
    choice = numpyro.sample("choice", dist.Beta(2, 2))
    bias = numpyro.sample("bias", dist.Beta(1, 1).expand([2]).to_event(1))
    numpyro.deterministic("both", bias.sum())
    numpyro.factor("tilt", jnp.zeros(()))
    with numpyro.plate("throws", throws):
        coin = numpyro.sample("coin", dist.Bernoulli(choice), infer={"enumerate": "parallel"})
        return numpyro.sample("heads", dist.Binomial(2, bias[coin]), obs=heads)


def test_every_sample_site_and_no_other(key):
    sites = simulate(two_coins, key, throws=7)
    assert {site: value.shape for site, value in sites.items()} == {
        "choice": (),
        "bias": (2,),
        "coin": (7,),
        "heads": (7,),
    }
    assert all(isinstance(value, np.ndarray) for value in sites.values())


def test_parameters_are_held_and_the_rest_follows_them(key):
    sites = simulate(two_coins, key, throws=4000, parameters={"choice": 0.25, "bias": [0.0, 1.0]})
    np.testing.assert_array_equal(sites["heads"], 2 * sites["coin"])
    # Within 5 standard errors.
    assert abs(sites["coin"].mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


def test_data_given_are_kept_and_keys_repeat(key):
    heads = np.ones(3)
    sites = simulate(two_coins, key, heads, throws=3)
    np.testing.assert_array_equal(sites["heads"], heads)
    again = simulate(two_coins, key, heads, throws=3)
    assert all(np.array_equal(sites[site], again[site]) for site in sites)
    other = simulate(two_coins, jax.random.key(1), heads, throws=3)
    assert other["choice"] != sites["choice"]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"bais": [0.1, 0.2]}, "has 'bais', which is not a site of the program .did you mean 'bias'"),
        ({"bias": [0.1, 0.2, 0.3]}, r"`parameters\['bias'\]` must have shape \(2,\), but has \(3,\)"),
        ({"bias": [0.1, 1.2]}, r"`parameters\['bias'\]` must lie in the support of the site"),
    ],
)
def test_wrong_parameters(key, parameters, says):
    with pytest.raises(InputError, match=says):
        simulate(two_coins, key, parameters=parameters)


def test_simulation_is_double_precision_whatever_the_session(key):
    with jax.enable_x64(False):
        assert simulate(two_coins, key)["bias"].dtype == np.float64


@pytest.mark.parametrize("name", MODELS)
def test_every_model_simulates_data_that_it_takes(key, name):
    model = MODELS[name](components=2) if "mixture" in name else MODELS[name]()
    data, latents = model.simulate(key, rows=60)
    args = data if isinstance(data, tuple) else (data,)
    checked = model.validate(*args)
    assert len(checked) == len(args)
    for before, after in zip(args, checked, strict=True):
        np.testing.assert_array_equal(before, after)
    assert all(np.all(np.isfinite(value)) for value in latents.values())


def test_flat_is_flat_and_can_be_drawn(key):
    flat = Flat((3,))
    np.testing.assert_array_equal(flat.sample(key, (2,)), np.zeros((2, 3)))
    np.testing.assert_array_equal(flat.log_prob(np.array([1.0, -1e9, 3.0])), np.zeros(3))
    assert flat.log_prob(np.zeros((5, 3))).shape == (5, 3)
    assert Flat(dtype=jnp.float32).sample(key).dtype == np.float32
    copies = jax.vmap(lambda scale: Flat().log_prob(scale))(jnp.arange(4.0))
    np.testing.assert_array_equal(copies, np.zeros(4))


def test_flat_works_where_numpyro_puts_distributions(key):
    def program():
        with numpyro.plate("n", 3):
            a = numpyro.sample("a", Flat())
        numpyro.sample("x", dist.Normal(a.sum(), 1.0), obs=1.0)

    assert Predictive(program, num_samples=2)(key)["a"].shape == (2, 3)
    model = numpyro.infer.util.initialize_model(key, program)
    assert np.all(np.isfinite(model.param_info.z["a"]))
    leaves, tree = jax.tree.flatten(Flat((3,), jnp.float32))
    assert jax.tree.unflatten(tree, leaves).sample(key).dtype == np.float32
