"""Accelerated EM: the formulas on linear maps, the same optima as plain EM, an objective that never falls."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpyro.distributions import constraints

from triptych.inference.em import EM
from triptych.inference.em.accelerated import ACCELERATIONS, Accelerator
from triptych.inference.em.convergence import slow_gain_to_come
from triptych.inference.em.derived import derive
from triptych.inference.em.extrapolation import anderson, cube, damped, square, squarem
from triptych.inference.em.flat import space_of
from triptych.inference.em.kernel import Call
from triptych.inference.em.loop import climb
from triptych.inference.em.search import long_runs
from triptych.inference.status import Status
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture, InputError


def contraction(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A linear map x ↦ A x + b with eigenvalues of A between 0.1 and 0.99."""
    generator = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(generator.normal(size=(size, size)))
    return axes @ np.diag(np.linspace(0.1, 0.99, size)) @ axes.T, generator.normal(size=size)


def test_anderson_solves_a_linear_map_once_it_has_seen_every_direction() -> None:
    A, b = contraction(4)
    fixed = np.linalg.solve(np.eye(4) - A, b)
    points, residuals = np.full((6, 4), np.nan), np.full((6, 4), np.nan)
    x, used = np.zeros(4), 0
    for _ in range(5):
        f = A @ x + b - x
        proposal, used, _ = anderson(x, f, points, residuals)
        points, residuals = np.vstack([x, points[:-1]]), np.vstack([f, residuals[:-1]])
        x = np.asarray(proposal)
    assert int(used) == 4
    np.testing.assert_allclose(x, fixed, rtol=1e-8)
    # A column twice over is left out, and changes nothing.
    points[1], residuals[1] = points[0], residuals[0]
    again, used, _ = anderson(x, A @ x + b - x, points, residuals)
    np.testing.assert_allclose(again, fixed, rtol=1e-6)


def test_the_slowest_rate_seen_is_that_of_the_map() -> None:
    A = np.diag([0.2, 0.9, 0.98])
    seen = np.random.default_rng(0).normal(size=(5, 3))
    _, used, slow = anderson(np.ones(3), A @ np.ones(3) - 1, seen, seen @ A - seen)
    assert int(used) == 3
    assert 1 / (1 - 0.98) / 2 < float(slow) <= 1 / (1 - 0.98) + 1e-6


def test_the_extrapolations_are_the_published_formulas() -> None:
    """In one dimension x ↦ a x all of them find the fixed point 0; in two, the formulas by hand."""
    x = 3.0 * 0.9 ** np.arange(4)[:, None]
    assert abs(float(square(x[:3])[0][0])) < 1e-12
    assert abs(float(cube(x)[0][0])) < 1e-12
    assert abs(float(squarem(x[:3], np.asarray(100.0))[0][0])) < 1e-12
    assert float(squarem(x[:3], np.asarray(4.0))[1]) == 4.0
    x = np.random.default_rng(0).normal(size=(4, 2)) * 0.3 ** np.arange(4)[:, None]
    one, two, three = (np.diff(x, n=order, axis=0)[0] for order in (1, 2, 3))
    s = max(abs(two @ one) / (two @ two), 1.0)
    np.testing.assert_allclose(square(x[:3])[0], x[0] + 2 * s * one + s**2 * two)
    s = max(abs(three @ two) / (three @ three), 1.0)
    np.testing.assert_allclose(cube(x)[0], x[0] + 3 * s * one + 3 * s**2 * two + s**3 * three)
    a = max(np.linalg.norm(one) / np.linalg.norm(two), 1.0)
    np.testing.assert_allclose(squarem(x[:3], np.asarray(9.0))[0], x[0] + 2 * a * one + a**2 * two)


def test_the_damped_step_lies_between_the_plain_one_and_andersons() -> None:
    A, b = contraction(5)
    points = np.random.default_rng(1).normal(size=(3, 5))
    residuals = points @ A.T + b - points
    x = np.ones(5)
    f = A @ x + b - x
    full, _, _ = anderson(x, f, points, residuals)
    np.testing.assert_allclose(damped(x, f, points, residuals, jnp.asarray(1.0)), full, rtol=1e-6)
    np.testing.assert_allclose(damped(x, f, points, residuals, jnp.asarray(1e-12)), x + f, atol=1e-4)


