"""What the marginal shows to the handlers around it, and what it refuses, each with the site named."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density

from triptych.inference.marginal import marginal
from triptych.models.errors import InputError

X = np.array([-2.0, -1.0, 0.5, 3.0])
WEIGHTS = jnp.array([0.3, 0.7])
MEANS = jnp.array([-1.0, 2.0])


def mixture(x, subsample=None):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x), subsample_size=subsample) as rows:
        z = numpyro.sample("z", dist.Categorical(WEIGHTS))
        numpyro.sample("x", dist.Normal(mu[z], 1), obs=x[rows])


def run_trace(program, *args, seed=0):
    return handlers.trace(handlers.seed(program, seed)).get_trace(*args)


def table(mu, x=X):
    return jnp.log(WEIGHTS) + dist.Normal(mu, 1).log_prob(x[:, None])


def test_only_continuous_sites_and_one_factor_are_seen():
    trace = run_trace(marginal(mixture), X)
    assert [name for name, site in trace.items() if site["type"] == "sample"] == ["mu", "log_marginal"]
    assert trace["log_marginal"]["is_observed"]


def test_marginal_of_marginal_is_itself():
    m = marginal(mixture)
    assert marginal(m) is m


def test_program_without_discrete_latents_is_left_alone():
    def regression(x, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1))
        return numpyro.sample("y", dist.Normal(w * x, 1), obs=y)

    m = marginal(regression)
    trace = run_trace(m, X, X)
    assert list(trace) == ["w", "y"]
    structure = m.structure(X, X)
    assert (structure.latents, structure.units) == ({}, {"y": ("y",)})
    assert m.posteriors({"w": 1.0}, X, X) == {}
    np.testing.assert_allclose(m.log_likelihood({"w": 1.0}, X, X)["y"], dist.Normal(0, 1).log_prob(0.0))
    np.testing.assert_allclose(
        m.log_density({"w": 0.3}, X, X), log_density(regression, (X, X), {}, {"w": 0.3})[0]
    )
    np.testing.assert_array_equal(handlers.seed(m, 0)(X, X), X)


def test_params_and_deterministics_survive_unless_they_hang_on_a_latent():
    def program(x):
        scale = numpyro.param("scale", 2.0, constraint=dist.constraints.positive)
        mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
        numpyro.deterministic("gap", mu[1] - mu[0])
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(WEIGHTS))
            numpyro.deterministic("mean", mu[z])
            numpyro.sample("x", dist.Normal(mu[z], scale), obs=x)
        numpyro.deterministic("first", jnp.sum(z == 0))

    trace = run_trace(marginal(program), X)
    assert set(trace) - {"rows"} == {"scale", "mu", "gap", "log_marginal"}
    density = log_density(marginal(program), (X,), {}, {"mu": MEANS, "scale": 0.5})[0]
    rows = jnp.log(WEIGHTS) + dist.Normal(MEANS, 0.5).log_prob(X[:, None])
    expected = jax.scipy.special.logsumexp(rows, axis=1).sum() + dist.Normal(0, 3).log_prob(MEANS).sum()
    np.testing.assert_allclose(density, expected)


def test_local_continuous_site_is_seen_without_its_density():
    def program(x):
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(WEIGHTS))
            y = numpyro.sample("y", dist.Normal(MEANS[z], 1))
            numpyro.sample("x", dist.Normal(y, 1), obs=x)

    trace = run_trace(marginal(program), X)
    assert trace["y"]["value"].shape == (4,)
    np.testing.assert_array_equal(trace["y"]["fn"].log_prob(trace["y"]["value"]), 0)
    assert marginal(program).structure(X).parameters["y"].hangs_on == ("z",)


def test_structure_reads_shapes_supports_latents_and_units():
    structure = marginal(mixture).structure(X)
    assert structure.parameters["mu"].shape == (2,)
    assert structure.parameters["mu"].support == dist.constraints.real_vector
    latent = structure.latents["z"]
    assert (latent.plates, latent.shape, latent.size) == (("rows",), (4,), 2)
    np.testing.assert_array_equal(latent.values, [0, 1])
    assert (dict(structure.observed), dict(structure.units)) == ({"x": (4,)}, {"x": ("x",)})


def test_computed_bounds_are_arrays_and_not_tracers():
    def program(x):
        low = numpyro.sample("low", dist.Uniform(jnp.min(x) - 1, jnp.max(x)))
        numpyro.sample("x", dist.Normal(low, 1), obs=x)

    support = marginal(program).structure(jnp.asarray(X)).parameters["low"].support
    assert (float(support.lower_bound), float(support.upper_bound)) == (-3, 3)


def test_subsampled_rows_are_scaled_up_after_their_latents_are_summed_out():
    rows = jnp.array([0, 3])
    program = handlers.substitute(lambda x: mixture(x, subsample=2), data={"rows": rows})
    m = marginal(program)
    prior = dist.Normal(0, 3).log_prob(MEANS).sum()
    pointwise = jax.scipy.special.logsumexp(table(MEANS, X[rows]), axis=1)
    np.testing.assert_allclose(m.log_density({"mu": MEANS}, X), prior + 2 * pointwise.sum())
    np.testing.assert_allclose(m.log_likelihood({"mu": MEANS}, X)["x"], pointwise)
    np.testing.assert_allclose(m.posteriors({"mu": MEANS}, X)["z"], jax.nn.softmax(table(MEANS, X[rows])))


def test_a_random_subsample_is_the_same_inside_and_outside():
    m = marginal(lambda x: mixture(x, subsample=2))
    trace = run_trace(m, jnp.asarray(X), seed=3)
    rows = trace["rows"]["value"]
    expected = 2 * jax.scipy.special.logsumexp(table(trace["mu"]["value"], X[rows]), axis=1).sum()
    np.testing.assert_allclose(trace["log_marginal"]["fn"].log_factor, expected)


def test_a_masked_latent_is_absent_and_adds_nothing():
    keep = np.array([True, True, False, False])

    def program(x):
        with numpyro.plate("rows", len(x)), handlers.mask(mask=keep):
            z = numpyro.sample("z", dist.Categorical(WEIGHTS))
            numpyro.sample("x", dist.Normal(MEANS[z], 1), obs=x)

    expected = jax.scipy.special.logsumexp(table(MEANS), axis=1) * keep
    np.testing.assert_allclose(marginal(program).log_likelihood({}, X)["x"], expected, atol=1e-12)


def test_labels_known_for_some_rows_by_obs_mask():
    known = np.array([True, False, True, False])

    def program(x):
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(WEIGHTS), obs=np.array([0, 0, 1, 0]), obs_mask=known)
            numpyro.sample("x", dist.Normal(MEANS[z], 1), obs=x)

    rows = table(MEANS)
    expected = jnp.where(
        known, rows[jnp.arange(4), jnp.array([0, 0, 1, 0])], jax.scipy.special.logsumexp(rows, axis=1)
    )
    total = sum(jnp.sum(value) for value in marginal(program).log_likelihood({}, X).values())
    np.testing.assert_allclose(total, expected.sum())


def test_scan_of_continuous_sites_may_stand_beside_a_latent():
    def program(x):
        _, drift = scan(lambda c, _: (numpyro.sample("walk", dist.Normal(c, 1)),) * 2, 0.0, None, length=4)
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(WEIGHTS))
            numpyro.sample("x", dist.Normal(MEANS[z] + drift, 1), obs=x)

    walk = jnp.array([0.1, 0.4, 0.2, -0.3])
    got = marginal(program).log_density({"walk": walk}, X)
    prior = dist.Normal(jnp.concatenate([jnp.zeros(1), walk[:-1]]), 1).log_prob(walk).sum()
    np.testing.assert_allclose(got, prior + jax.scipy.special.logsumexp(table(MEANS, X - walk), axis=1).sum())


def poisson_latent(x):
    n = numpyro.sample("n", dist.Poisson(2.0))
    numpyro.sample("x", dist.Normal(n, 1), obs=x[0])


def no_plate(x):
    z = numpyro.sample("z", dist.Categorical(WEIGHTS).expand([4]))
    numpyro.sample("x", dist.Normal(MEANS[z], 1), obs=x)


def event_latent(x):
    z = numpyro.sample("z", dist.Bernoulli(0.5).expand([4]).to_event(1))
    numpyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)


def sums_over_latent(x):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(WEIGHTS))
    numpyro.sample("y", dist.Normal(jnp.sum(z), 1), obs=2.0)


def outside_the_plate(x):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(WEIGHTS))
    numpyro.sample("y", dist.Normal(MEANS[z], 1), obs=x)


def crossed_plates(x):
    with numpyro.plate("left", 2, dim=-2):
        a = numpyro.sample("a", dist.Categorical(WEIGHTS))
    with numpyro.plate("right", 2, dim=-1):
        b = numpyro.sample("b", dist.Categorical(WEIGHTS))
    with numpyro.plate("left", 2, dim=-2), numpyro.plate("right", 2, dim=-1):
        numpyro.sample("y", dist.Normal(MEANS[a] * MEANS[b], 1), obs=x.reshape(2, 2))


def moving_support(x):
    z = numpyro.sample("z", dist.Categorical(WEIGHTS))
    y = numpyro.sample("y", dist.Uniform(0, 1.0 + z))
    numpyro.sample("x", dist.Normal(y, 1), obs=x[0])


def breaks(x):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("x", dist.Normal(mu, 1).expand([3]), obs=x) + undefined  # noqa: F821


def wrong_shape(x):
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("rows", 4):
        numpyro.sample("x", dist.Normal(mu, 1), obs=x)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (poisson_latent, ["'n'", "Poisson", "Categorical"]),
        (no_plate, ["'z'", "plate", "4"]),
        (event_latent, ["'z'", "plate"]),
        (sums_over_latent, ["'y'", "'z'", "elementwise"]),
        (outside_the_plate, ["'y'", "'z'", "'rows'"]),
        (crossed_plates, ["'a'", "'b'", "plate"]),
        (moving_support, ["'y'", "'z'", "support"]),
        (breaks, ["breaks", "'x'", "NameError", "undefined"]),
        (wrong_shape, ["wrong_shape", "'x'", "shape"]),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(program, words):
    with pytest.raises(InputError) as caught:
        marginal(program).log_density(dict.fromkeys(["mu", "y"], jnp.array(0.5)), X)
    assert [word for word in words if word not in str(caught.value)] == []


def test_too_large_a_table_is_refused_before_it_is_made():
    def program(size, obs):
        a = numpyro.sample("a", dist.Categorical(jnp.ones(size) / size))
        b = numpyro.sample("b", dist.Categorical(jnp.ones(size) / size))
        numpyro.sample("x", dist.Normal(a * b, 1), obs=obs)

    with pytest.raises(InputError, match=r"'b' \(20000 values\).*4e\+08 entries.*largest_table"):
        marginal(program).log_density({}, 20_000, 1.0)
    with pytest.raises(InputError, match="above the limit of 8"):
        marginal(program, largest_table=8).log_likelihood({}, 3, 1.0)
    assert marginal(program, largest_table=9).log_likelihood({}, 3, 1.0)["x"].shape == ()


def test_a_table_that_only_the_sum_would_make_is_found():
    def star(obs):
        latents = [numpyro.sample(f"z{i}", dist.Categorical(jnp.ones(10) / 10)) for i in range(5)]
        for i, a in enumerate(latents):
            for j, b in enumerate(latents[:i]):
                numpyro.sample(f"x{i}{j}", dist.Normal(a * b, 1), obs=obs)

    # The largest factor has 10 x 10 entries; summing one of five latents that all meet makes 10⁴ or more.
    with pytest.raises(InputError, match="largest_table"):
        marginal(star, largest_table=5_000).log_density({}, 1.0)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({}, "'mu'"), ({"mu": np.zeros(3)}, r"'mu' has shape \(3,\), and must have \(2,\)")],
)
def test_parameters_are_checked(parameters, words):
    for method in (
        marginal(mixture).log_density,
        marginal(mixture).log_likelihood,
        marginal(mixture).posteriors,
    ):
        with pytest.raises(InputError, match=words):
            method(parameters, X)


def test_a_random_subsample_without_a_key_is_refused():
    with pytest.raises(InputError, match=r"'rows'.*seed"):
        marginal(lambda x: mixture(x, subsample=2)).log_likelihood({"mu": MEANS}, jnp.asarray(X))


def test_numpy_data_indexed_by_a_traced_value_is_explained():
    with pytest.raises(InputError, match="JAX arrays"):
        marginal(lambda x: mixture(x, subsample=2)).structure(X)


def test_a_model_must_be_callable():
    with pytest.raises(InputError, match="callable"):
        marginal("gaussian_mixture")
