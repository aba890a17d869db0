"""The marginal against brute force: every assignment of every latent, by plain NumPyro densities."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate, markov
from numpyro.infer.util import log_density

from triptych.inference.marginal import marginal
from triptych.models.errors import InferenceWarning

RNG = np.random.default_rng(0)
X4, X3, X32 = RNG.normal(size=4), RNG.normal(size=3), RNG.normal(size=(3, 2))
BITS = (RNG.random((3, 4)) < 0.5).astype(float)


def components(count: int) -> tuple[Any, Any]:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(count) * 2))
    with numpyro.plate("components", count):
        means = numpyro.sample("means", dist.Normal(0, 3))
    return weights, means


def plated(x):
    weights, means = components(3)
    scale = numpyro.sample("scale", dist.HalfNormal(2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], scale), obs=x)


def one_row(x):
    plated(x[:1])


def one_component(x):
    weights, means = components(1)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)


def loop(x):
    weights, means = components(2)
    for i in range(len(x)):
        z = numpyro.sample(f"z{i}", dist.Categorical(weights))
        numpyro.sample(f"x{i}", dist.Normal(means[z], 1), obs=x[i])


def chain(x, steps=range):
    transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
    with numpyro.plate("components", 3):
        means = numpyro.sample("means", dist.Normal(0, 3))
    z = 0
    for i in steps(len(x)):
        z = numpyro.sample(f"z{i}", dist.Categorical(transition[z]))
        numpyro.sample(f"x{i}", dist.Normal(means[z], 1), obs=x[i])


def chain_markov(x):
    chain(x, steps=lambda count: markov(range(count)))


def separate_latents(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[a], 1), obs=x)
        b = numpyro.sample("b", dist.Bernoulli(weights[0]))
        numpyro.sample("y", dist.Normal(means[b] ** 2, 1), obs=2 * x)


def coupled_latents(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Categorical(weights))
        b = numpyro.sample("b", dist.Categorical(jnp.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])[a]))
        numpyro.sample("x", dist.Normal(means[a] * b, 1 + b), obs=x)


def two_sites(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)
        numpyro.sample("free", dist.Normal(means[0], 1), obs=x)
        numpyro.sample("y", dist.Poisson(jnp.exp(means[z] / 5)), obs=np.arange(len(x)))


def shared_latent(x):
    weights, means = components(2)
    high = numpyro.sample("high", dist.Bernoulli(weights[1]))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z] + high, 1 + high), obs=x)


def lone_latent(x):
    weights, means = components(3)
    z = numpyro.sample("z", dist.Categorical(weights))
    numpyro.sample("x", dist.Normal(means[z], 1), obs=x)


def features_plate(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("classes", 2, dim=-2), numpyro.plate("columns", 4, dim=-1):
        probs = numpyro.sample("probs", dist.Beta(2, 2))
    with numpyro.plate("rows", 3, dim=-2):
        z = numpyro.sample("z", dist.Categorical(weights))
        with numpyro.plate("columns_of_x", 4, dim=-1):
            numpyro.sample("x", dist.Bernoulli(probs[z, jnp.arange(4)]), obs=x)


def nested_latents(x):
    weights, means = components(2)
    with numpyro.plate("groups", 2, dim=-1):
        g = numpyro.sample("g", dist.Categorical(weights))
        with numpyro.plate("items", 3, dim=-2):
            z = numpyro.sample("z", dist.Bernoulli(jnp.array([0.3, 0.8])[g]))
            numpyro.sample("x", dist.Normal(means[z] + g, 1), obs=x)


def two_plates(x, y):
    weights, means = components(2)
    with numpyro.plate("first", len(x)):
        a = numpyro.sample("a", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[a], 1), obs=x)
    with numpyro.plate("second", len(y)):
        b = numpyro.sample("b", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(means[b], 2), obs=y)


def vectors(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        means = numpyro.sample("means", dist.Normal(0, 3).expand([2]).to_event(1))
        scales = numpyro.sample("scales", dist.HalfNormal(jnp.ones(2)).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], scales[z]).to_event(1), obs=x)


def local_continuous(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        y = numpyro.sample("y", dist.Normal(means[z], 1))
        numpyro.sample("x", dist.Normal(y, 0.5 + z), obs=x)


def local_only(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        y = numpyro.sample("y", dist.Normal(means[z], 1))
        numpyro.sample("x", dist.Normal(y, 0.5), obs=x)


def other_supports(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.DiscreteUniform(3, 5))
        b = numpyro.sample("b", dist.Binomial(2, weights[0]))
        numpyro.sample("x", dist.Normal(means[0] * u, 1 + b), obs=x)


def penalty(x):
    weights, means = components(2)
    numpyro.factor("ridge", -0.1 * jnp.sum(means**2))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)
        numpyro.factor("tilt", 0.3 * z * means[0])


def improper(x):
    low = numpyro.sample("low", dist.Uniform(-jnp.abs(x).max(), 0))
    high = numpyro.sample("high", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(jnp.where(z == 1, high, low), 1), obs=x)


def already_enumerating(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)


def partly_labelled(x):
    weights, means = components(2)
    with numpyro.plate("labelled", 2):
        z = numpyro.sample("z_known", dist.Categorical(weights), obs=jnp.array([0, 1]))
        numpyro.sample("x_known", dist.Normal(means[z], 1), obs=x[:2])
    with numpyro.plate("rows", 2):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x[2:])


def scaled(x):
    weights, means = components(2)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        with handlers.scale(scale=0.4):
            numpyro.sample("x", dist.Normal(means[z], 1), obs=x)
        with handlers.mask(mask=np.array([True, False, True, True])):
            numpyro.sample("y", dist.Normal(-means[z], 1), obs=x)


class Case(NamedTuple):
    program: Callable[..., Any]
    args: tuple[Any, ...]
    units: dict[str, tuple[int, ...]]


CASES = {
    case.program.__name__: case
    for case in [
        Case(plated, (X4,), {"x": (4,)}),
        Case(one_row, (X4,), {"x": (1,)}),
        Case(one_component, (X4,), {"x": (4,)}),
        Case(loop, (X3,), {"x0": (), "x1": (), "x2": ()}),
        Case(chain, (X3,), {"x0+x1+x2": ()}),
        Case(chain_markov, (X4,), {"x0+x1+x2+x3": ()}),
        Case(separate_latents, (X3,), {"x": (3,), "y": (3,)}),
        Case(coupled_latents, (X3,), {"x": (3,)}),
        Case(two_sites, (X4,), {"x+y": (4,), "free": (4,)}),
        Case(shared_latent, (X4,), {"x": ()}),
        Case(lone_latent, (X4,), {"x": ()}),
        Case(features_plate, (BITS,), {"x": (3,)}),
        Case(nested_latents, (X32,), {"x": (2,)}),
        Case(two_plates, (X4, X3), {"x": (4,), "y": (3,)}),
        Case(vectors, (X32,), {"x": (3,)}),
        Case(local_continuous, (X4,), {"x": (4,)}),
        Case(local_only, (X4,), {"x": (4,)}),
        Case(other_supports, (X3[:2],), {"x": (2,)}),
        Case(penalty, (X4,), {"ridge": (), "x+tilt": (4,)}),
        Case(improper, (X4,), {"x": (4,)}),
        Case(already_enumerating, (X4,), {"x": (4,)}),
        Case(partly_labelled, (X4,), {"x": (2,), "z_known": (2,), "x_known": (2,)}),
        Case(scaled, (X4,), {"x+y": (4,)}),
    ]
}


def compiled(function):
    """Compile fast rather than well: these run once."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def point(m, args, seed=1):
    """Give a generic value of every parameter."""
    parameters = m.structure(*args).parameters

    def run():
        random = np.random.default_rng(seed)
        values = {}
        for name, site in parameters.items():
            transform = dist.biject_to(site.support)
            values[name] = transform(jnp.asarray(random.normal(size=transform.inverse_shape(site.shape))))
        return values

    return compiled(run)()


