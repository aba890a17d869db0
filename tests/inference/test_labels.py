"""Which labels are exchangeable, and draws aligned by assignment."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.inference.labels import (
    Exchangeable,
    _margins,
    align,
    align_all,
    exchangeable,
    permute,
    permute_draws,
    responsibility_rows,
)
from triptych.inference.marginal import marginal
from triptych.inference.symmetry import relabellings

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(-3, 1, size=15), RNG.normal(0, 1, size=25), RNG.normal(4, 1, size=20)])
X2 = np.concatenate([RNG.normal(-3, 1, size=(15, 2)), RNG.normal(3, 1, size=(25, 2))])


def mixture(x, location=0.0):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        means = numpyro.sample("means", dist.Normal(location, 5))
    scale = numpyro.sample("scale", dist.HalfNormal(3))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(means[z], scale), obs=x)


def ordered_prior(x):
    mixture(x, location=jnp.array([-3.0, 0.0, 3.0]))


def ordered_support(x):
    ordered = dist.constraints.ordered_vector
    means = numpyro.sample("means", dist.ImproperUniform(ordered, (), (3,)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)


def logits(x):
    scores = numpyro.sample("scores", dist.Normal(0, 1).expand([3]).to_event(1))
    means = numpyro.sample("means", dist.Normal(0, 5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(logits=scores))
        numpyro.sample("x", dist.Normal(means[z], 1), obs=x)


def full_covariance(x, tied=False):
    """As many components as columns: which axis of the covariances is the components'?"""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        means = numpyro.sample("means", dist.Normal(0, 5).expand([2]).to_event(1))
    if tied:
        factor = numpyro.sample("factor", dist.LKJCholesky(2, 2.0))
    else:
        with numpyro.plate("components", 2):
            factor = numpyro.sample("factor", dist.LKJCholesky(2, 2.0))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        own = factor if tied else factor[z]
        numpyro.sample("x", dist.MultivariateNormal(means[z], scale_tril=own), obs=x)


def tied_covariance(x):
    full_covariance(x, tied=True)


def markov_chain(x):
    transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
    start = numpyro.sample("start", dist.Dirichlet(jnp.ones(3)))
    means = numpyro.sample("means", dist.Normal(0, 5).expand([3]).to_event(1))
    z = None
    for i in range(5):
        z = numpyro.sample(f"z{i}", dist.Categorical(start if z is None else transition[z]))
        numpyro.sample(f"x{i}", dist.Normal(means[z], 1), obs=x[i])


