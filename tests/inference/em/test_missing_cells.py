"""EM with missing cells and known labels: against regression by hand, direct maximisation, and itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from triptych.inference.em import EM
from triptych.inference.em.algorithm import EMState
from triptych.inference.marginal import marginal
from triptych.models import GaussianMixture, InputError

COVARIANCES = ("spherical", "diagonal", "full", "tied")
FEW = settings(max_examples=6, deadline=None, derandomize=True)
D = 3


def table(seed: int, rows: int = 60, share: float = 0.25) -> np.ndarray:
    """Two clouds with gaps at random, one whole row first, and a row without any cell last."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=rows)
    x = generator.normal(size=(rows, D)) @ generator.normal(size=(D, D)) + 2.0 * labels[:, None]
    x[generator.random(x.shape) < share] = np.nan
    x[0], x[-1] = generator.normal(size=D), np.nan
    return x


def start(covariance: str, seed: int, K: int = 2) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(K, D, D))
    full = factor @ np.swapaxes(factor, 1, 2) + np.eye(D)
    each = {"spherical": full[:, 0, 0], "diagonal": np.diagonal(full, axis1=1, axis2=2), "full": full}
    each["tied"] = full[0]
    means = generator.normal(size=(K, D))
    return {"weights": generator.dirichlet(np.full(K, 9.0)), "means": means, "covariances": each[covariance]}


def same(one: Any, other: Any, tolerance: float = 1e-9) -> None:
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def textbook_step(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """EM of one Gaussian, row by row (Little & Rubin 2002, section 11.2)."""
    filled, spread = x.copy(), np.zeros_like(covariance)
    for n, row in enumerate(x):
        m, o = np.isnan(row), ~np.isnan(row)
        slope = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, m)]).T
        filled[n, m] = mean[m] + slope @ (row[o] - mean[o])
        spread[np.ix_(m, m)] += covariance[np.ix_(m, m)] - slope @ covariance[np.ix_(o, m)]
    centre = filled.mean(axis=0)
    return centre, ((filled - centre).T @ (filled - centre) + spread) / len(x)


def test_one_gaussian_follows_the_textbook_to_the_maximum() -> None:
    x = table(0, 40)
    em = EM(GaussianMixture(1, missing=True), objective="mle", tol=1e-10, draws=0)
    state = EMState(start("full", 0, 1))
    mean, covariance = state.parameters["means"][0], state.parameters["covariances"][0]
    for _ in range(5):
        state, _ = em.step(state, x)
        mean, covariance = textbook_step(x, mean, covariance)
        np.testing.assert_allclose(state.parameters["means"][0], mean, rtol=1e-10)
        np.testing.assert_allclose(state.parameters["covariances"][0], covariance, rtol=1e-9)
    # The maximum that scipy finds of the observed cells' likelihood, its arguments a mean and a factor.
    first, second = np.tril_indices(D)

    def loss(free: np.ndarray) -> float:
        factor = np.zeros((D, D))
        factor[first, second] = free[D:]
        covariance: Any = factor @ factor.T
        return -sum(
            float(multivariate_normal(free[:D][o], covariance[np.ix_(o, o)]).logpdf(row[o]))
            for row, o in zip(x, ~np.isnan(x), strict=True)
            if o.any()
        )

    fit = em.run(jax.random.key(0), x)
    found = minimize(loss, np.concatenate([mean, np.linalg.cholesky(covariance)[first, second]]))
    assert fit.log_likelihood == pytest.approx(-found.fun, abs=1e-6)
    np.testing.assert_allclose(fit.parameters["means"][0], found.x[:D], atol=1e-3)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_maximum_has_no_slope_and_the_programs_density(covariance: str) -> None:
    """MAP, with labels: the gradient of the program vanishes there. A weight is that many rows."""
    x = table(1)
    z = np.where(np.arange(len(x)) % 10 == 3, np.arange(len(x)) % 2, -1)
    model = GaussianMixture(2, covariance, missing=True)
    begin = start(covariance, 1)
    fit = EM(model, tol=1e-11, draws=0).run(jax.random.key(1), x, z, parameters=begin)
    m = marginal(model)
    theta = {name: jnp.asarray(value) for name, value in fit.parameters.items()}
    value, slope = jax.value_and_grad(lambda p: m.log_density(p, x, z))(theta)
    assert fit.objective[-1] == pytest.approx(float(value), abs=1e-7)
    total = np.sum(slope["weights"] * theta["weights"])  # the weights sum to one
    slope = slope | {"weights": slope["weights"] * theta["weights"] - total * theta["weights"]}
    assert max(float(np.max(np.abs(leaf))) for leaf in slope.values()) < 2e-3
    weight = np.random.default_rng(0).integers(1, 4, len(x))
    em, state = EM(model), EMState(begin)
    one, first = em.step(state, x, z, sample_weight=weight)
    other, second = em.step(state, np.repeat(x, weight, axis=0), np.repeat(z, weight))
    assert first.objective == pytest.approx(second.objective, rel=1e-10)
    same(one.parameters, other.parameters)