def improper_value(site):
    """Give an improper site a value, since it cannot be drawn."""
    return jnp.ones(()) if isinstance(site.get("fn"), dist.ImproperUniform) else None


def assignments(program, latents, args):
    """Give every assignment of every latent, as values (assignments, *site) and as (assignments, cells)."""

    def run():
        run_once = handlers.seed(handlers.substitute(program, substitute_fn=improper_value), 0)
        trace = handlers.trace(run_once).get_trace(*args)
        return {name: trace[name]["value"] for name in latents}

    sites = jax.eval_shape(run)
    cells = [range(latent.size) for latent in latents.values() for _ in range(int(np.prod(latent.shape)))]
    table = np.array(list(itertools.product(*cells)))
    values, indices, start = {}, {}, 0
    for name, latent in latents.items():
        stop = start + int(np.prod(latent.shape))
        indices[name] = table[:, start:stop]
        values[name] = latent.values[indices[name]].reshape(len(table), *sites[name].shape)
        start = stop
    return values, indices


class Oracle(NamedTuple):
    theta: dict[str, Any]
    density: Any
    gradient: dict[str, Any]
    posteriors: dict[str, Any]
    rest: Any


@functools.cache
def oracle(name):
    """Sum by plain NumPyro over every assignment, one by one."""
    program, args, units = CASES[name]
    m = marginal(program)
    latents = m.structure(*args).latents
    theta = point(m, args)
    z, indices = assignments(program, latents, args)
    data = [name for unit in units for name in unit.split("+")]
    without = handlers.block(program, hide=data)

    def log_joints(program, theta):
        return jax.vmap(lambda z: log_density(program, args, {}, {**theta, **z})[0])(z)

    def run(theta):
        joints, pullback = jax.vjp(lambda t: log_joints(program, t), theta)
        shares = jax.nn.softmax(joints)
        # Fisher's identity: ∇ log p(x|θ) = Σ_z p(z|x) ∇ log p(x, z|θ).
        return shares, pullback(shares)[0], joints, log_joints(without, theta)

    shares, gradient, joints, rest = compiled(run)(theta)
    posteriors = {
        name: np.einsum("a,ack->ck", shares, np.eye(latent.size)[indices[name]]).reshape(
            *latent.shape, latent.size
        )
        for name, latent in latents.items()
    }
    logsumexp = jax.scipy.special.logsumexp
    return Oracle(theta, logsumexp(joints), gradient, posteriors, logsumexp(rest))


