"""A run leaves whole files, goes on where it was cut off, and survives a fit that fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from triptych.experiments.manifest import read_manifest
from triptych.experiments.reading import read_experiment
from triptych.experiments.run import Outcome, run
from triptych.experiments.verify import verify
from triptych.inference.status import Finding, Status
from triptych.inference.storage import load
from triptych.models.errors import InputError

Writer = Callable[..., Path]


@pytest.fixture
def go(config_file: Writer, tmp_path: Path) -> Callable[..., Outcome]:
    def go(*overrides: str, **changes: Any) -> Outcome:
        return run(read_experiment(config_file(**changes), overrides), tmp_path / "out")

    return go


Go = Callable[..., Outcome]


def test_a_run_leaves_exactly_the_files_of_the_design(bench: Any, go: Go) -> None:
    outcome = go()
    assert outcome.ok
    assert {path.name for path in outcome.directory.iterdir()} == {
        "config.yaml",
        "manifest.json",
        "em.nc",
        "svi.nc",
        "mcmc.nc",
        "comparison.json",
        "report.html",
    }
    assert bench.ran == ["em", "svi", "mcmc"]


def test_the_manifest_is_a_receipt(bench: Any, go: Go) -> None:
    bench.findings = (Finding("K_HAT", "The guide is poor."),)
    found = json.loads((go().directory / "manifest.json").read_text())
    assert found["name"] == "tiny"
    assert found["seed"] == 0
    assert found["reference"] == "mcmc"
    assert found["data"]["rows"] == 272
    assert found["data"]["columns"] == ["eruptions", "waiting"]
    assert len(found["data"]["sha256"]) == 64
    assert {"python", "jax", "numpyro", "triptych"} <= set(found["versions"])
    assert found["platform"]["backend"] == "cpu"
    assert found["seconds"]["total"] >= found["seconds"]["import"] >= 0
    svi = found["fits"]["svi"]
    assert (svi["method"], svi["status"], svi["ok"], svi["file"]) == ("svi", "converged", True, "svi.nc")
    assert svi["findings"] == [["K_HAT", "The guide is poor."]]
    assert svi["seconds"] == {"compile": 0.5, "run": 0.25}


def test_the_resolved_config_runs_again_from_where_it_lies(bench: Any, go: Go) -> None:
    directory = go("model.components=3").directory
    again = run(read_experiment(directory / "config.yaml"), directory)
    assert again.kept == ("em", "svi", "mcmc")
    written = yaml.safe_load((directory / "config.yaml").read_text())
    assert written["model"] == {
        "name": "gaussian_mixture",
        "components": 3,
        "covariance": "full",
        "mean_precision": 0.01,
        "missing": False,
    }


def test_a_complete_run_keeps_its_fits_and_writes_the_page_again(bench: Any, go: Go) -> None:
    go()
    outcome = go()
    assert outcome.kept == ("em", "svi", "mcmc")
    assert outcome.ok
    assert len(bench.ran) == 3
    assert bench.reports == 2


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("fits.svi.draws=7", ["svi"]),
        ("seed=1", ["em", "svi", "mcmc"]),
        ("precision=float32", ["em", "svi", "mcmc"]),
        ("model.components=3", ["em", "svi", "mcmc"]),
        ("data.rows=100", ["em", "svi", "mcmc"]),
        ("fits.more={method: em}", ["em"]),
        ("reference=em", []),
        ("fits.svi=null", []),
    ],
)
def test_only_what_changed_runs_again(bench: Any, go: Go, override: str, again: list[str]) -> None:
    go()
    bench.ran.clear()
    assert go(override).ok
    assert bench.ran == again


def test_a_run_that_was_cut_off_goes_on(bench: Any, go: Go, tmp_path: Path) -> None:
    bench.raising = {"svi": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        go()
    assert list(read_manifest(tmp_path / "out")["fits"]) == ["em"]
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.endswith(".part")]
    bench.raising = {}
    outcome = go()
    assert outcome.ok
    assert outcome.kept == ("em",)
    assert bench.ran == ["em", "svi", "svi", "mcmc"]


def test_a_damaged_or_changed_file_is_made_again(bench: Any, go: Go) -> None:
    directory = go().directory
    (directory / "em.nc").write_bytes(b"damaged")
    (directory / "svi.nc").unlink()
    assert go().kept == ("mcmc",)
    assert load(directory / "em.nc").method == "em"


def test_a_fit_that_fails_is_recorded_and_the_others_finish(bench: Any, go: Go) -> None:
    bench.raising = {"mcmc": RuntimeError("no luck\ntoday")}
    outcome = go()
    assert not outcome.ok
    assert outcome.trouble == ("mcmc: RuntimeError: no luck today",)
    entry = outcome.manifest["fits"]["mcmc"]
    assert entry["status"] == "failed"
    assert entry["file"] is None
    assert set(outcome.fits) == {"em", "svi"}
    assert outcome.manifest["reference"] == "svi"
    assert json.loads((outcome.directory / "comparison.json").read_text())["reference"] == "svi"
    bench.raising = {}
    again = go()
    assert again.ok
    assert again.kept == ("em", "svi")
    assert again.manifest["reference"] == "mcmc"


def test_a_fit_that_did_not_converge_is_a_result(bench: Any, go: Go) -> None:
    bench.status = Status.NOT_MIXED
    outcome = go()
    assert outcome.ok
    assert outcome.manifest["fits"]["em"]["ok"] is False
    assert "R-hat" in outcome.manifest["fits"]["em"]["message"]


def test_adding_a_fit_changes_nothing_of_the_others(bench: Any, go: Go, tmp_path: Path) -> None:
    before = load(go().directory / "mcmc.nc").data["posterior"]["means"].values
    (tmp_path / "out" / "mcmc.nc").unlink()
    after = go(fits={"first": {"method": "em"}, "mcmc": {"method": "mcmc"}}).fits["mcmc"]
    np.testing.assert_array_equal(after.data["posterior"]["means"].values, before)
    svi = load(tmp_path / "out" / "svi.nc").data["posterior"]["means"].values
    assert not np.array_equal(svi, before)


def test_wrong_input_writes_nothing(bench: Any, go: Go, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        go("model.components=300")
    with pytest.raises(InputError):
        go("data.rows=1")
    assert not (tmp_path / "out").exists()
    assert bench.ran == []


def test_the_names_of_columns_are_in_the_refusal(bench: Any, go: Go, tmp_path: Path) -> None:
    (tmp_path / "flat.csv").write_text("height,width\n1,2\n2,2\n3,2\n4,2\n")
    with pytest.raises(InputError, match="width"):
        go(data={"path": "flat.csv"})


def test_a_directory_of_someone_else_is_refused(bench: Any, go: Go, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.yaml").write_text("mine: true\n")
    with pytest.raises(InputError, match="no run wrote"):
        go()
    assert (out / "config.yaml").read_text() == "mine: true\n"
    (out / "config.yaml").unlink()
    go()
    with pytest.raises(InputError, match="holds the run 'tiny'"):
        go("name=other")
    with pytest.raises(InputError, match="is a file"):
        run(read_experiment("old_faithful"), out / "config.yaml")


def test_a_users_program_is_found_beside_the_config_and_from_the_run(
    bench: Any, go: Go, tmp_path: Path
) -> None:
    program = tmp_path / "my_models.py"
    program.write_text(PROGRAM)
    (tmp_path / "my_data.csv").write_text("x\n1\n2\n3\n")
    model = {"program": "my_models.py:line", "arguments": {"scale": 2.0}}
    outcome = go(data={"path": "my_data.csv"}, model=model)
    assert outcome.ok
    again = run(read_experiment(outcome.directory / "config.yaml"), outcome.directory)
    assert again.kept == ("em", "svi", "mcmc")
    program.write_text(PROGRAM + "# changed\n")
    assert go(data={"path": "my_data.csv"}, model=model).kept == ()


PROGRAM = """
import numpyro
import numpyro.distributions as dist