@pytest.mark.parametrize("objective", ["map", pytest.param("mle", marks=pytest.mark.slow)])
@pytest.mark.parametrize("covariance", COVARIANCES)
@FEW
@given(seed=st.integers(0, 10_000))
def test_the_objective_never_falls(covariance: str, objective: str, seed: int) -> None:
    # 64 rows whatever the gaps: blocks differ in number and size, the rows do not.
    x = table(seed, 64, share=0.1 + 0.5 * (seed % 7) / 7)
    em = EM(GaussianMixture(2, covariance, missing=True), objective=objective)
    state, values = EMState(start(covariance, seed)), []
    for _ in range(20):
        state, info = em.step(state, x)
        values.append(info.objective)
    assert np.all(np.diff(values) >= -1e-9 * abs(values[-1]))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_units_order_and_names_do_not_matter(covariance: str) -> None:
    x, parameters = table(2), start(covariance, 2)
    em = EM(GaussianMixture(2, covariance, missing=True))
    one, first = em.step(EMState(parameters), x)
    generator = np.random.default_rng(0)
    scaled = {
        "weights": parameters["weights"],
        "means": 1000 * parameters["means"],
        "covariances": 1e6 * parameters["covariances"],
    }
    other, second = em.step(EMState(scaled), 1000 * x)
    same(one.parameters, dict(other.parameters) | {
        "means": other.parameters["means"] / 1000, "covariances": other.parameters["covariances"] / 1e6
    })  # fmt: skip
    free = {"spherical": 4, "diagonal": 4 * D, "full": 2 * D * (D + 1), "tied": D * (D + 1)}[covariance]
    shift = -(np.sum(~np.isnan(x)) + 2 * D + free) * np.log(1000.0)
    assert second.objective - first.objective == pytest.approx(shift, abs=1e-6)
    columns, rows, labels = generator.permutation(D), generator.permutation(len(x)), np.array([1, 0])
    moved = {"weights": parameters["weights"][labels], "means": parameters["means"][labels][:, columns]}
    back = {
        "means": one.parameters["means"][labels][:, columns],
        "weights": one.parameters["weights"][labels],
    }
    for source, target in ((parameters, moved), (one.parameters, back)):
        value = source["covariances"]
        value = value if covariance == "tied" else value[labels]
        value = value[..., columns] if covariance != "spherical" else value
        target["covariances"] = value[..., columns, :] if covariance in ("full", "tied") else value
    other, second = em.step(EMState(moved), x[rows][:, columns])
    assert second.objective == pytest.approx(first.objective, rel=1e-12)
    same(back, other.parameters)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_cells_that_are_all_there_take_the_path_of_complete_data(covariance: str) -> None:
    """Nothing missing: the same kernel. One cell of two thousand missing: nearly the same, by the other."""
    x = np.random.default_rng(5).normal(size=(700, D))
    parameters = EMState(start(covariance, 5))
    whole, gaps = EM(GaussianMixture(2, covariance)), EM(GaussianMixture(2, covariance, missing=True))
    one, first = whole.step(parameters, x)
    other, second = gaps.step(parameters, x)
    assert type(gaps.bind(x).problem) is type(whole.bind(x).problem)
    assert second.objective == pytest.approx(first.objective, rel=1e-12)
    same(one.parameters, other.parameters)
    x[0, 0] = np.nan
    near, third = gaps.step(parameters, x)
    assert third.objective == pytest.approx(first.objective, rel=5e-3)
    same(one.parameters, near.parameters, 2e-2)