def test_flat_coordinates_lead_back_and_know_the_edge() -> None:
    generator = np.random.default_rng(0)
    root = generator.normal(size=(2, 3, 3))
    theta = {
        "weights": np.array([0.2, 0.3, 0.5]),
        "means": generator.normal(size=(3, 2)),
        "covariances": root @ np.swapaxes(root, 1, 2) + np.eye(3),
        "probs": generator.uniform(size=(2, 4)),
        "rate": np.array([0.1, 40.0]),
        "ordered": np.array([-1.0, 0.5, 2.0]),
    }
    supports = dict(
        zip(
            theta,
            (
                constraints.simplex,
                constraints.independent(constraints.real, 1),
                constraints.positive_definite,
                constraints.unit_interval,
                constraints.positive,
                constraints.ordered_vector,
            ),
            strict=True,
        )
    )
    space = space_of(theta, supports)
    u = space.flatten(theta)
    assert u.shape == (space.size,)
    named = {name: one for name, one in supports.items() if name != "ordered"}
    assert hash(space_of(theta, named)) == hash(space_of(theta, named))
    for name, value in space.unflatten(u).items():
        np.testing.assert_allclose(value, theta[name], rtol=1e-10, atol=1e-12)
    for name, edge in (("weights", [0.0, 0.5, 0.5]), ("covariances", np.zeros((2, 3, 3)))):
        assert not np.all(np.isfinite(space.flatten({**theta, name: np.array(edge)})))


def rows(seed: int = 0, number: int = 150) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(number, 2)) + 2.2 * generator.integers(0, 3, size=(number, 1))


def regression(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(60, 30)) + 4.0 * generator.normal(size=(60, 1))
    return X, X @ generator.normal(size=30) + 20.0 * generator.normal(size=60)


PROBLEMS = {
    **{one: (GaussianMixture(3, one), (rows(),)) for one in ("spherical", "diagonal", "full", "tied")},
    "known": (GaussianMixture(3, scale=1.0), (rows(),)),
    "bernoulli": (BernoulliMixture(2), ((rows(1) > 1.5).astype(float),)),
    "regression": (BayesianLinearRegression(), regression()),
}


SLOW = ("spherical", "diagonal", "tied", "known")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PROBLEMS]
)
def test_the_optimum_is_that_of_plain_em(key: jax.Array, name: str) -> None:
    model, args = PROBLEMS[name]
    runs = []
    for acceleration in ("none", "mix"):
        em = EM(model, tol=1e-9, restarts=1, draws=0, acceleration=acceleration, max_steps=100_000)
        kernel = em.bind(*args)
        runs.append(long_runs(em, kernel, kernel.starts(key, 8, "portfolio"), None))
        assert all(status is Status.CONVERGED for status in runs[-1].status)
        assert min(np.min(np.diff(trace)) for trace in runs[-1].traces) > -1e-9
    plain, run = runs
    both = np.abs(run.objective - plain.objective) < 1e-8 * np.abs(plain.objective)
    assert np.mean(both) > 0.6  # from some starts another of several optima
    assert run.objective.max() > plain.objective.max() - 1e-8 * abs(plain.objective.max())
    assert run.steps.sum() < plain.steps.sum()


@pytest.mark.slow
def test_every_method_reaches_the_optimum_without_falling(key: jax.Array) -> None:
    """Overlapping components, where plain EM takes a thousand steps."""
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(0, 1, (300, 1)), generator.normal(1.6, 1.2, (500, 1))])
    start = {"weights": [0.5, 0.5], "means": [[-0.2], [1.5]], "covariances": [[1.0], [1.0]]}
    model = GaussianMixture(2, "diagonal")
    fits = {
        one: EM(model, tol=1e-8, draws=0, acceleration=one).run(key, x, parameters=start)
        for one in ("none", *ACCELERATIONS)
    }
    for method in ACCELERATIONS:
        fit = fits[method]
        assert fit.status is Status.CONVERGED
        assert fit.objective[-1] == pytest.approx(fits["none"].objective[-1], abs=1e-6)
        assert np.all(np.diff(fit.objective) >= -1e-9)
        assert len(fit.objective) < 0.7 * len(fits["none"].objective)
        assert fit.settings["acceleration"] == method
    assert len(fits["mix"].objective) < 0.15 * len(fits["none"].objective)


@pytest.mark.slow
def test_a_derived_program_is_accelerated_too() -> None:
    x = rows()
    kernel = derive(GaussianMixture(3), Call((x,), {}, None, "map", "em"))
    start = kernel.starts(jax.random.key(2), 4, "portfolio")
    space = space_of({k: np.asarray(v)[0] for k, v in start.parameters.items()}, kernel.supports)
    ends = [
        climb(
            kernel.problem,
            start.parameters,
            tolerance=1e-8,
            count=150,
            epsilon=2e-16,
            max_steps=5000,
            accelerator=accelerator,
        )
        for accelerator in (None, Accelerator("mix", space))
    ]
    assert ends[1].objective.max() == pytest.approx(ends[0].objective.max(), rel=1e-8)
    assert ends[1].steps.sum() < ends[0].steps.sum()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.0, 4.0))
