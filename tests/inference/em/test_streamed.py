"""Rows read in blocks: the iterates of rows in memory, from every kind of file, device and process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import triptych
from triptych.inference import rows as reading
from triptych.inference.em.algorithm import EMState
from triptych.inference.em.streamed import StreamedProblem
from triptych.inference.em.streamed_kernel import Moments, merged
from triptych.models.errors import InputError

WORKER = """
import json, os, sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
path, address, index, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if count > 1:
    jax.distributed.initialize(address, num_processes=count, process_id=index)
import triptych
em = triptych.EM(triptych.GaussianMixture(2), draws=0, tol=0, max_steps=4)
start = em.init(jax.random.key(0), np.load(path)[:300]).parameters
fit = em.run(jax.random.key(0), triptych.rows(path, split=True), parameters=start)
found = {name: value.tolist() for name, value in fit.parameters.items()}
print(json.dumps([jax.local_device_count(), fit.log_likelihood, found]))
"""


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks of some hundred rows, the last one smaller."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 4000)


@pytest.fixture
def x() -> np.ndarray:
    """Give two overlapping groups, (1203, 3), far from the origin."""
    random = np.random.default_rng(0)
    groups = random.normal(size=(700, 3)), random.normal(size=(503, 3)) * [1, 2, 0.5] + [3, 1, 0]
    return random.permutation(np.concatenate(groups)) + 100.0


@pytest.mark.filterwarnings("ignore::triptych.models.errors.InferenceWarning")  # four steps are not enough
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("covariance", ["full", "tied"])
@pytest.mark.parametrize("objective", ["map", "mle"])
def test_iterates_are_those_of_rows_in_memory(x: np.ndarray, covariance: Any, objective: str) -> None:
    model = triptych.GaussianMixture(2, covariance=covariance)
    em = triptych.EM(model, objective=objective, draws=0, restarts=2, tol=0, max_steps=4, acceleration="none")
    start = em.init(jax.random.key(0), x[:300]).parameters
    whole = em.run(jax.random.key(1), x, parameters=start)
    blocks = em.run(jax.random.key(1), triptych.rows(x), parameters=start)
    for site, value in whole.parameters.items():
        np.testing.assert_allclose(blocks.parameters[site], value, rtol=1e-10)
    np.testing.assert_allclose(blocks.objective, whole.objective, rtol=1e-11)
    assert blocks.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)
    assert blocks.findings == whole.findings
    (one, height), (two, same) = (
        em.step(EMState(start), x),
        em.step(EMState(start), triptych.rows(x)),
    )
    assert same.objective == pytest.approx(height.objective, rel=1e-12)
    for site, value in one.parameters.items():
        np.testing.assert_allclose(two.parameters[site], value, rtol=1e-10)


@pytest.mark.usefixtures("small_blocks")
def test_a_bernoulli_mixture_reaches_the_same_optimum() -> None:
    model = triptych.BernoulliMixture(2)
    x, _ = model.simulate(jax.random.key(0), rows=900, columns=8)
    em = triptych.EM(model, draws=0, restarts=3)
    whole, blocks = em.run(jax.random.key(1), x), em.run(jax.random.key(1), triptych.rows(x))
    assert blocks.status.ok
    assert blocks.objective[-1] == pytest.approx(whole.objective[-1], abs=1e-5)
    assert "LAPLACE_SKIPPED" not in {finding.code for finding in blocks.findings}


def _written(folder: Path, x: np.ndarray) -> dict[str, Path]:
    import pandas as pd
    import zarr

    names = {kind: folder / f"x.{kind}" for kind in ("csv", "parquet", "npy", "zarr")}
    table = pd.DataFrame(x, columns=["a", "b", "c"])
    table.to_csv(names["csv"], index=False)
    table.to_parquet(names["parquet"], row_group_size=500)
    np.save(names["npy"], x)
    zarr.save_array(str(names["zarr"]), x)  # pyright: ignore[reportArgumentType]
    return names


def test_every_kind_of_file_holds_the_same_rows(x: np.ndarray, tmp_path: Path) -> None:
    for kind, path in _written(tmp_path, x).items():
        rows = triptych.rows(path)
        assert (len(rows), rows.columns, rows.dtype) == (1203, 3, np.float64)
        blocks = [block.copy() for block in rows.blocks(500)]
        assert [len(block) for block in blocks] == [500, 500, 203], kind
        np.testing.assert_array_equal(np.concatenate(blocks), x)
    chosen = triptych.rows(tmp_path / "x.parquet", columns=["c", "a"])
    np.testing.assert_array_equal(chosen.read(10, 12), x[10:12, [2, 0]])
    assert chosen.names == ("c", "a")


def test_wrong_rows_are_refused(x: np.ndarray, tmp_path: Path) -> None:
    path = _written(tmp_path, x)["csv"]
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: triptych.rows(tmp_path / "none.csv"), "no file"),
        (lambda: triptych.rows(path, columns=["a", "z"]), "no column 'z'"),
        (lambda: triptych.rows(x, columns=["a"]), "slice an array"),
        (lambda: triptych.rows(np.empty((0, 2))), "0 rows"),
        (lambda: triptych.rows([[1.0]]), "give a table"),
        (lambda: triptych.rows(np.array([["a"]])), "not numbers"),
    ]
    for opened, said in cases:
        with pytest.raises(InputError, match=said):
            opened()
    (tmp_path / "words.csv").write_text("a,b\n1,x\n2,y\n")
    with pytest.raises(InputError, match="column 'b' holds string"):
        triptych.rows(tmp_path / "words.csv")
    em, key = triptych.EM(triptych.GaussianMixture(2)), jax.random.key(0)
    (tmp_path / "gap.csv").write_text("a,b\n1,2\n2,\n3,1\n")
    with pytest.raises(InputError, match="Row 1, column 'b' holds nan"):
        em.run(key, triptych.rows(tmp_path / "gap.csv"))
    with pytest.raises(InputError, match="no weights"):
        em.run(key, triptych.rows(x), sample_weight=np.ones(len(x)))
    with pytest.raises(InputError, match="needs its rows in memory"):
        triptych.EM(triptych.BayesianLinearRegression()).run(key, triptych.rows(x))


@pytest.mark.usefixtures("small_blocks")
def test_a_climb_goes_on_where_it_was_cut_off(
    x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    em, key, path = triptych.EM(triptych.GaussianMixture(2), draws=0), jax.random.key(0), tmp_path / "state"
    start, passes, answer = em.init(key, x[:300]).parameters, [0], StreamedProblem.answer
    whole = em.run(key, triptych.rows(x), parameters=start)

    def interrupted(problem: StreamedProblem, stacked: Any) -> Any:
        passes[0] += 1
        if passes[0] == 6:
            raise KeyboardInterrupt
        return answer(problem, stacked)

    monkeypatch.setattr(StreamedProblem, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        em.run(key, triptych.rows(x), parameters=start, checkpoint=path)
    with pytest.raises(InputError, match="another fit"):
        em.run(jax.random.key(1), triptych.rows(x), parameters=start, checkpoint=path)
    again = em.run(key, triptych.rows(x), parameters=start, checkpoint=path)
    np.testing.assert_array_equal(again.objective, whole.objective)
    assert passes[0] == len(whole.objective) + 1
    assert list(tmp_path.iterdir()) == []
    path.write_text("something else")
    with pytest.raises(InputError, match="not a checkpoint"):
        em.run(key, triptych.rows(x), parameters=start, checkpoint=path)
    with pytest.raises(InputError, match="read in blocks"):
        em.run(key, x, checkpoint=path)


def test_moments_of_parts_are_those_of_the_whole(x: np.ndarray) -> None:
    def of(part: np.ndarray) -> Moments:
        return Moments(len(part), part.mean(axis=0), np.cov(part.T, bias=True))

    together = merged(merged(of(x[:10]), of(x[10:700])), of(x[700:]))
    for mine, theirs in zip(together, of(x), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


@pytest.mark.slow
def test_devices_and_processes_share_the_rows(x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(index: int, count: int, devices: int) -> subprocess.Popen[str]:
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        command = [sys.executable, "-c", WORKER, str(tmp_path / "x.npy"), address, str(index), str(count)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **flags})

    def answers(*processes: subprocess.Popen[str]) -> list[Any]:
        return [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes]

    (one,) = answers(start(0, 1, 1))
    (eight,) = answers(start(0, 1, 8))
    two = answers(start(0, 2, 1), start(1, 2, 1))
    assert (one[0], eight[0]) == (1, 8)
    for _, height, parameters in (eight, *two):
        assert height == pytest.approx(one[1], rel=1e-12)
        for site, value in one[2].items():
            np.testing.assert_allclose(parameters[site], value, rtol=1e-10)