@functools.cache
def answer(name):
    """Give the marginal's density, gradient, pointwise likelihood and posteriors, in one compiled call."""
    program, args, _ = CASES[name]
    m = marginal(program)

    def run(theta):
        density, gradient = jax.value_and_grad(lambda t: m.log_density(t, *args))(theta)
        return density, gradient, m.log_likelihood(theta, *args), m.posteriors(theta, *args)

    return compiled(run)(oracle(name).theta)


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def test_density_is_the_sum_over_every_assignment(name):
    density, *_ = answer(name)
    assert density.shape == ()
    np.testing.assert_allclose(density, oracle(name).density, rtol=1e-12)


def test_posteriors_are_the_shares_of_the_assignments(name):
    posteriors = answer(name)[3]
    assert set(posteriors) == set(oracle(name).posteriors)
    for latent, expected in oracle(name).posteriors.items():
        np.testing.assert_allclose(posteriors[latent], expected, atol=1e-12)
        np.testing.assert_allclose(posteriors[latent].sum(-1), 1, rtol=1e-12)


def test_gradient_is_the_posterior_mean_of_the_complete_gradient(name):
    for site, expected in oracle(name).gradient.items():
        np.testing.assert_allclose(answer(name)[1][site], expected, rtol=1e-9, atol=1e-9)


def test_pointwise_units_add_up_to_the_density(name):
    program, args, units = CASES[name]
    density, _, pointwise, _ = answer(name)
    assert {unit: value.shape for unit, value in pointwise.items()} == units
    assert marginal(program).structure(*args).units == {unit: tuple(unit.split("+")) for unit in units}
    # What is left when the data and penalties are taken away is the prior.
    total = sum(jnp.sum(value) for value in pointwise.values())
    np.testing.assert_allclose(total + oracle(name).rest, density, rtol=1e-12)