def test_the_objective_never_falls(seed: int, spread: float) -> None:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(60, 2)) + spread * generator.integers(0, 3, size=(60, 1))
    em = EM(GaussianMixture(3, "diagonal"), objective="mle", max_steps=80)
    kernel = em.bind(x)
    run = long_runs(em, kernel, kernel.starts(jax.random.key(seed), 4, "random_rows"), None)
    for trace in run.traces:
        assert np.min(np.diff(trace)) > -1e-9


KINDS = ("fine", "nan", "poison", "refused", "falls")


@partial(jax.tree_util.register_dataclass, data_fields=["kind"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Slope:
    """Make up a problem: x ← 0.95 x, objective −x²/2, something wrong near 0, where proposals jump to."""

    kind: Any

    def step(self, parameters: Any) -> tuple[Any, Any, None]:
        x = parameters["x"]
        near = jnp.abs(x) < 1e-3
        objective = jnp.where((self.kind == KINDS.index("nan")) & near, jnp.nan, -0.5 * x**2)
        following = jnp.where((self.kind == KINDS.index("poison")) & near, jnp.nan, 0.95 * x)
        return {"x": following}, jnp.where(self.kind == KINDS.index("falls"), -objective, objective), None

    def admit(self, parameters: Any) -> Any:
        near = jnp.abs(parameters["x"]) < 1e-3
        return {"x": jnp.where((self.kind == KINDS.index("refused")) & near, jnp.nan, parameters["x"])}


def ride(kind: str, method: str = "mix", steps: int = 12) -> Any:
    accelerator = Accelerator(method, space_of({"x": 0.0}, {"x": constraints.real}))
    return climb(
        Slope(jnp.asarray(KINDS.index(kind))),
        {"x": np.array([20.0, 30.0])},
        tolerance=1e-9,
        count=1.0,
        epsilon=1e-16,
        max_steps=steps,
        accelerator=accelerator,
    )


@pytest.mark.parametrize("method", ACCELERATIONS)
def test_a_bad_proposal_is_refused_and_a_plain_step_follows(method: str) -> None:
    for kind in ("nan", "poison", "refused"):
        run = ride(kind, method)
        assert run.status == [Status.STEP_LIMIT] * 2
        for end, trace in zip(np.asarray(run.parameters["x"]), run.traces, strict=True):
            assert 1e-3 <= end < 30.0
            assert len(trace) == 12
            assert np.all(np.isfinite(trace))
            assert np.all(np.diff(trace) >= 0)
    assert ride("fine", method, 200).status == [Status.CONVERGED] * 2


def test_a_plain_step_that_falls_or_is_not_finite_ends_the_climb() -> None:
    assert ride("falls").status == [Status.DECREASED] * 2
    assert ride("nan", steps=500).status == [Status.NON_FINITE] * 2


def test_a_weight_of_zero_does_not_stop_the_climb() -> None:
    """On the edge of the simplex nothing can be extrapolated: plain steps go on."""
    x = rows()
    em = EM(GaussianMixture(3, "diagonal"), objective="mle", draws=0, restarts=1)
    start = {"weights": [0.5, 0.5, 0.0], "means": x[:3], "covariances": np.ones((3, 2))}
    kernel = em.bind(x)
    given = {name: np.asarray(value)[None] for name, value in kernel.inward(start).items()}
    accelerator = Accelerator("mix", space_of({k: v[0] for k, v in given.items()}, kernel.supports))
    run = climb(
        kernel.problem,
        given,
        tolerance=1e-6,
        count=150,
        epsilon=2e-16,
        max_steps=3000,
        accelerator=accelerator,
    )
    assert run.status == [Status.CONVERGED]
    assert float(np.asarray(run.parameters["weights"])[0, 2]) == 0.0


def test_the_slow_rate_counts_where_the_gains_do_not_show_it() -> None:
    def to_come(gains: list[float], slowest: float, blur: float = 0.0) -> float:
        return float(slow_gain_to_come(np.array(gains), np.asarray(slowest), np.asarray(blur)))

    rate = 0.99**2
    assert to_come([1.0, 0.25], 1.0) == pytest.approx(0.25 / 3)
    assert to_come([1.0, 0.25], 100.0) == pytest.approx(0.25 * rate / (1 - rate))
    assert np.isinf(to_come([0.1, 0.2], 1.0))
    assert np.isinf(to_come([np.nan, 0.2], 1.0))
    assert to_come([1e-9, -1e-9], 100.0, 1e-8) == pytest.approx(1e-8 * rate / (1 - rate))


def test_an_unknown_acceleration_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="'squarem'"):
        EM(GaussianMixture(2), acceleration="fast")
