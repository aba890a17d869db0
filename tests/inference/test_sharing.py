"""What is compiled is compiled once for all who ask, with no more effort than it is worth: same answers."""

from __future__ import annotations

import warnings

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from triptych import SVI
from triptych.inference import effort
from triptych.inference.batches import in_batches
from triptych.inference.marginal import marginal
from triptych.inference.precision import double_precision
from triptych.inference.sharing import kept, sharing
from triptych.inference.symmetry import labels_of
from triptych.inference.target import target
from triptych.models import GaussianMixture, InferenceWarning


def two_means(x):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


@pytest.fixture(scope="module")
def x():
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(-3, 1, 15), random.normal(3, 1, 15)])


@pytest.fixture
def compiled():
    """List the names of the programs handed to XLA while a test runs."""
    names = []

    def listen(event, start_time, end_time, **how):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(how.get("fun_name", ""))

    jax.monitoring.register_event_time_span_listener(listen)
    yield names
    jax.monitoring.unregister_event_time_span_listener(listen)


def test_a_target_is_shared_within_a_block_by_program_data_and_precision(x):
    m = marginal(two_means)
    with double_precision():
        assert target(m, (x,), {}) is not target(m, (x,), {})
        with sharing():
            one = target(m, (x,), {})
            with sharing():
                assert target(marginal(two_means), (x.copy(),), {}) is one
            assert target(m, (x + 1,), {}) is not one
            assert target(m, (x,), {}, jacobian=False) is not one
            with jax.enable_x64(False):
                assert target(m, (x,), {}) is not one
        assert target(m, (x,), {}) is not one


def test_a_program_whose_surroundings_change_is_read_anew_outside_a_block(x):
    width = [1.0]

    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, width[0]))
        numpyro.sample("x", dist.Normal(mu, 1).expand([len(x)]).to_event(1), obs=x)

    def density():
        return float(target(marginal(program), (x,), {}).density(jnp.array([2.0])))

    before = density()
    width[0] = 0.1
    assert density() < before - 100


def test_nothing_of_a_trace_is_kept():
    made = []

    def make(value):
        made.append(value)
        return value

    with sharing():
        jax.jit(lambda value: kept("one", lambda: make(value), lambda found: found))(1.0)
        assert kept("one", lambda: make(2.0), lambda found: found) == 2.0
        assert kept("one", lambda: make(3.0), lambda found: found) == 2.0
    assert len(made) == 2


def test_one_program_serves_any_number_of_draws():
    traced = []

    def total(value):
        traced.append(None)
        return jnp.sum(value)

    with sharing():
        for count in (1, 63, 64, 200):
            values = np.random.default_rng(0).normal(size=(count, 3))
            np.testing.assert_allclose(in_batches(total, values), values.sum(axis=1), rtol=1e-5)
    assert len(traced) == 1


@pytest.mark.parametrize("work", [1.0, 1e8, 1e10])
def test_effort_changes_no_more_than_rounding(work):
    def function(x):
        return jnp.cumsum(jnp.exp(-(x**2)) @ jnp.linalg.inv(jnp.eye(20) + x @ x.T / 20))

    with double_precision():
        x = np.random.default_rng(0).normal(size=(20, 20))
        found = effort.briefly(function, work)(x)
        np.testing.assert_allclose(found, jax.jit(function)(x), rtol=1e-11, atol=1e-12)


def test_effort_is_chosen_by_the_work_of_each_call(monkeypatch):
    monkeypatch.setattr(effort, "_known", lambda: True)
    assert effort.options(1) == effort.BRIEF
    assert effort.options(2 * effort.LITTLE) == effort.MODERATE
    assert effort.options(2 * effort.SOME) == effort.IN_ORDER
    monkeypatch.setattr(effort, "_known", lambda: False)  # a version of XLA without them
    assert effort.options(1) == {}
    doubled = effort.by_work(lambda x: 2 * x)
    assert float(doubled(1.0, work=1.0)) == float(doubled(1.0, work=1e12)) == 2.0


def test_normals_are_those_of_jax(key):
    with double_precision():
        np.testing.assert_allclose(
            effort.normals(key, (50, 3)), jax.random.normal(key, (50, 3)), rtol=1e-12, atol=1e-14
        )


def test_exchanged_labels_in_numpy_are_those_of_the_traced_formula(x):
    m = marginal(GaussianMixture(3))
    rows = x[:, None]
    with double_precision():
        space = target(m, (rows,), {}).space
        theta = {"weights": np.full(3, 1 / 3), "means": np.array([[-3.0], [0.0], [3.0]])}
        theta["covariances"] = np.ones((3, 1, 1))
        labels = labels_of(m, theta, (rows,), {})
        assert labels.size == 6
        centre = np.asarray(space.unconstrain(theta))
        u = centre + np.random.default_rng(1).normal(size=(70, space.size))
        found = labels.exchanged_at(space, lambda points: -0.5 * np.sum((points - centre) ** 2, axis=1), u)
        expected = jax.vmap(
            lambda point: labels.exchanged(space, lambda v: -0.5 * jnp.sum((v - centre) ** 2), point)
        )(u)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.slow
def test_svi_compiles_few_programs(x, key, compiled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        SVI(GaussianMixture(2), steps=160, draws=50, particles=1).run(key, x[:, None])
    assert len(compiled) <= 330
