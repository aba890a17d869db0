"""Sweeps: the grid that texts describe, runs kept and failed, and where the processes run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from triptych.experiments import beside, display
from triptych.experiments import sweep as sweeping
from triptych.experiments.cli import app
from triptych.experiments.grid import cells, read_grid
from triptych.models.errors import InputError

Writer = Callable[..., Path]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Run the cells in this process, one after the other, and say which ran; put nothing side by side."""
    ran: list[Sequence[str]] = []
    page: Any = ModuleType("triptych.experiments.report.beside")
    page.write_page = lambda found, path: path.write_text(str(found))
    monkeypatch.setitem(sys.modules, page.__name__, page)
    monkeypatch.setattr(beside, "side_by_side", list)
    monkeypatch.setattr(display, "show_beside", lambda found: None)

    def run_cell(arguments: Sequence[str], where: str) -> sweeping.Ended:
        ran.append(arguments)
        result = call("run", *arguments)
        lines = result.stderr.splitlines()
        return sweeping.Ended(result.exit_code, lines[-1] if lines else "", 0.1)

    monkeypatch.setattr(sweeping, "run_cell", run_cell)
    return ran


@given(st.lists(st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True), min_size=1, max_size=3))
def test_the_grid_reads_what_was_written(values: list[list[int]]) -> None:
    texts = [f"data.rows{n}={','.join(map(str, each))}" for n, each in enumerate(values)]
    grid = read_grid(texts)
    assert [[int(v) for v in each] for each in grid.values()] == values


def test_commas_inside_brackets_and_quotes_belong_to_their_value() -> None:
    grid = read_grid(["data.columns=[a, b],[c]", 'model.x="p,q",r', "seed=1"])
    assert grid == {"data.columns": ("[a, b]", "[c]"), "model.x": ('"p,q"', "r"), "seed": ("1",)}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["seed"], "not KEY=VALUE"),
        (["seed=1"], "nothing to sweep over"),
        (["seed=1,2", "seed=3"], "given twice"),
        (["seed=1,2,1"], "the value 1 twice"),
        (["seed=1,,2"], "not YAML"),
        (["seed=[1,2"], "not YAML"),
    ],
)
def test_a_grid_that_is_none_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_grid(texts)


def test_cells_are_the_product_and_each_is_checked(config_file: Writer, tmp_path: Path) -> None:
    texts = ["model.components=2,3", "fits.em.tol=1e-3,0", "seed=4"]
    experiment, grid = cells(config_file(), texts, tmp_path)
    assert experiment.config.seed == 4
    assert [cell.label for cell in grid] == [
        "components=2,tol=1e-3",
        "components=2,tol=0",
        "components=3,tol=1e-3",
        "components=3,tol=0",
    ]
    with pytest.raises(InputError, match="components"):
        cells(config_file(), ["model.components=2,two"], tmp_path)


def test_keys_that_end_alike_keep_their_whole_names(config_file: Writer, tmp_path: Path) -> None:
    _, grid = cells(config_file(), ["fits.mcmc.draws=5,6", "fits.svi.draws=7,8"], tmp_path)
    assert grid[0].label == "fits.mcmc.draws=5,fits.svi.draws=7"


def test_a_sweep_keeps_what_is_finished(
    bench: Any, config_file: Writer, tmp_path: Path, in_process: list[Sequence[str]]
) -> None:
    config, out = config_file(), tmp_path / "out"
    first = call("sweep", config, "seed=1,2", "--output", out)
    assert first.exit_code == 0, first.output
    assert len(in_process) == 2
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"seed=1", "seed=2"}
    again = call("sweep", config, "seed=1,2,3", "--output", out)
    assert again.exit_code == 0, again.output
    assert len(in_process) == 3
    assert "seed=1, kept from the earlier sweep" in again.stderr
    record = json.loads((out / "sweep.json").read_text())
    assert list(record["cells"]) == ["seed=1", "seed=2", "seed=3"]
    assert "seed=3" in (out / "sweep.html").read_text()  # all of them side by side
    (out / "seed=2" / "comparison.json").unlink()
    assert call("sweep", config, "seed=1,2,3", "--output", out).exit_code == 0
    assert len(in_process) == 4


def test_a_run_that_fails_leaves_the_others(
    bench: Any, config_file: Writer, tmp_path: Path, in_process: list[Sequence[str]]
) -> None:
    out = tmp_path / "out"
    result = call("sweep", config_file(), "model.components=2,400", "--output", out)
    assert result.exit_code == 1
    assert "components=400" in result.stderr
    assert "272" in result.stderr  # the reason: more components than rows
    assert "1 of 2 runs failed" in result.stdout
    cells = json.loads((out / "sweep.json").read_text())["cells"]
    assert [cell["ok"] for cell in cells.values()] == [True, False]
    bench.raising = {"svi": RuntimeError("no luck")}
    result = call("sweep", config_file(), "seed=7,8", "--output", tmp_path / "other")
    assert result.exit_code == 1
    assert "no luck" in result.stderr


def test_a_place_that_holds_something_else_is_refused(
    bench: Any, config_file: Writer, tmp_path: Path, in_process: list[Sequence[str]]
) -> None:
    assert call("run", config_file(), "--output", tmp_path / "run").exit_code == 0
    result = call("sweep", config_file(), "seed=1,2", "--output", tmp_path / "run")
    assert (result.exit_code, in_process) == (2, [])
    assert "holds a single run" in result.stderr


def test_a_cluster_that_is_not_there_is_refused(config_file: Writer, tmp_path: Path) -> None:
    result = call("sweep", config_file(), "seed=1,2", "--output", tmp_path, "--cluster", "localhost:1")
    assert result.exit_code == 2
    assert "--cluster needs" in result.stderr or "No dask scheduler" in result.stderr


@pytest.mark.slow
def test_each_run_is_a_process_of_its_own(config_file: Writer, tmp_path: Path) -> None:
    only_em = ["fits.svi=null", "fits.mcmc=null", "fits.em.restarts=1", "fits.em.draws=0", "data.rows=60"]
    result = call("sweep", config_file(), "model.components=1,2,61", *only_em, "--output", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert (tmp_path / "out" / "components=1" / "report.html").is_file()
    assert "components=2" in (tmp_path / "out" / "sweep.html").read_text()
    assert "components=61" in result.stderr
    assert "60" in result.stderr


@pytest.mark.slow
def test_the_runs_of_a_sweep_go_to_a_cluster(config_file: Writer, tmp_path: Path) -> None:
    from distributed import LocalCluster

    only_em = ["fits.svi=null", "fits.mcmc=null", "fits.em.restarts=1", "fits.em.draws=0", "data.rows=60"]
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:  # pyright: ignore[reportArgumentType]
        address = cluster.scheduler_address  # pyright: ignore[reportAttributeAccessIssue]
        arguments = ("model.components=1,61", *only_em, "--output", tmp_path / "out", "--cluster", address)
        result = call("sweep", config_file(), *arguments)
    assert result.exit_code == 1, result.output
    assert (tmp_path / "out" / "components=1" / "report.html").is_file()