def line(x=None, *, scale=1.0, rows=3):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", rows if x is None else len(x)):
        return numpyro.sample("x", dist.Normal(mean, scale).expand([1]).to_event(1), obs=x)
"""


def test_verify_finds_the_same_numbers(bench: Any, go: Go) -> None:
    verdict = verify(go().directory)
    assert verdict.ok
    assert verdict.largest == 0
    assert verdict.compared > 10
    assert verdict.versions == {}


def test_verify_says_what_differs(bench: Any, go: Go) -> None:
    directory = go().directory
    bench.drift = 1e-3
    verdict = verify(directory)
    assert {d.fit for d in verdict.differences} == {"em", "svi", "mcmc"}
    worst = max(verdict.differences, key=lambda d: d.size or 0)
    assert worst.quantity.startswith(("parameters means", "posterior means"))
    assert verify(directory, tolerance=0.1).ok


def test_verify_notices_other_data_a_failed_fit_and_a_damaged_file(
    bench: Any, config_file: Writer, tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text("a\n1\n2\n3\n5\n")
    directory = tmp_path / "out"
    run(read_experiment(config_file(data={"path": "mine.csv"})), directory)
    bench.raising = {"svi": RuntimeError("no")}
    (directory / "em.nc").write_bytes(b"damaged")
    found = {(d.fit, d.quantity) for d in verify(directory).differences}
    assert ("svi", "status") in found
    assert ("em", "file") in found
    (tmp_path / "mine.csv").write_text("a\n1\n2\n3\n4\n")
    assert [d.fit for d in verify(directory).differences] == ["data"]


@pytest.mark.slow
def test_fits_side_by_side_are_those_one_by_one(config_file: Callable[..., Path], tmp_path: Path) -> None:
    fits = {
        "few": {"method": "em", "restarts": 2, "draws": 20},
        "many": {"method": "em", "restarts": 3, "draws": 20, "objective": "mle"},
    }
    experiment = read_experiment(config_file(fits=fits, reference="few"))
    beside = run(experiment, tmp_path / "beside", report=False)
    alone = run(experiment, tmp_path / "alone", report=False, one_by_one=True)
    assert [entry["side_by_side"] for entry in beside.manifest["fits"].values()] == [True, True]
    assert [entry["side_by_side"] for entry in alone.manifest["fits"].values()] == [False, False]
    assert (
        list(beside.manifest["fits"]) == list(alone.manifest["fits"]) == list(beside.fits) == ["few", "many"]
    )
    for name, fit in alone.fits.items():
        assert fit.data["posterior"].equals(beside.fits[name].data["posterior"])
        assert fit.log_likelihood == beside.fits[name].log_likelihood
        spent = beside.manifest["fits"][name]["seconds"]
        assert spent["compile"] + spent["run"] <= beside.manifest["seconds"]["total"]


def test_a_single_fit_has_the_machine_to_itself(bench: Any, go: Go) -> None:
    go()
    entries = go("fits.more={method: em}").manifest["fits"]
    assert {name: entry["side_by_side"] for name, entry in entries.items()} == {
        "em": True,
        "svi": True,
        "mcmc": True,
        "more": False,
    }
