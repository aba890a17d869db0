"""Fits that begin with minibatches end where fits without them do, whatever holds the rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import triptych
from triptych.inference import rows as reading
from triptych.inference.em import minibatch
from triptych.inference.em.algorithm import EMState
from triptych.inference.em.deal import deal, table_of
from triptych.inference.em.minibatch import MINIBATCH, chosen, passes
from triptych.models.errors import InputError

METHODS = ("stepwise", "incremental", "variance_reduced")


def groups(rows: int = 3000) -> np.ndarray:
    """Three overlapping groups that lie sorted, far from the origin, (rows, 2)."""
    random = np.random.default_rng(3)
    centres = np.array([[0.0, 0.0], [2.5, 1.0], [0.0, 4.0]])
    return centres[np.sort(random.integers(3, size=rows))] + random.normal(size=(rows, 2)) + 100.0


def fitted(data: Any, method: str, start: Any = None, **settings: Any) -> triptych.Fit:
    model = triptych.GaussianMixture(3)
    em = triptych.EM(model, minibatch=method, restarts=2, draws=0, **settings)
    return em.run(jax.random.key(1), data, parameters=start)


def first(x: np.ndarray) -> Any:
    em = triptych.EM(triptych.GaussianMixture(3), starts="random_rows")
    return em.init(jax.random.key(0), x).parameters


def led(data: Any, method: str, start: Any) -> dict[str, np.ndarray]:
    """Give where the passes lead to, in the data's units."""
    kernel: Any = triptych.EM(triptych.GaussianMixture(3), minibatch=method).bind(data)
    count, columns, itemsize = table_of(kernel.problem)
    dealt = deal(count, 256, reading.BLOCK_BYTES // (columns * itemsize))
    stacked = {name: value[None] for name, value in kernel.inward(start).items()}
    *_, (point, _) = passes(method, kernel, stacked, jax.random.key(2), dealt, 2)
    return kernel.outward({name: np.asarray(value)[0] for name, value in point.items()})


def close(one: Any, other: Any, factor: float = 1.0, tolerance: float = 1e-9) -> None:
    powers = {"weights": 0, "means": 1, "covariances": 2}
    for site, value in other.items():
        np.testing.assert_allclose(one[site], value * factor ** powers[site], rtol=tolerance)


@pytest.mark.parametrize("objective", ["map", "mle"])
@pytest.mark.parametrize("method", METHODS)
def test_the_answer_is_that_of_exact_em(method: str, objective: str) -> None:
    x = groups()
    start = first(x)
    settings = {"tol": 1e-9, "objective": objective}
    plain, fit = (fitted(x, each, start, **settings) for each in ("none", method))
    assert fit.status is plain.status is triptych.Status.CONVERGED
    assert fit.objective[-1] == pytest.approx(plain.objective[-1], abs=1e-6)
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-5)
    assert np.min(np.diff(fit.objective)) > -1e-9 * abs(fit.objective[-1])
    assert fit.settings["minibatch"] == method
    table = fit.data["minibatch"].dataset
    assert table.attrs["method"] == method
    assert table.attrs["minibatches"] == 11
    assert table["after"].item() > table["before"].item() + 100.0
    # The climb begins where the passes led.
    assert fit.objective[0] == pytest.approx(table["after"].item(), rel=1e-12)
    assert "minibatch" not in plain.data.children


