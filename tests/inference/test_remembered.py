"""A second run compiles next to nothing, draws the same, and sees that a program has changed."""

from __future__ import annotations

import warnings

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from triptych import CAVI, EM, MCMC, SVI, Ascent, BatchAndMatch, ChEES, Gibbs, Laplace, Pathfinder
from triptych.inference import remembered
from triptych.inference.marginal import marginal
from triptych.inference.precision import double_precision
from triptych.inference.remembered import fingerprint, remembering
from triptych.inference.sharing import kept, sharing
from triptych.inference.target import target
from triptych.models import GaussianMixture, InferenceWarning


def two_rates(x):
    """A mixture that nobody wrote a kernel for."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        rates = numpyro.sample("rates", dist.Gamma(2.0, 0.1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Exponential(rates[z]), obs=jnp.exp(x[:, 0]))


METHODS = {
    "em": EM(GaussianMixture(2), restarts=3, draws=50),
    "em derived": EM(two_rates, restarts=3, draws=50),
    "em derived, no draws": EM(two_rates, restarts=3, draws=0),
    "ascent": Ascent(two_rates, restarts=3, draws=50),
    "cavi": CAVI(GaussianMixture(2), restarts=3, draws=50),
    "gibbs": Gibbs(GaussianMixture(2), warmup=50, draws=100, chains=2),
    "pathfinder": Pathfinder(GaussianMixture(2), paths=2, steps=20, draws=50),
    "chees": ChEES(GaussianMixture(2), warmup=50, draws=50, chains=16),
    "batch_and_match": BatchAndMatch(GaussianMixture(2), steps=40, draws=50),
    "mcmc": MCMC(GaussianMixture(2), warmup=50, draws=100, chains=2),
    "laplace": Laplace(GaussianMixture(2), draws=50),
    "svi": SVI(GaussianMixture(2), steps=160, draws=50, particles=1),
}
# The Gaussian that SVI has fitted is constant in its density.
OWN = {"svi": {"log_prob"}}
SHORT = ("laplace", "em", "em derived, no draws", "cavi")


def line(x):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    numpyro.sample("x", dist.Normal(mu, 1).expand([len(x)]).to_event(1), obs=x)


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(remembered, "_REMEMBERED", type(remembered._REMEMBERED)())


@pytest.fixture
def x():
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(-3, 1, (15, 1)), random.normal(3, 1, (15, 1))])


def compiled_by(job):
    """Give what a job returns, and the names of the programs that it had XLA compile."""
    names = []

    def listen(event, start_time, end_time, **how):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(how["fun_name"].removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_time_span_listener(listen)
    try:
        return job(), names
    finally:
        jax.monitoring.unregister_event_time_span_listener(listen)


def quietly(method, key, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # short runs
        return method.run(key, *args)


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_second_run_compiles_next_to_nothing_and_draws_the_same(name, x):
    method, (one, two) = METHODS[name], jax.random.split(jax.random.key(0))
    first = quietly(method, one, x)
    _, names = compiled_by(lambda: quietly(method, two, x.copy()))
    assert set(names) <= OWN.get(name, set())
    assert len(names) == len(set(names))
    again = quietly(method, one, x)
    for site, draws in first.data["posterior"].data_vars.items():
        np.testing.assert_array_equal(again.data["posterior"][site], draws)
    assert again.evidence == first.evidence


def test_a_step_that_the_user_wrote_is_asked_each_time(x):
    """It may read what no fingerprint of the program shows."""
    asked = []

    def raise_rates(expected, parameters):
        asked.append(parameters)
        return {"rates": parameters["rates"]}

    method = EM(two_rates, m_step=raise_rates, restarts=2, max_steps=3, draws=0)
    quietly(method, jax.random.key(0), x)
    count = len(asked)
    quietly(method, jax.random.key(0), x)
    assert len(asked) == 2 * count > 0


def test_another_density_prior_or_name_is_another_program(x):
    width, name = [1.0], ["x"]

    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, width[0]))
        numpyro.sample(name[0], dist.Normal(mu, 1).expand([len(x)]).to_event(1), obs=x)

    def scope():
        with remembering(marginal(program), (x[:, 0],), {}) as (args, kwargs):
            return kept("scope", object), float(target(marginal(program), args, kwargs).density(np.zeros(1)))

    first, density = scope()
    assert scope() == (first, density)
    width[0] = 0.1
    second, higher = scope()
    assert second is not first
    assert higher == pytest.approx(density + np.log(10), rel=1e-6)
    name[0] = "y"
    assert scope()[0] is not second
    assert scope() == scope()


def test_constants_within_loops_are_seen(x):
    """A constant that is written nowhere in the text of a jaxpr."""
    shift = [np.arange(30.0)]

    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        total = jax.lax.fori_loop(0, 3, lambda _, sum: sum + jnp.asarray(shift[0]) * mu, jnp.zeros(30))
        numpyro.sample("x", dist.Normal(total, 1).to_event(1), obs=x)

    with double_precision():
        before = fingerprint(marginal(program), (x[:, 0],), {})
        assert fingerprint(marginal(program), (x[:, 0],), {}) == before
        shift[0] = shift[0] + np.eye(30)[7]
        assert fingerprint(marginal(program), (x[:, 0],), {}) != before


def test_a_program_on_other_data_or_in_other_precision_is_another_call(x):
    def scope(x):
        with remembering(marginal(line), (x,), {}):
            return kept("scope", object)

    first = scope(x[:, 0])
    assert scope(x[:, 0]) is first
    assert scope(x[:, 0] + 1) is not first
    assert scope(x[:, 0].astype(np.float32)) is not first
    with jax.enable_x64(not jax.config.jax_enable_x64):
        assert scope(x[:, 0]) is not first


def test_data_that_the_user_changes_later_are_not_those_that_were_remembered(x):
    data = x[:, 0].copy()

    def first_arguments(data):
        with remembering(marginal(line), (data,), {}) as (args, _):
            return kept("arguments", lambda: args)

    before = first_arguments(data)
    data += 5
    assert first_arguments(data) is not before
    assert first_arguments(x[:, 0]) is before
    np.testing.assert_array_equal(before[0], x[:, 0])


def test_what_is_remembered_is_bounded(x):
    for shift in range(remembered.CALLS + 2):
        with remembering(marginal(line), (x[:, 0] + shift,), {}):
            pass
    assert len(remembered._REMEMBERED) == remembered.CALLS
    made = []
    for run in range(3):
        with remembering(marginal(line), (x[:, 0] + shift,), {}):
            kept("wanted by all", lambda: made.append(None))
            for number in range(remembered.PARTS - 10):
                kept((run, number), object)
        (parts,) = [p for p in remembered._REMEMBERED.values() if "wanted by all" in p]
        assert len(parts) <= remembered.PARTS
    assert len(made) == 1


def test_nothing_is_remembered_of_much_data_within_sharing_or_of_what_fails(x, monkeypatch):
    def fails(x):
        raise RuntimeError

    with remembering(marginal(fails), (x,), {}):
        pass
    with sharing(), remembering(marginal(line), (x[:, 0],), {}):
        pass
    with remembering(marginal(line), (object(),), {}):
        pass
    monkeypatch.setattr(remembered, "LARGEST", 10)
    with remembering(marginal(line), (x[:, 0],), {}):
        pass
    assert not remembered._REMEMBERED
