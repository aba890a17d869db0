"""Whole runs of EM: published optima, the stopping rule, the landscape of restarts, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import gammaln

from triptych.inference.em import EM
from triptych.inference.em.convergence import gain_to_come
from triptych.inference.em.landscape import landscape_words
from triptych.inference.em.starts import RECIPES
from triptych.inference.status import Status
from triptych.models import BernoulliMixture, GaussianMixture, InferenceWarning, InputError


def test_old_faithful_reaches_the_published_likelihood(key: jax.Array, faithful: np.ndarray) -> None:
    fit = EM(GaussianMixture(2), objective="mle", draws=0).run(key, faithful)
    assert fit.status is Status.CONVERGED
    assert fit.log_likelihood == pytest.approx(-1130.264, abs=5e-4)
    assert fit.objective[-1] == pytest.approx(fit.log_likelihood, abs=1e-9)
    assert np.all(np.diff(fit.objective) >= -1e-8)


@pytest.mark.parametrize(("components", "published"), [(2, -317.257), (3, -293.705)])
def test_carcinoma_reaches_the_published_likelihood(
    key: jax.Array, data_path: Callable[[str], Path], components: int, published: float
) -> None:
    x = np.loadtxt(data_path("carcinoma"), delimiter=",", skiprows=1) - 1.0
    fit = EM(BernoulliMixture(components), objective="mle", draws=0).run(key, x)
    assert fit.log_likelihood == pytest.approx(published, abs=1e-3)


def test_a_slow_climb_is_not_taken_for_the_top(key: jax.Array) -> None:
    """Two overlapping components: steps far below 1e-3 nats a row come long before the top is near."""
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(0, 1, (300, 1)), generator.normal(1.6, 1.2, (500, 1))])
    model = GaussianMixture(2)
    start = {"weights": [0.5, 0.5], "means": [[-0.2], [1.5]], "covariances": [[[1.0]], [[1.0]]]}
    stopped = EM(model, objective="mle", draws=0).run(key, x, parameters=start)
    far = EM(model, objective="mle", tol=1e-13, max_steps=100_000, draws=0).run(key, x, parameters=start)
    assert stopped.status is Status.CONVERGED
    assert far.log_likelihood - stopped.log_likelihood < 1e-5
    small_steps = int(np.argmax(np.diff(stopped.objective) < 1e-6 * len(x)))
    assert len(stopped.objective) > 2 * small_steps


def test_the_gain_to_come_of_a_geometric_series_is_its_tail() -> None:
    gains = 0.7 * 0.9 ** np.arange(4)
    assert float(gain_to_come(gains)) == pytest.approx(gains[-1] * 0.9 / 0.1, rel=1e-12)
    assert np.isinf(gain_to_come(np.array([np.nan, 1.0, 0.5, 0.2])))
    assert np.isinf(gain_to_come(np.array([0.1, 0.2, 0.3, 0.4])))


def test_running_out_of_steps_is_not_convergence(key: jax.Array, faithful: np.ndarray) -> None:
    start = {"weights": [0.5, 0.5], "means": faithful[[0, 1]], "covariances": np.stack([np.eye(2)] * 2)}
    with pytest.warns(InferenceWarning, match="STEP_LIMIT"):
        fit = EM(GaussianMixture(2), max_steps=3, draws=0).run(key, faithful, parameters=start)
    assert fit.status is Status.STEP_LIMIT
    assert len(fit.objective) == 3
    with pytest.warns(InferenceWarning, match="STEP_LIMIT"):
        fit = EM(GaussianMixture(2), tol=0, max_steps=7, draws=0).run(key, faithful, parameters=start)
    assert len(fit.objective) == 7


def test_every_end_point_is_kept_and_the_best_is_reported(key: jax.Array) -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(150, 2)) + 4.0 * generator.integers(0, 4, size=(150, 1))
    fit = EM(GaussianMixture(4), restarts=6, draws=0).run(key, x)
    ends = fit.data["restarts"].dataset
    assert ends.sizes["restart"] == 6
    assert fit.objective[-1] == pytest.approx(float(ends.objective.max()), abs=1e-9)
    assert float(ends.gap.min()) == 0.0
    assert set(ends.start.values) <= set(RECIPES)
    # Each optimum holds the ends within a tenth of a nat of its highest, and none is left over.
    number, gap = ends.optimum.values, ends.gap.values
    assert int(ends.optimum_starts.sum()) == 6
    for k, height in enumerate(ends.optimum_gap.values):
        assert height == gap[number == k].min()
        assert gap[number == k].max() <= height + 0.1
        assert ends.optimum_starts.values[k] == np.sum(number == k)
    assert int(ends.optimum_starts[0]) == int(ends.best.sum())
    assert landscape_words(ends)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_starts_the_same_climb(key: jax.Array, faithful: np.ndarray, recipe: str) -> None:
    fit = EM(GaussianMixture(2), starts=recipe, restarts=2, draws=0).run(key, faithful)
    assert fit.objective[-1] == pytest.approx(-1156.9665687958, abs=1e-5)


def test_laplace_draws_and_evidence_agree_with_a_conjugate_posterior(key: jax.Array) -> None:
    """One spherical component is conjugate: the evidence of a normal–inverse-gamma model is known."""
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(400, 2))
    model = GaussianMixture(1, "spherical")
    fit = EM(model).run(key, x)
    prior = model.prior(x)
    n, d, kappa = len(x), 2, float(prior.mean_precision)
    a, b = float(prior.degrees_of_freedom) / 2, float(prior.spread) / 2
    scatter = np.sum((x - x.mean(axis=0)) ** 2)
    shift = kappa * n / (kappa + n) * np.sum((x.mean(axis=0) - prior.location) ** 2)
    a_n, b_n = a + n * d / 2, b + 0.5 * (scatter + shift)
    exact = gammaln(a_n) - gammaln(a) + a * np.log(b) - a_n * np.log(b_n)
    exact += 0.5 * d * np.log(kappa / (kappa + n)) - 0.5 * n * d * np.log(2 * np.pi)
    assert fit.evidence.log_evidence == pytest.approx(exact, abs=0.05)
    variances = fit.data["posterior"]["covariances"].values.ravel()
    assert variances.mean() == pytest.approx(b_n / (a_n - 1), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": "maximum"}, "choose 'map' or 'mle'"),
        ({"restarts": 0}, "of at least 1, but is 0"),
        ({"max_steps": 2.5}, "whole number"),
        ({"tol": -1.0}, "0 or more"),
        ({"starts": "kmeans"}, "'k-means'"),
        ({"update": "gradient"}, "update='em' only"),
    ],
)
def test_settings_are_refused_in_words(
    key: jax.Array, faithful: np.ndarray, settings: dict, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        EM(GaussianMixture(2), **settings).run(key, faithful)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (np.ones(5), r"\(5,\)"),
        (-np.ones(272), "0 or more"),
        (np.full(272, np.nan), "finite"),
        (["a"] * 272, "not a number"),
    ],
)
def test_weights_are_refused_in_words(
    key: jax.Array, faithful: np.ndarray, weight: object, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        EM(GaussianMixture(2)).run(key, faithful, sample_weight=weight)


def test_bad_data_are_refused_before_work_starts(key: jax.Array, faithful: np.ndarray) -> None:
    spoiled = faithful.copy()
    spoiled[3, 1] = np.nan
    for data, said in ((spoiled, "NaN"), (faithful[:1], "row"), (faithful[0], "table|dimension|shape")):
        with pytest.raises(InputError, match=said):
            EM(GaussianMixture(2)).run(key, data)
    with pytest.raises(InputError, match="lacks covariances"):
        EM(GaussianMixture(2)).run(
            key, faithful, parameters={"weights": np.ones(2) / 2, "means": faithful[:2]}
        )


def test_init_and_step_climb_as_run_does(key: jax.Array, faithful: np.ndarray) -> None:
    em = EM(GaussianMixture(2), starts="k-means")
    state = em.init(key, faithful)
    state, first = em.step(state, faithful)
    for _ in range(40):
        state, info = em.step(state, faithful)
        assert info.objective >= first.objective - 1e-9
        first = info
    assert first.objective == pytest.approx(-1156.9665687958, abs=1e-5)


@pytest.mark.slow
def test_the_draws_around_the_optimum_weigh_the_rows(key: jax.Array, faithful: np.ndarray) -> None:
    weight = np.arange(len(faithful)) % 3
    start = {"weights": [0.5, 0.5], "means": faithful[[0, 1]], "covariances": np.stack([np.eye(2)] * 2)}
    em = EM(GaussianMixture(2), draws=400)
    weighted = em.run(key, faithful, sample_weight=weight, parameters=start)
    repeated = em.run(key, np.repeat(faithful, weight, axis=0), parameters=start)
    assert weighted.evidence.log_evidence == pytest.approx(repeated.evidence.log_evidence, abs=1e-5)
    for site, errors in repeated.data["standard_errors"].data_vars.items():
        np.testing.assert_allclose(weighted.data["standard_errors"][site], errors, rtol=1e-5)
        one, other = (fit.data["posterior"][site].std(("chain", "draw")) for fit in (weighted, repeated))
        np.testing.assert_allclose(one, other, rtol=1e-4)
