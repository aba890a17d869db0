"""A stream is seen once: the same answer however it is cut into blocks, its log-likelihood as defined."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import triptych
from triptych.inference.em.one_pass import passed
from triptych.inference.stream import checked, regrouped
from triptych.models.errors import InputError

FIRST = 600


def groups(rows: int = 4000, dtype: Any = np.float64) -> np.ndarray:
    """Three groups, mixed, away from the origin, (rows, 2)."""
    random = np.random.default_rng(3)
    centres = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    return (centres[random.integers(3, size=rows)] + random.normal(size=(rows, 2)) + 10.0).astype(dtype)


def pieces(x: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (x[start : start + size] for start in range(0, len(x), size))


def followed(blocks: Any, model: Any = None, first: int = FIRST, **settings: Any) -> triptych.Fit:
    settings = {"minibatch": "stepwise", "restarts": 3, **settings}
    em = triptych.EM(model or triptych.GaussianMixture(3), **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\[SEEN_ONCE\]", category=triptych.InferenceWarning)
        return em.run(jax.random.key(1), triptych.stream(blocks, first=first))


@pytest.fixture(scope="module")
def fit() -> triptych.Fit:
    return followed(pieces(groups(), 500))


def test_a_stream_comes_near_and_says_that_it_was_seen_once(fit: triptych.Fit) -> None:
    x = groups()
    whole = triptych.EM(triptych.GaussianMixture(3), draws=0, restarts=2).run(jax.random.key(0), x)
    assert fit.status is triptych.Status.SEEN_ONCE
    assert not fit.status.ok
    (finding,) = fit.findings
    assert finding.code == "SEEN_ONCE"
    assert "4000 rows were seen once, in 14 minibatches of 256" in finding.text
    facts = fit.data["stream"].attrs
    assert (facts["rows"], facts["first_rows"], facts["minibatches"]) == (4000, FIRST, 14)
    assert 0 < facts["last_move"] < facts["half_move"] < 0.2
    # The answer is within sampling error of the optimum: 17 parameters cost some 17/2 nats.
    marginal = triptych.marginal(whole.model)
    at = [float(marginal.log_density(one.parameters, x)) for one in (fit, whole)]
    assert at[1] - 20.0 < at[0] < at[1]
    assert "restarts" not in fit.data.children
    assert "criteria" not in fit.data.children
    assert fit.responsibilities(x[:5]).shape == (5, 3)
    assert fit.settings["minibatch"] == "stepwise"


def test_it_is_kept_in_a_file(fit: triptych.Fit, tmp_path: Path) -> None:
    fit.save(tmp_path / "fit.nc")
    again = triptych.load(tmp_path / "fit.nc")
    assert again.status is triptych.Status.SEEN_ONCE
    assert again.findings == fit.findings
    assert again.data["stream"].attrs["half_move"] == fit.data["stream"].attrs["half_move"]
    np.testing.assert_array_equal(again.parameters["means"], fit.parameters["means"])


def test_it_warns_aloud() -> None:
    em = triptych.EM(triptych.GaussianMixture(2), minibatch="auto", restarts=1)
    with pytest.warns(triptych.InferenceWarning, match="How far the optimum is, one pass cannot tell"):
        em.run(jax.random.key(0), triptych.stream(pieces(groups(900), 90), first=300))


def test_how_the_rows_are_cut_does_not_matter(fit: triptych.Fit) -> None:
    x = groups()
    for size in (97, 4000):
        again = followed(pieces(x, size))
        for site, value in fit.parameters.items():
            np.testing.assert_array_equal(again.parameters[site], value)
        assert again.log_likelihood == fit.log_likelihood
    other = followed(pieces(x[::-1], 500))
    assert other.log_likelihood != fit.log_likelihood


def test_units_do_not_matter(fit: triptych.Fit) -> None:
    thousand = followed(pieces(1000.0 * groups(), 500))
    for site, power in {"weights": 0, "means": 1, "covariances": 2}.items():
        np.testing.assert_allclose(
            thousand.parameters[site], fit.parameters[site] * 1000.0**power, rtol=1e-7, atol=1e-9
        )
    moved = thousand.log_likelihood + 4000 * 2 * np.log(1000.0)
    assert moved == pytest.approx(fit.log_likelihood, abs=1e-4)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_the_log_likelihood_is_the_prequential_one(covariance: Any) -> None:
    x, size = groups(1000), 150
    model = triptych.GaussianMixture(3, covariance=covariance)
    kernel: Any = triptych.EM(model).bind(x[:500])
    start = kernel.starts(jax.random.key(0), 1, "k-means").parameters

    def height(rows: np.ndarray, stacked: Any) -> float:
        """Give Σ log p(x | θ) in the data's units, by SciPy."""
        point = kernel.outward({name: np.asarray(value)[0] for name, value in stacked.items()})
        shapes = np.broadcast_to(point["covariances"], (3, 2, 2))
        table = [
            np.log(w) + multivariate_normal(m, c).logpdf(rows)
            for w, m, c in zip(point["weights"], point["means"], shapes, strict=True)
        ]
        return float(np.sum(logsumexp(table, axis=0)))

    tables = [x[500:650], x[650:800], x[800:950], x[950:]]  # the last one is short
    nothing = passed(kernel.problem, start, [], size)
    wanted = [height(x[:500], start)]
    for index, rows in enumerate(tables):
        before = nothing.state if index == 0 else passed(kernel.problem, start, tables[:index], size).state
        wanted.append(height(rows, before.parameters))
    found = passed(kernel.problem, start, tables, size)
    jacobian = kernel.jacobian / 500
    assert found.log_likelihood[0] + 1000 * jacobian == pytest.approx(sum(wanted), rel=1e-11)
    each = np.array(wanted) / np.array([500, 150, 150, 150, 50])
    np.testing.assert_allclose(found.trace[:, 0] + jacobian, each, rtol=1e-11)
    assert (found.rows, found.minibatches) == (1000, 4)
    # A short minibatch counts for as much of a step as it has rows.
    assert found.state.updates[0] == pytest.approx(500 / 150 + 3 + 1 / 3)