def loop(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    means = numpyro.sample("means", dist.Normal(0, 5).expand([3]).to_event(1))
    for i in range(3):
        z = numpyro.sample(f"z{i}", dist.Categorical(weights))
        numpyro.sample(f"x{i}", dist.Normal(means[z], 1), obs=x[i])


def annotators(x):
    """Three classes, annotators who answer with one of three words: the words are data, not labels."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    words = numpyro.sample("words", dist.Dirichlet(jnp.ones((2, 3, 3))).to_event(2))
    answers = (np.abs(x[:12]).astype(int) % 3).reshape(6, 2)
    with numpyro.plate("items", 6):
        z = numpyro.sample("z", dist.Categorical(weights))
        for j in range(2):
            numpyro.sample(f"answer{j}", dist.Categorical(words[j, z]), obs=answers[:, j])


def two_kinds(x):
    a_means = numpyro.sample("a_means", dist.Normal(0, 5).expand([2]).to_event(1))
    b_means = numpyro.sample("b_means", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        a = numpyro.sample("a", dist.Bernoulli(0.5))
        b = numpyro.sample("b", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(a_means[a] + b_means[b], 1), obs=x)


def known_components(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(jnp.array([-3.0, 3.0])[z], 1), obs=x)


def noise_component(x):
    """The first component is told apart by its fixed width; the other two are alike."""
    means = numpyro.sample("means", dist.Normal(0, 5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        numpyro.sample("x", dist.Normal(means[z], jnp.array([9.0, 1.0, 1.0])[z]), obs=x)


def no_latent(x):
    numpyro.sample("x", dist.Normal(numpyro.sample("means", dist.Normal(0, 5)), 1), obs=x)


def somewhere(program, x, seed=1):
    random = np.random.default_rng(seed)
    values = {}
    for name, site in marginal(program).structure(x).parameters.items():
        transform = dist.biject_to(site.support)
        values[name] = np.asarray(transform(random.normal(size=transform.inverse_shape(site.shape))))
    return values


@pytest.mark.parametrize(
    ("program", "x", "expected"),
    [
        (mixture, X, [(("z",), 3, {"weights": (0,), "means": (0,)})]),
        (logits, X, [(("z",), 3, {"scores": (0,), "means": (0,)})]),
        (full_covariance, X2, [(("z",), 2, {"weights": (0,), "means": (0,), "factor": (0,)})]),
        (tied_covariance, X2, [(("z",), 2, {"weights": (0,), "means": (0,)})]),
        (
            markov_chain,
            X,
            [(tuple(f"z{i}" for i in range(5)), 3, {"transition": (0, 1), "start": (0,), "means": (0,)})],
        ),
        (loop, X, [(("z0", "z1", "z2"), 3, {"weights": (0,), "means": (0,)})]),
        (annotators, X, [(("z",), 3, {"weights": (0,), "words": (1,)})]),
        (two_kinds, X, [(("a",), 2, {"a_means": (0,)}), (("b",), 2, {"b_means": (0,)})]),
        (ordered_prior, X, []),
        (ordered_support, X, []),
        (known_components, X, []),
        (noise_component, X, [(("z",), 3, {"means": (0,)})]),
        (no_latent, X, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_exchangeable_labels_are_read_off_the_program(program, x, expected):
    groups = exchangeable(marginal(program), somewhere(program, x), x)
    assert [(group.latents, group.size, dict(group.axes)) for group in groups] == expected


def test_a_symmetric_point_hides_nothing():
    """Equal components are a symmetric point: the answer is about the program, not the point."""
    point = {"weights": np.ones(3) / 3, "means": np.zeros(3), "scale": np.array(1.0)}
    assert exchangeable(marginal(mixture), point, X)[0].axes == {"weights": (0,), "means": (0,)}
    assert exchangeable(marginal(ordered_prior), point, X) == ()


def test_a_point_on_the_edge_of_its_support_will_do():
    point = {"weights": np.array([0.5, 0.5, 0.0]), "means": np.array([-3, 0, 4.0]), "scale": np.array(1.0)}
    assert len(exchangeable(marginal(mixture), point, X)) == 1


def test_float32_parameters_will_do():
    point = {name: value.astype(np.float32) for name, value in somewhere(mixture, X).items()}
    with jax.enable_x64(False):
        assert len(exchangeable(marginal(mixture), point, X.astype(np.float32))) == 1


GROUP = Exchangeable(("z",), 3, {"weights": (0,), "means": (0,)})
PIVOT = {
    "weights": np.array([0.25, 0.4, 0.35]),
    "means": np.array([-3.0, 0.0, 4.0]),
    "scale": np.array(1.0),
}


def spread(count, seed=0):
    """Draws around the pivot, whose components stay apart."""
    random = np.random.default_rng(seed)
    return {
        "weights": random.dirichlet(200 * PIVOT["weights"], size=count),
        "means": PIVOT["means"] + 0.2 * random.normal(size=(count, 3)),
        "scale": 1 + 0.1 * random.random(count),
    }


ROWS = jax.tree_util.Partial(lambda theta: jax.nn.softmax(
    jnp.log(theta["weights"]) + dist.Normal(theta["means"], theta["scale"]).log_prob(X[:, None])
))  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([ROWS, None]))
def test_aligning_permuted_draws_recovers_them_exactly(seed, responsibilities):
    draws = spread(20)
    shuffle = np.random.default_rng(seed).permuted(np.tile(np.arange(3), (20, 1)), axis=1)
    aligned = align(permute_draws(draws, GROUP, shuffle), GROUP, responsibilities, PIVOT)
    for name, value in draws.items():
        np.testing.assert_array_equal(aligned.draws[name], value)
    np.testing.assert_array_equal(
        np.take_along_axis(shuffle, aligned.permutations, 1), np.tile(np.arange(3), (20, 1))
    )
    assert not aligned.ambiguous
    moved = np.any(shuffle != np.arange(3), axis=1)
    assert aligned.relabelled == pytest.approx(moved.mean())


def test_the_pivots_labels_win():
    swapped = permute(PIVOT, GROUP, [2, 0, 1])
    aligned = align(spread(20), GROUP, ROWS, swapped)
    assert np.all(aligned.permutations == [2, 0, 1])


def test_identical_components_are_ambiguous():
    draws = spread(20)
    draws["means"][:, 1] = draws["means"][:, 0]
    draws["weights"][:, 1] = draws["weights"][:, 0]
    pivot = PIVOT | {"means": np.array([-3.0, -3.0, 4.0]), "weights": np.ones(3) / 3}
    aligned = align(draws, GROUP, ROWS, pivot)
    assert aligned.ambiguous
    np.testing.assert_allclose(aligned.margins, 0, atol=1e-9)


def test_responsibilities_align_what_parameters_of_other_scale_cannot_upset():
    """A site that is all noise, in huge units, must not decide."""
    draws = spread(20) | {"noise": 1e6 * np.random.default_rng(1).normal(size=(20, 3))}
    group = GROUP._replace(axes={**GROUP.axes, "noise": (0,)})
    shuffle = np.random.default_rng(2).permuted(np.tile(np.arange(3), (20, 1)), axis=1)
    pivot = PIVOT | {"noise": np.zeros(3)}
    for responsibilities in (ROWS, None):
        aligned = align(permute_draws(draws, group, shuffle), group, responsibilities, pivot)
        np.testing.assert_array_equal(aligned.draws["means"], draws["means"])


def test_iterations_correct_a_poor_pivot():
    """A pivot that calls one component wrongly is overruled by the mean of the draws, once."""
    draws = spread(30)
    rough = PIVOT | {"means": np.array([-1.0, 0.0, 1.0]), "scale": np.array(3.0)}
    aligned = align(draws, GROUP, ROWS, rough)
    np.testing.assert_array_equal(aligned.draws["means"], draws["means"])


def test_both_axes_of_a_transition_matrix_move():
    group = Exchangeable(("z0", "z1"), 3, {"transition": (0, 1), "means": (0,)})
    value = {"transition": np.arange(9.0).reshape(3, 3), "means": np.arange(3.0), "other": np.ones(2)}
    moved = permute(value, group, np.array([2, 0, 1]))
    np.testing.assert_array_equal(moved["transition"], value["transition"][[2, 0, 1]][:, [2, 0, 1]])
    stacked = permute_draws({n: v[None] for n, v in value.items()}, group, np.array([[2, 0, 1]]))
    for name, expected in moved.items():
        np.testing.assert_array_equal(stacked[name][0], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**31))
def test_margin_is_that_of_the_second_best_permutation(size, seed):
    cost = np.random.default_rng(seed).normal(size=(size, size))  # [component, label]
    every = sorted((sum(cost[p[j], j] for j in range(size)), p) for p in itertools.permutations(range(size)))
    margin = _margins(cost[None], np.array([every[0][1]]))
    np.testing.assert_allclose(margin, every[1][0] - every[0][0], atol=1e-12)


def test_one_component_has_nothing_to_align():
    group = Exchangeable(("z",), 1, {"means": (0,)})
    aligned = align({"means": np.zeros((4, 1))}, group, None, {"means": np.zeros(1)})
    assert (aligned.relabelled, aligned.ambiguous) == (0, False)
    assert np.all(np.isinf(aligned.margins))


def test_align_all_finds_the_groups_itself():
    draws = {name: value[:8] for name, value in spread(20).items()}
    shuffle = np.random.default_rng(4).permuted(np.tile(np.arange(3), (8, 1)), axis=1)
    aligned, groups = align_all(marginal(mixture), permute_draws(draws, GROUP, shuffle), PIVOT, X)
    assert [group.latent for group, _ in groups] == ["z"]
    np.testing.assert_array_equal(aligned["means"], draws["means"])


def test_many_rows_are_thinned():
    x = np.tile(X, 50)
    rows = responsibility_rows(marginal(mixture), GROUP, x)
    assert jax.eval_shape(rows, PIVOT).shape == (2000, 3)


def test_labels_that_rows_name_stay_and_the_others_are_aligned() -> None:
    """Three components, one of them named by a few rows: only the other two can be swapped."""
    from triptych.models import GaussianMixture

    generator = np.random.default_rng(0)
    means = np.array([[-4.0], [0.0], [4.0]])
    x = means[np.arange(60) % 3] + generator.normal(size=(60, 1))
    z = np.where(np.arange(60) % 15 == 1, 1, -1)  # rows 1, 16, … are of component 1
    m = marginal(GaussianMixture(3, "spherical"))
    point = {"weights": np.ones(3) / 3, "means": means, "covariances": np.array([1.0, 1.2, 1.4])}
    assert [group.fixed for group in exchangeable(m, point, x)] == [()]
    (group,) = exchangeable(m, point, x, z)
    assert group.fixed == (1,)
    assert set(group.axes) == {"weights", "means", "covariances"}
    draws = {name: np.stack([value, value[[2, 1, 0]]]) for name, value in point.items()}
    assert list(group.permutations()) == [(0, 1, 2), (2, 1, 0)]
    assert relabellings([group]).size == 2
    found = align(draws, group, responsibility_rows(m, group, x, z), point)
    np.testing.assert_array_equal(found.permutations, [[0, 1, 2], [2, 1, 0]])
    assert found.together[0] == pytest.approx(found.together[1])  # what no relabelling changes
    assert 1 / 3 <= found.together[0] < 1
    assert np.all(np.isfinite(found.margins))
    # Two components named leave nothing to exchange.
    z = np.where(np.arange(60) % 15 == 2, 2, z)
    assert exchangeable(m, point, x, z) == ()


def test_a_program_that_has_changed_is_looked_at_again():
    """The call is the same, what the program reads beside it is not."""
    x = np.array([-2.0, -1.5, 1.0, 2.0, 2.5])
    order = [0.0]

    def program(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        means = numpyro.sample("means", dist.Normal(jnp.array([0.0, order[0]]), 3).to_event(1))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(means[z], 1.0), obs=x)

    m = marginal(program)
    point = {"weights": np.array([0.4, 0.6]), "means": np.array([-1.0, 2.0])}
    (group,) = exchangeable(m, point, x)
    assert group.axes == {"weights": (0,), "means": (0,)}
    assert exchangeable(m, point, x) == (group,)
    order[0] = 1.0
    assert exchangeable(m, point, x) == ()
