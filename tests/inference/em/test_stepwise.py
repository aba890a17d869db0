"""Updates from one minibatch: EM where the minibatch is all rows, and the properties that theory promises."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from triptych.inference.em import EM
from triptych.inference.em import stepwise as updates
from triptych.inference.em.deal import Deal, cut, deal, sweep
from triptych.inference.em.family import Statistics
from triptych.inference.em.fold import infer
from triptych.inference.em.minibatch import blank, passes, summed
from triptych.models import BernoulliMixture, GaussianMixture

KINDS = ("spherical", "diagonal", "full", "tied", "bernoulli")


def bound(kind: str, dtype: Any = np.float64, rows: int = 1200) -> tuple[Any, dict[str, np.ndarray]]:
    """Bind a mixture of three components to overlapping groups; two starts, stacked."""
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [2.0, 1.0], [0.0, 4.0]])
    x = centres[random.integers(3, size=rows)] + random.normal(size=(rows, 2))
    if kind == "bernoulli":
        model: Any = BernoulliMixture(3)
        x = (random.random((rows, 6)) < random.random((3, 6))[random.integers(3, size=rows)]).astype(float)
    else:
        model = GaussianMixture(3, covariance=kind)  # pyright: ignore[reportArgumentType]
    kernel: Any = EM(model).bind(x.astype(dtype))
    starts = kernel.starts(jax.random.key(0), 2, "random_rows").parameters
    return kernel, {name: np.asarray(value, np.float64) for name, value in starts.items()}


def one_of(stacked: Any, index: int = 0) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], stacked)


def em_steps(problem: Any, point: Any, number: int) -> Any:
    for _ in range(number):
        point = problem.step(point)[0]
    return point


def whole_batch(problem: Any) -> updates.Batch:
    rows = problem.rows.shape[0]
    return updates.batch_of(problem, 0, jnp.asarray(rows), rows, jnp.asarray(float(rows)))


def same(found: Any, wanted: Any, tolerance: float) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_minibatch_of_all_rows_takes_an_em_step(kind: str) -> None:
    kernel, starts = bound(kind)
    problem, point = kernel.problem, one_of(starts)
    batch, wanted = whole_batch(problem), em_steps(problem, point, 1)
    state = updates.stepwise(batch, blank(problem, point))  # k = −1: γ = 1
    same(state.parameters, wanted, 1e-12)
    same(state.average, wanted, 1e-12)
    at = jax.tree.map(lambda leaf: leaf / kernel.count, problem.expect(point)[0])
    reduced = updates.reduced(batch, updates.Reduced(at, point, point, at, jnp.zeros(())))
    same(reduced.parameters, wanted, 1e-12)
    assert reduced.refused == 0


@pytest.mark.parametrize("kind", ["full", "tied", "bernoulli"])
def test_one_block_makes_incremental_em_the_textbooks(kind: str) -> None:
    kernel, starts = bound(kind)
    one = Deal(np.array([0, int(kernel.count)]), 1)
    *_, (point, _) = passes("incremental", kernel, starts, jax.random.key(0), one, 4)
    for index in range(2):
        same(one_of(point, index), em_steps(kernel.problem, one_of(starts, index), 4), 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_the_free_energy_of_incremental_em_never_falls(kind: str) -> None:
    kernel, starts = bound(kind)
    problem, dealt = kernel.problem, Deal(np.array([0, int(kernel.count)]), 7)
    family, start = problem.family, one_of(starts)
    zero = jnp.zeros((7, family.feature_count, family.components))
    state = updates.Incremental(zero, jnp.zeros(7), zero[0], start)
    batches = []
    for index in range(7):
        part, own = cut(problem, index, 7, problem.rows.shape[0])
        batches.append(updates.batch_of(part, index, own, dealt.size, jnp.asarray(kernel.count)))
        state = updates.gather(batches[-1], state)
    # With q at its best, the bound touches the objective.
    np.testing.assert_allclose(updates.free_energy(problem, state), infer(problem, start)[1], rtol=1e-12)
    state = one_of(summed(problem, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)))
    energies = [float(updates.free_energy(problem, state))]
    for _ in range(3):
        for batch in batches:
            state = jax.jit(updates.incremental)(batch, state)
            energies.append(float(updates.free_energy(problem, state)))
        assert energies[-1] <= infer(problem, state.parameters)[1] + 1e-9
    assert np.min(np.diff(energies)) > -1e-9
    assert energies[-1] > energies[0] + 1.0
    np.testing.assert_allclose(state.sums, jnp.sum(state.parts, axis=0), rtol=1e-10, atol=1e-9)


def test_a_row_of_statistics_is_unbiased_over_the_minibatches() -> None:
    kernel, starts = bound("tied", rows=1003)
    problem, point = kernel.problem, one_of(starts)
    total = jax.tree.map(lambda leaf: 0.0 * leaf, problem.expect(point)[0])
    value, seen = 0.0, 0
    for index in range(4):
        part, own = cut(problem, index, 4, 1003)
        batch = updates.batch_of(part, index, own, 251, jnp.asarray(1003.0))
        statistics, height = updates.a_row(batch, point)
        total = jax.tree.map(lambda a, b, n=own: a + b * n, total, statistics)
        value, seen = value + float(height), seen + int(own)
    assert seen == 1003
    wanted, height = problem.expect(point)
    np.testing.assert_allclose(total.sums, wanted.sums, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(total.totals, wanted.totals, rtol=1e-12)
    assert value == pytest.approx(float(height), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_that_left_the_cone_are_seen(kind: str) -> None:
    kernel, starts = bound(kind)
    problem = kernel.problem
    statistics = problem.expect(one_of(starts))[0]
    assert updates.within(problem, statistics)
    family = problem.family
    # A component with fewer rows than none, or with second moments below the squares of its mean.
    assert not updates.within(problem, statistics._replace(sums=statistics.sums.at[0, 0].set(-1e4)))
    moved = statistics.sums.at[1:3, 0].add(50.0 * kernel.count)
    assert not updates.within(problem, Statistics(moved, statistics.totals)), family


@pytest.mark.slow
def test_a_difference_outside_the_cone_becomes_the_plain_step() -> None:
    kernel, starts = bound("full")
    problem, point = kernel.problem, one_of(starts)
    batch = whole_batch(problem)
    at = jax.tree.map(lambda leaf: leaf / kernel.count, problem.expect(point)[0])
    wrong = at._replace(sums=at.sums.at[0, 0].add(-50.0))
    state = updates.reduced(batch, updates.Reduced(at, point, point, wrong, jnp.zeros(())))
    assert state.refused == 1
    same(state.parameters, em_steps(problem, point, 1), 1e-12)  # s is at s̄(θ) already


def test_gains_fade_as_published_and_the_average_forgets() -> None:
    gains = np.asarray(updates.step_size(jnp.arange(-1.0, 200.0)))
    assert gains[0] == 1.0
    np.testing.assert_allclose(gains[1:], (np.arange(200) + 2.0) ** -0.6, rtol=1e-14)
    kernel, starts = bound("spherical")
    problem, batch = kernel.problem, whole_batch(kernel.problem)
    state, points = blank(problem, one_of(starts)), []
    for _ in range(9):
        state = updates.stepwise(batch, state)
        points.append(state.parameters["means"])
    # θ̄_J = Σ_j w_j θ_j with w_j ∝ Γ(j + 3)/Γ(j) (Shamir & Zhang 2013).
    j = np.arange(1, 10)
    weights = j * (j + 1) * (j + 2) / np.sum(j * (j + 1) * (j + 2))
    np.testing.assert_allclose(state.average["means"], np.tensordot(weights, np.stack(points), 1), rtol=1e-12)


@pytest.mark.parametrize("method", ["stepwise", "incremental", "variance_reduced"])
def test_float32_rows_are_added_up_in_float64(method: str) -> None:
    (narrow, starts), (wide, _) = bound("full", np.float32), bound("full")
    dealt = deal(1200, 300, 10_000)
    points = []
    for kernel in (narrow, wide):
        *_, (point, _) = passes(method, kernel, starts, jax.random.key(0), dealt, 2)
        assert {leaf.dtype for leaf in jax.tree.leaves(point)} == {np.dtype(np.float64)}
        points.append(point)
    same(points[0], points[1], 2e-4)  # rounding of the rows, 6e-8, grown by the iterations


@pytest.mark.parametrize(
    ("count", "least", "stretch"),
    [(1000, 256, 10_000), (5, 256, 10), (10_007, 100, 999), (12, 3, 5), (1, 1, 1)],
)
def test_every_row_is_dealt_once(count: int, least: int, stretch: int) -> None:
    dealt = deal(count, least, stretch)
    assert (dealt.edges[0], dealt.edges[-1]) == (0, count)
    seen = []
    for first, last in zip(dealt.edges[:-1], dealt.edges[1:], strict=True):
        for index in range(dealt.batches):
            rows = np.arange(first, last)[index :: dealt.batches]
            assert len(rows) >= min(least, count)
            assert len(rows) <= dealt.size
            seen += rows.tolist()
    assert sorted(seen) == list(range(count))


def test_minibatches_hold_the_rows_they_are_dealt() -> None:
    kernel, _ = bound("full", rows=1003)
    x = np.asarray(kernel.problem.rows.columns).T
    for index in range(4):
        part, own = cut(kernel.problem, index, 4, 1003)
        rows, weights = np.asarray(part.rows.columns).T, np.asarray(part.weights)
        np.testing.assert_array_equal(rows[weights > 0], x[index::4])
        assert int(own) == len(x[index::4]) == np.sum(weights)


def test_sorted_rows_are_spread_over_the_minibatches() -> None:
    kernel, starts = bound("spherical")
    seen: list[Any] = []

    def keep(batch: updates.Batch, state: Any) -> Any:
        jax.debug.callback(lambda columns: seen.append(np.asarray(columns).T), batch.problem.rows.columns)
        return state

    sweep(kernel.problem, deal(1200, 100, 10_000), np.random.default_rng(0), keep, starts)
    jax.effects_barrier()
    assert len(seen) == 12
    order = {row.tobytes(): n for n, row in enumerate(np.asarray(kernel.problem.rows.columns).T)}
    for rows in seen:
        places = np.sort([order[row.tobytes()] for row in rows])
        np.testing.assert_array_equal(np.diff(places), 12)