def test_float32_rows_stay_near_float64_ones(fit: triptych.Fit) -> None:
    narrow = followed(pieces(groups(dtype=np.float32), 500))
    assert narrow.parameters["means"].dtype == np.float64
    order = [np.argsort(one.parameters["means"] @ [1.0, 2.0]) for one in (narrow, fit)]
    for site in fit.parameters:
        np.testing.assert_allclose(
            narrow.parameters[site][order[0]], fit.parameters[site][order[1]], rtol=2e-3, atol=2e-3
        )


@pytest.mark.slow
def test_a_bernoulli_mixture_follows_a_stream() -> None:
    model = triptych.BernoulliMixture(2)
    x, _ = model.simulate(jax.random.key(4), rows=3000, columns=6)
    x = np.asarray(x)
    fit = followed(pieces(x, 400), model)
    whole = triptych.EM(model, draws=0, restarts=2).run(jax.random.key(0), x)
    marginal = triptych.marginal(model)
    at = [float(marginal.log_density(one.parameters, x)) for one in (fit, whole)]
    assert at[1] - 15.0 < at[0] <= at[1]
    x = x.astype(float)
    x[2000, 2] = 0.5
    with pytest.raises(InputError, match=r"column 2 holds 0\.5"):
        followed(pieces(x, 400), model)


def test_blocks_are_asked_for_one_by_one() -> None:
    asked: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        for number, block in enumerate(pieces(groups(2000), 100)):
            asked.append(number)
            yield block

    tables = regrouped(checked(triptych.stream(blocks()), np.isfinite), 250, 120)
    sizes, seen = [], []
    for table in tables:
        sizes.append(len(table))
        seen.append(len(asked))
    assert sizes == [250, *[120] * 14, 70]
    assert seen[:3] == [3, 4, 5]
    np.testing.assert_array_equal(asked, range(20))


def test_a_stream_of_its_first_rows_says_so() -> None:
    em = triptych.EM(triptych.GaussianMixture(3), minibatch="stepwise", restarts=2)
    with pytest.warns(triptych.InferenceWarning, match="ended with its first 500 rows"):
        fit = em.run(jax.random.key(0), triptych.stream([groups(500)]))
    assert fit.status is triptych.Status.SEEN_ONCE


def _gap() -> list[np.ndarray]:
    x = groups(2000)
    x[1234, 1] = np.nan
    return list(pieces(x, 500))


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "nan": (_gap, r"Block 2 of the stream, its row 234 \(row 1234 of all\), column 1 holds nan"),
    "columns": (lambda: [groups(700), groups(700)[:, :1]], "Block 1 of the stream has 1 columns, but the"),
    "ragged": (lambda: [groups(700), [[1.0, 2.0], [3.0]]], "Block 1 of the stream has rows of different"),
    "words": (lambda: [np.array([["a", "b"]])], "Block 0 of the stream holds <U1"),
    "cube": (lambda: [np.zeros((2, 2, 2))], r"holds float64 of shape \(2, 2, 2\)"),
    "nothing": (lambda: [], "The stream is empty"),
    "no rows": (lambda: [np.empty((0, 2))], "The stream has 0 rows"),
    "few": (lambda: [groups(100), groups(99)], "has 199 rows, but no step is taken from fewer than 256"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_stream_is_refused(what: str) -> None:
    blocks, said = BAD[what]
    with pytest.raises(InputError, match=said):
        followed(blocks())


def test_a_call_that_a_stream_cannot_serve_is_refused() -> None:
    key, x, model = jax.random.key(0), groups(600), triptych.GaussianMixture(2)
    follow = triptych.EM(model, minibatch="stepwise")

    def source() -> Any:
        return triptych.stream([x])

    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: triptych.stream(x), "give an iterable of tables"),
        (lambda: triptych.stream(3), "give an iterable of tables"),  # type: ignore[arg-type]
        (lambda: triptych.stream([x], first=0), "`first`"),
        (lambda: triptych.EM(model).run(key, source()), "`minibatch` is 'none': use EM"),
        (lambda: triptych.EM(model, minibatch="incremental").run(key, source()), "is 'incremental': use EM"),
        (lambda: triptych.Ascent(model).run(key, source()), "use EM"),
        (lambda: follow.run(key, source(), np.zeros(600, int)), "no labels"),
        (lambda: follow.run(key, source(), sample_weight=np.ones(600)), "no weights"),
        (lambda: follow.run(key, source(), checkpoint="state"), "checkpoint"),
        (lambda: follow.bind(source()), "by `run` alone"),
        (lambda: follow.init(key, source()), "by `run` alone"),
        (
            lambda: triptych.EM(triptych.BayesianLinearRegression(), minibatch="stepwise").run(key, source()),
            "exact EM of a GaussianMixture",
        ),
        (
            lambda: triptych.EM(model, minibatch="stepwise", e_step="hard").run(key, source()),
            "exact EM of a GaussianMixture",
        ),
        (lambda: triptych.EM(model, minibatch="stepwise", bootstrap=9).run(key, source()), "in memory"),
    ]
    for call, said in cases:
        with pytest.raises(InputError, match=said):
            call()
