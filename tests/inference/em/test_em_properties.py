"""What must hold of EM whatever the data: monotone, blind to labels, rows, units and chunks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.inference.em import EM, fold
from triptych.inference.em.algorithm import EMState
from triptych.models import BernoulliMixture, GaussianMixture

COVARIANCES = ("spherical", "diagonal", "full", "tied")
FEW = settings(max_examples=12, deadline=None, derandomize=True)


def table(seed: int, rows: int = 60, columns: int = 2) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(3, columns)) * generator.uniform(0.2, 4.0)
    return centres[generator.integers(3, size=rows)] + generator.standard_t(3, size=(rows, columns))


def start(x: np.ndarray, covariance: str, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    variance = x.var(axis=0)
    each = {
        "spherical": np.full(3, variance.mean()),
        "diagonal": np.stack([variance] * 3),
        "full": np.stack([np.diag(variance)] * 3),
        "tied": np.diag(variance),
    }
    means = x[generator.choice(len(x), 3, replace=False)]
    return {"weights": generator.dirichlet(np.full(3, 5.0)), "means": means, "covariances": each[covariance]}


@pytest.mark.parametrize("objective", ["map", "mle"])
@pytest.mark.parametrize("covariance", COVARIANCES)
@FEW
@given(seed=st.integers(0, 10_000))
def test_the_objective_never_falls(covariance: str, objective: str, seed: int) -> None:
    x = table(seed)
    em = EM(GaussianMixture(3, covariance), objective=objective)
    state, values = EMState(start(x, covariance, seed)), []
    for _ in range(25):
        state, info = em.step(state, x)
        values.append(info.objective)
    assert np.all(np.diff(values) >= -1e-9 * abs(values[-1]))


def test_the_objective_never_falls_where_a_component_collapses() -> None:
    """Ten copies of one row draw a component onto them: the floor holds it, inside the objective."""
    x = np.concatenate([table(3), np.full((10, 2), 7.0)])
    em = EM(GaussianMixture(3), objective="mle", starts="k-means", restarts=3, draws=0)
    with pytest.warns(UserWarning, match="COLLAPSED_COMPONENT"):
        fit = em.run(jax.random.key(0), x)
    assert np.all(np.diff(fit.objective) >= -1e-9 * np.abs(fit.objective[1:]))
    assert "COLLAPSED_COMPONENT" in {finding.code for finding in fit.findings}


@pytest.mark.parametrize("covariance", COVARIANCES)
@FEW
@given(seed=st.integers(0, 10_000), exponent=st.integers(-6, 6), shift=st.floats(-100, 100))
def test_units_do_not_matter(covariance: str, seed: int, exponent: int, shift: float) -> None:
    x = table(seed)
    factor = 10.0**exponent
    em, parameters = EM(GaussianMixture(3, covariance)), start(x, covariance, seed)
    moved = {
        "weights": parameters["weights"],
        "means": (parameters["means"] + shift) * factor,
        "covariances": parameters["covariances"] * factor**2,
    }
    one, other = EMState(parameters), EMState(moved)
    for _ in range(3):
        one, first = em.step(one, x)
        other, second = em.step(other, (x + shift) * factor)
    np.testing.assert_allclose(other.parameters["weights"], one.parameters["weights"], rtol=1e-6)
    np.testing.assert_allclose(
        other.parameters["means"] / factor - shift, one.parameters["means"], rtol=1e-6, atol=1e-6
    )
    scale = np.max(np.abs(one.parameters["covariances"]))
    np.testing.assert_allclose(
        other.parameters["covariances"] / factor**2,
        one.parameters["covariances"],
        rtol=1e-6,
        atol=1e-7 * scale,
    )
    # Densities carry units: a change of the objective by the Jacobian of data and parameters is all there is.
    free = {"spherical": 3 * 2, "diagonal": 3 * 4, "full": 3 * 6, "tied": 6}[covariance]
    expected = -(len(x) * 2 + 3 * 2 + free) * np.log(factor)
    assert second.objective - first.objective == pytest.approx(expected, abs=1e-5)


@FEW
@given(seed=st.integers(0, 10_000))
def test_labels_and_rows_do_not_matter(seed: int) -> None:
    x = table(seed)
    generator = np.random.default_rng(seed)
    labels, rows = generator.permutation(3), generator.permutation(len(x))
    em, parameters = EM(GaussianMixture(3)), start(x, "full", seed)
    one, first = em.step(EMState(parameters), x)
    other, second = em.step(EMState({name: value[labels] for name, value in parameters.items()}), x[rows])
    assert second.objective == pytest.approx(first.objective, rel=1e-12)
    for name, value in one.parameters.items():
        np.testing.assert_allclose(other.parameters[name], value[labels], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_chunks_do_not_matter(covariance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = table(0, rows=1003)
    em, parameters = EM(GaussianMixture(3, covariance)), start(x, covariance, 0)
    whole, first = em.step(EMState(parameters), x)
    monkeypatch.setattr(fold, "chunk_rows", lambda family, itemsize: 100)
    jax.clear_caches()
    parts, second = em.step(EMState(parameters), x)
    assert second.objective == pytest.approx(first.objective, rel=1e-13)
    for name, value in whole.parameters.items():
        np.testing.assert_allclose(parts.parameters[name], value, rtol=1e-10)


@pytest.mark.parametrize("objective", ["map", "mle"])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_weight_is_that_many_rows(covariance: str, objective: str) -> None:
    x = table(5)
    weight = np.random.default_rng(0).integers(1, 4, len(x))
    em, parameters = EM(GaussianMixture(3, covariance), objective=objective), start(x, covariance, 5)
    one, first = em.step(EMState(parameters), x, sample_weight=weight)
    other, second = em.step(EMState(parameters), np.repeat(x, weight, axis=0))
    assert first.objective == pytest.approx(second.objective, rel=1e-10)
    for name, value in one.parameters.items():
        np.testing.assert_allclose(other.parameters[name], value, rtol=1e-8)


def test_bernoulli_never_falls_and_weights_are_rows() -> None:
    generator = np.random.default_rng(4)
    x = (generator.random((80, 4)) < 0.4).astype(float)
    weight = generator.integers(1, 4, len(x))
    for objective in ("map", "mle"):
        em = EM(BernoulliMixture(3), objective=objective)
        state = EMState({"weights": np.ones(3) / 3, "probs": generator.uniform(0.2, 0.8, (3, 4))})
        values = []
        for _ in range(40):
            _, second = em.step(state, np.repeat(x, weight, axis=0))
            state, first = em.step(state, x, sample_weight=weight)
            assert first.objective == pytest.approx(second.objective, rel=1e-11)
            values.append(first.objective)
        assert np.all(np.diff(values) >= -1e-10 * abs(values[-1]))


def test_float32_rows_give_the_float64_answer() -> None:
    x = table(7, rows=2000) + np.array([1000.0, -3.0])
    em, parameters = EM(GaussianMixture(3)), start(x, "full", 7)
    wide, narrow = EMState(parameters), EMState(parameters)
    for _ in range(10):
        wide, _ = em.step(wide, x)
        narrow, _ = em.step(narrow, x.astype(np.float32))
    for name, value in wide.parameters.items():
        scale = np.max(np.abs(value))
        np.testing.assert_allclose(narrow.parameters[name], value, atol=1e-3 * scale)


def test_memory_does_not_grow_with_rows_times_components() -> None:
    """The compiled step's temporaries stay the same from 20 000 to 80 000 rows of 32 components."""
    if jax.default_backend() != "cpu":
        pytest.skip("a chunk of a GPU is larger than these data")
    sizes = []
    for rows in (20_000, 80_000):
        x = np.random.default_rng(0).normal(size=(rows, 4))
        kernel = EM(GaussianMixture(32)).bind(x)
        point = kernel.starts(jax.random.key(0), 1, "random_rows").parameters
        point = {name: jnp.asarray(value[0]) for name, value in point.items()}
        compiled = jax.jit(lambda problem, theta: problem.step(theta)).lower(kernel.problem, point).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        sizes.append(analysis.temp_size_in_bytes)
    assert sizes[1] < 1.1 * sizes[0] + 1_000_000