def test_missing_a_whole_column_in_some_rows_is_regression() -> None:
    """Monotone missingness has a closed form: x₂'s moments are those of its regression on x₁."""
    generator = np.random.default_rng(6)
    x = generator.normal(size=(60, 2)) @ np.array([[1.0, 0.7], [0.0, 0.5]]) + 1.0
    x[20:, 1] = np.nan
    fit = EM(GaussianMixture(1, missing=True), objective="mle", tol=1e-12, draws=0).run(jax.random.key(0), x)
    mean, variance = x[:, 0].mean(), x[:, 0].var()
    head = x[:20]
    slope = np.cov(head.T, ddof=0)[0, 1] / head[:, 0].var()
    residual = np.var(head[:, 1] - slope * head[:, 0])
    expected = np.array([mean, head[:, 1].mean() + slope * (mean - head[:, 0].mean())])
    np.testing.assert_allclose(fit.parameters["means"][0], expected, rtol=1e-5)
    covariance = np.array([[1.0, slope], [slope, slope**2]]) * variance + np.diag([0.0, residual])
    np.testing.assert_allclose(fit.parameters["covariances"][0], covariance, rtol=1e-4)


def test_labels_alone_are_a_classifier_in_one_step() -> None:
    x = np.random.default_rng(7).normal(size=(50, D))
    z = np.arange(50) % 2
    em = EM(GaussianMixture(2), objective="mle")
    state, _ = em.step(EMState(start("full", 7)), x, z)
    for k in range(2):
        np.testing.assert_allclose(state.parameters["means"][k], x[z == k].mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(
            state.parameters["covariances"][k], np.cov(x[z == k].T, ddof=0), atol=1e-12
        )
    np.testing.assert_allclose(state.parameters["weights"], [0.5, 0.5])
    # A few labels decide which component is which, from every recipe of starts.
    x = np.concatenate([x[:25] + 4.0, x[25:] - 4.0])
    few = np.where(np.arange(50) % 12 == 0, (np.arange(50) >= 25).astype(float), np.nan)
    for recipe in ("k-means++", "random_rows", "random_responsibilities", "k-means", "ward"):
        begin = EM(GaussianMixture(2), starts=recipe).init(jax.random.key(3), x, few).parameters
        assert begin["means"][0, 0] > 0 > begin["means"][1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_weights_labels_restarts_and_gaps_together(covariance: str) -> None:
    """The whole run on weighted rows gives what it gives on repeated ones, Laplace draws too."""
    x = table(1)
    z = np.where(np.arange(len(x)) % 10 == 3, np.arange(len(x)) % 2, -1)
    weight = np.random.default_rng(0).integers(1, 4, len(x))
    em = EM(GaussianMixture(2, covariance, missing=True), restarts=3, tol=1e-9, draws=200)
    one = em.run(jax.random.key(0), x, z, sample_weight=weight)
    rows = np.repeat(x, weight, axis=0), np.repeat(z, weight)
    other = em.run(jax.random.key(0), *rows, parameters=one.parameters)
    assert one.status.ok
    assert one.objective[-1] == pytest.approx(other.objective[-1], abs=1e-4)
    same(one.parameters, other.parameters, 1e-3)
    again = em.run(jax.random.key(0), x, z)
    assert np.all(np.isfinite(again.data["posterior"].dataset["means"].values))
    assert np.isfinite(again.evidence.log_evidence or np.nan)


def test_float32_and_chunks_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from triptych.inference.em import incomplete

    x, parameters = table(8, 300), EMState(start("full", 8))
    em = EM(GaussianMixture(2, missing=True))
    one, first = em.step(parameters, x)
    narrow, _ = em.step(parameters, x.astype(np.float32))
    same(one.parameters, narrow.parameters, 1e-3)
    monkeypatch.setattr(incomplete, "CHUNK_BYTES", 20_000)
    assert 1 <= em.bind(x).problem.chunk < 5  # type: ignore[attr-defined]
    other, second = em.step(parameters, x)
    assert second.objective == pytest.approx(first.objective, rel=1e-12)
    same(one.parameters, other.parameters)


def test_wrong_calls_are_refused() -> None:
    x = table(9)
    with pytest.raises(InputError, match=r"NaN at row .*missing=True"):
        EM(GaussianMixture(2)).run(jax.random.key(0), x)
    with pytest.raises(InputError, match=r"`run\(key, x, z\)`"):
        EM(GaussianMixture(2, missing=True)).run(jax.random.key(0), x, y=x)
    x[:, 0] = np.where(np.isnan(x[:, 1]), x[:, 0], np.nan)
    with pytest.warns(UserWarning, match=r"NEVER_TOGETHER.*columns 0 and 1"):
        EM(GaussianMixture(1, missing=True), draws=0).run(jax.random.key(0), x)