@pytest.mark.parametrize("method", METHODS)
def test_passes_that_lead_down_are_not_followed(method: str) -> None:
    x = groups()
    best = fitted(x, "none", tol=1e-10)
    again = fitted(x, method, best.parameters)
    table = again.data["minibatch"].dataset
    assert again.objective[0] == pytest.approx(best.objective[-1], abs=1e-6)
    assert table["before"].item() == pytest.approx(best.objective[-1], abs=1e-6)
    assert again.objective[0] >= max(table["before"].item(), table["after"].item()) - 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_rows_in_blocks_take_the_same_way(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = groups()
    start = first(x)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1000 * 16)  # three stretches of a thousand rows
    close(led(triptych.rows(x), method, start), led(x, method, start))
    whole, blocks = fitted(x, method, start), fitted(triptych.rows(x), method, start)
    assert blocks.data["minibatch"].dataset.attrs["minibatches"] == 9
    for name in ("before", "after"):
        np.testing.assert_allclose(
            blocks.data["minibatch"][name].values, whole.data["minibatch"][name].values, rtol=1e-11
        )
    assert blocks.status.ok
    # Rounding decides when each may stop: within tol of the top, and so apart.
    assert blocks.objective[-1] == pytest.approx(whole.objective[-1], abs=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_units_do_not_matter(method: str) -> None:
    x = groups()
    start = first(x)
    powers = {"weights": 0, "means": 1, "covariances": 2}
    larger = {site: value * 1000.0 ** powers[site] for site, value in start.items()}
    close(led(1000.0 * x, method, larger), led(x, method, start), 1000.0)
    one, thousand = fitted(x, method, start), fitted(1000.0 * x, method, larger)
    close(thousand.parameters, one.parameters, 1000.0, 1e-3)
    assert one.status.ok
    assert thousand.status.ok


def test_the_key_gives_the_order() -> None:
    x = groups()
    em = triptych.EM(triptych.GaussianMixture(3), minibatch="stepwise", draws=0)
    keys = (jax.random.key(0), jax.random.key(0), jax.random.key(1))
    ends = [em.run(key, x, parameters=first(x)).data["minibatch"]["after"].item() for key in keys]
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


def test_weights_and_labels_stay_in_force() -> None:
    x = groups(900)
    model, key = triptych.GaussianMixture(3), jax.random.key(0)
    labels = np.full(len(x), -1)
    labels[[0, 450, 899]] = [2, 0, 1]
    weights = np.random.default_rng(0).integers(0, 4, len(x)).astype(float)
    ends = []
    for method in ("none", "variance_reduced"):
        em = triptych.EM(model, minibatch=method, draws=0, restarts=2, tol=1e-9)
        ends.append(em.run(key, x, labels, sample_weight=weights))
    assert ends[0].objective[-1] == pytest.approx(ends[1].objective[-1], abs=1e-5)
    close(ends[0].parameters, ends[1].parameters, tolerance=1e-3)


def test_missing_cells_of_diagonal_covariances_are_taken() -> None:
    x = groups(900)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    model = triptych.GaussianMixture(3, covariance="diagonal", missing=True)
    ends = [
        triptych.EM(model, minibatch=each, draws=0, restarts=2).run(jax.random.key(0), x)
        for each in ("none", "variance_reduced")
    ]
    assert ends[0].objective[-1] == pytest.approx(ends[1].objective[-1], abs=1e-4)


def test_a_bernoulli_mixture_is_taken() -> None:
    model = triptych.BernoulliMixture(2)
    x, _ = model.simulate(jax.random.key(0), rows=1500, columns=8)
    ends = [
        triptych.EM(model, minibatch=each, draws=0, restarts=2).run(jax.random.key(0), x)
        for each in ("none", "stepwise")
    ]
    np.testing.assert_allclose([fit.objective[-1] for fit in ends], ends[0].objective[-1], atol=1e-4)


@pytest.mark.slow
def test_a_climb_that_goes_on_leaves_the_passes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, key, path = groups(900), jax.random.key(0), tmp_path / "state"
    model = triptych.GaussianMixture(3)
    em = triptych.EM(model, minibatch="incremental", draws=0, restarts=2, max_steps=3)
    monkeypatch.setattr("triptych.inference.em.checkpoint.Checkpoint.clear", lambda _: None)
    with pytest.warns(triptych.InferenceWarning, match="STEP_LIMIT"):
        halted = em.run(key, triptych.rows(x), checkpoint=path)
    monkeypatch.setattr("triptych.inference.em.algorithm.first_passes", pytest.fail)
    with pytest.warns(triptych.InferenceWarning, match="STEP_LIMIT"):
        again = em.run(key, triptych.rows(x), checkpoint=path)
    np.testing.assert_array_equal(again.objective, halted.objective)


def test_auto_looks_at_the_memory() -> None:
    x = groups()
    kernel: Any = triptych.EM(triptych.GaussianMixture(3)).bind(x)
    dealt = deal(len(x), 256, 10_000)
    # Eleven minibatches of (6, 3) sums are 3.3 % of the rows' bytes; of two starts twice that.
    assert chosen("auto", kernel.problem, dealt, 1) == "incremental"
    assert chosen("auto", kernel.problem, dealt, 2) == "variance_reduced"
    assert chosen("stepwise", kernel.problem, dealt, 2) == "stepwise"
    assert fitted(x, "auto").data["minibatch"].dataset.attrs["method"] == "variance_reduced"


def test_fewer_rows_than_a_minibatch_take_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    x = groups()[::20]  # 150 rows
    em = triptych.EM(triptych.GaussianMixture(3), acceleration="none")
    state = EMState(first(x))
    for _ in range(minibatch.ROUNDS["incremental"]):
        state, _ = em.step(state, x)
    _, info = em.step(state, x)
    fit = fitted(x, "incremental", first(x))
    assert fit.data["minibatch"].dataset.attrs["minibatches"] == 1
    assert fit.objective[0] == pytest.approx(info.objective, rel=1e-12)


def test_what_has_no_minibatches_is_refused() -> None:
    x, key = groups(60), jax.random.key(0)

    def program(y: Any = None) -> None:
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    with pytest.raises(InputError, match="'stepwize': choose 'none', 'stepwise'"):
        triptych.EM(triptych.GaussianMixture(2), minibatch="stepwize")
    for model, settings, args in (
        (program, {}, (x[:, 0],)),
        (triptych.BayesianLinearRegression(), {}, (x, x[:, 0])),
        (triptych.GaussianMixture(2), {"e_step": "hard"}, (x,)),
    ):
        em = triptych.EM(model, minibatch="auto", **settings)
        with pytest.raises(InputError, match="'auto'` is for exact EM of a GaussianMixture"):
            em.run(key, *args)
    x[3, 1] = np.nan
    em = triptych.EM(triptych.GaussianMixture(2, missing=True), minibatch="incremental")
    with pytest.raises(InputError, match="does not take missing cells beside full or tied"):
        em.run(key, x)
    shared = dataclasses.replace(triptych.rows(groups(600)), last=300)
    with pytest.raises(InputError, match="rows of one process"):
        triptych.EM(triptych.GaussianMixture(2), minibatch="auto").run(key, shared)


def test_the_table_is_kept_in_the_file(tmp_path: Path) -> None:
    fit = fitted(groups(900), "variance_reduced")
    fit.save(tmp_path / "fit.nc")
    again = triptych.load(tmp_path / "fit.nc")
    assert again.settings["minibatch"] == "variance_reduced"
    for name in ("before", "after"):
        np.testing.assert_array_equal(
            again.data["minibatch"][name].values, fit.data["minibatch"][name].values
        )
    assert again.data["minibatch"].attrs["rounds"] == fit.data["minibatch"].attrs["rounds"]


def test_a_config_has_the_same_choices() -> None:
    from typing import get_args

    from triptych.experiments.fit_settings import EMSettings

    assert get_args(EMSettings.model_fields["minibatch"].annotation) == MINIBATCH
    assert EMSettings.model_fields["minibatch"].default == triptych.EM.minibatch