def test_rows_of_a_mixture_by_hand():
    theta = oracle("plated").theta
    table = jnp.log(theta["weights"]) + dist.Normal(theta["means"], theta["scale"]).log_prob(X4[:, None])
    _, _, pointwise, posteriors = answer("plated")
    np.testing.assert_allclose(pointwise["x"], jax.scipy.special.logsumexp(table, axis=1), rtol=1e-12)
    np.testing.assert_allclose(posteriors["z"], jax.nn.softmax(table), rtol=1e-12)


@pytest.mark.parametrize("name", ["plated", "chain_markov", "nested_latents"])
def test_it_agrees_with_numpyros_enumerated_density(name):
    from numpyro.contrib.funsor import enum
    from numpyro.contrib.funsor import log_density as enumerated

    program, args, _ = CASES[name]
    program = enum(config_enumerate(program), first_available_dim=-4)
    peer = compiled(lambda theta: enumerated(program, args, {}, theta)[0])(oracle(name).theta)
    np.testing.assert_allclose(answer(name)[0], peer, rtol=1e-12)


def test_a_long_chain_is_linear_in_its_length():
    x = np.random.default_rng(3).normal(size=40)
    m = marginal(chain_markov)
    theta = oracle("chain_markov").theta
    log_a, log_b = jnp.log(theta["transition"]), dist.Normal(theta["means"], 1).log_prob(x[:, None])
    alpha = log_a[0] + log_b[0]
    for t in range(1, len(x)):
        alpha = jax.scipy.special.logsumexp(alpha[:, None] + log_a, axis=0) + log_b[t]
    with pytest.warns(InferenceWarning, match="MANY_LATENTS"):
        got = compiled(lambda t: sum(m.log_likelihood(t, x).values()))(theta)
    np.testing.assert_allclose(got, jax.scipy.special.logsumexp(alpha), rtol=1e-12)


def test_config_enumerate_changes_nothing():
    m, wrapped = marginal(plated), marginal(config_enumerate(plated))
    both = compiled(lambda theta: (m.log_density(theta, X4), wrapped.log_density(theta, X4)))
    density, same = both(oracle("plated").theta)
    assert density == same


def test_vmap_over_parameters():
    m = marginal(vectors)
    theta = oracle("vectors").theta
    stacked = {name: jnp.stack([value, value]) for name, value in theta.items()}

    @compiled
    @jax.vmap
    def together(theta):
        density = m.log_density(theta, X32)
        return density, m.log_likelihood(theta, X32)["x"], m.posteriors(theta, X32)["z"]

    density, _, pointwise, posteriors = answer("vectors")
    for got, expected in zip(together(stacked), (density, pointwise["x"], posteriors["z"]), strict=True):
        np.testing.assert_allclose(got, jnp.stack([expected, expected]), rtol=1e-12)


def test_data_may_be_traced_too():
    got = compiled(marginal(vectors).log_density)(oracle("vectors").theta, X32)
    np.testing.assert_allclose(got, answer("vectors")[0], rtol=1e-12)


def test_it_runs_without_jit():
    theta = oracle("lone_latent").theta
    np.testing.assert_allclose(marginal(lone_latent).log_density(theta, X4), answer("lone_latent")[0])


def test_float32_stays_float32():
    x = X4.astype(np.float32)
    theta = {name: np.asarray(value, np.float32) for name, value in oracle("plated").theta.items()}
    m = marginal(plated)
    with jax.enable_x64(False):
        density, posteriors, pointwise = jax.eval_shape(
            lambda t: (m.log_density(t, x), m.posteriors(t, x)["z"], m.log_likelihood(t, x)["x"]), theta
        )
    assert density.dtype == posteriors.dtype == pointwise.dtype == np.float32


def test_an_impossible_component_gets_no_share_and_no_nan():
    theta = {"weights": jnp.array([0.5, 0.5, 0.0]), "means": jnp.zeros(3), "scale": jnp.array(1.0)}
    posteriors = compiled(lambda theta: marginal(plated).posteriors(theta, X4)["z"])(theta)
    np.testing.assert_allclose(posteriors[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(posteriors[:, :2], 0.5, rtol=1e-12)
