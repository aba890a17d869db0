import jax
import jax.numpy as jnp
import numpy as np
import pytest

from triptych.inference.em import EM
from triptych.inference.em.family import halved
from triptych.inference.em.starts import seeds
from triptych.inference.marginal import marginal
from triptych.inference.posterior import observed
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture

ROWS = np.concatenate([c + np.random.default_rng(c).normal(size=(30, 3)) for c in (0, 6, 12, 20)])


def potential(rows, centres):
    """Σ_n min_k |x_n − c_k|²."""
    return ((rows[:, None] - centres) ** 2).sum(2).min(1).sum()


def test_seeds_are_rows_and_their_potentials_those_of_scikit_learn():
    from sklearn.cluster import kmeans_plusplus

    ours = seeds(ROWS, 5, 300, np.random.default_rng(0))
    assert ours.shape == (300, 5, 3)
    known = {tuple(row) for row in ROWS}
    assert all(len({tuple(seed) for seed in one} & known) == 5 for one in ours)
    theirs = [kmeans_plusplus(ROWS, 5, random_state=number)[0] for number in range(300)]
    mine, peers = (np.array([potential(ROWS, one) for one in each]) for each in (ours, theirs))
    error = np.sqrt(mine.var() / 300 + peers.var() / 300)
    assert abs(mine.mean() - peers.mean()) < 4 * error
    # Seeds drawn without regard to distance are far worse: the test can tell.
    blind = np.array([potential(ROWS, ROWS[np.random.default_rng(s).choice(120, 5)]) for s in range(300)])
    assert blind.mean() - mine.mean() > 4 * error


def test_seeds_of_repeated_rows_are_drawn_without_trouble():
    rows = np.repeat([[0.0], [1.0]], 5, axis=0)
    assert set(np.unique(seeds(rows, 4, 20, np.random.default_rng(0)))) == {0.0, 1.0}


@pytest.mark.parametrize("count", range(1, 9))
def test_halving_combines_every_row_once(count):
    table = jnp.asarray(np.random.default_rng(count).integers(0, 100, size=(count, 5)).astype(float))
    np.testing.assert_array_equal(halved(jnp.add, table), table.sum(0))
    np.testing.assert_array_equal(halved(jnp.maximum, table), table.max(0))


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (GaussianMixture(2), (ROWS,)),
        (GaussianMixture(2), (ROWS.astype(np.float32), np.r_[0, 1, np.full(118, -1)])),
        (GaussianMixture(2, missing=True), (np.where(ROWS > 21, np.nan, ROWS),)),
        (BernoulliMixture(2), ((ROWS > 5).astype(float),)),
        (BayesianLinearRegression(), (ROWS[:, :2], ROWS[:, 2])),
    ],
)
def test_what_a_kernel_calls_observed_is_what_its_program_observes(model, args):
    known = EM(model).bind(*args).observed
    traced = observed(marginal(model), model.validate(*args), {})
    assert known.keys() == traced.keys()
    for site, value in traced.items():
        assert known[site].dtype == value.dtype
        np.testing.assert_array_equal(known[site], value)


def test_starts_depend_on_the_key_alone():
    kernel = EM(GaussianMixture(4)).bind(ROWS)
    one, two = (kernel.starts(jax.random.key(3), 12, "portfolio").parameters for _ in range(2))
    other = kernel.starts(jax.random.key(4), 12, "portfolio").parameters
    np.testing.assert_array_equal(one["means"], two["means"])
    assert np.max(np.abs(one["means"] - other["means"])) > 0.1
