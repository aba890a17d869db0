"""Configs whose rows are read in blocks: the run, its page, its receipt, and what is refused before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml

import triptych
from triptych.experiments.data import load_data
from triptych.experiments.prepared import prepare
from triptych.experiments.programs import load_model
from triptych.experiments.reading import read_experiment
from triptych.experiments.run import run
from triptych.experiments.verify import verify
from triptych.inference.em.streamed import StreamedProblem
from triptych.models.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a directory with a table of two groups, as CSV and as Parquet, and a config."""
    import pandas as pd

    random = np.random.default_rng(0)
    x = random.normal(size=(1200, 2))
    x[700:] += [6, 1]
    table = pd.DataFrame(x, columns=["length", "width"])
    table.to_csv(tmp_path / "t.csv", index=False)
    table.assign(place="here").to_parquet(tmp_path / "t.parquet")
    config = {
        "name": "blocks",
        "data": {"path": "t.parquet", "columns": ["width", "length"], "blocks": True},
        "model": {"name": "gaussian_mixture", "components": 2},
        "fits": {"em": {"method": "em", "restarts": 1}, "two": {"method": "em", "restarts": 1, "tol": 0.01}},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_run_is_that_of_rows_in_memory_and_can_be_verified(folder: Path) -> None:
    experiment = read_experiment(folder / "c.yaml")
    outcome = run(experiment, folder / "out")
    assert outcome.ok, outcome.trouble
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    whole = read_experiment(folder / "c.yaml", ["data.path=t.csv", "data.blocks=false"])
    data = load_data(whole.config, whole.base, load_model(whole.config.model, whole.base))
    assert manifest["data"]["rows"] == 1200
    assert manifest["data"]["arrays_sha256"] == data.arrays_sha256
    fit = triptych.EM(triptych.GaussianMixture(2), draws=0).run(jax.random.key(0), *data.args)
    assert outcome.fits["em"].log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-4)
    page = (folder / "out" / "report.html").read_text()
    assert re.search(r"these are 1\D{0,6}200 of 1\D{0,6}200, drawn at random", page)
    assert "labels not aligned" not in page
    assert verify(folder / "out").ok
    assert run(experiment, folder / "out").kept == ("em", "two")


def test_a_run_that_was_cut_off_goes_on_within_a_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, passes, answer = read_experiment(folder / "c.yaml"), [0], StreamedProblem.answer

    def interrupted(problem: StreamedProblem, stacked: Any) -> Any:
        passes[0] += 1
        if passes[0] == 3:
            raise KeyboardInterrupt
        return answer(problem, stacked)

    monkeypatch.setattr(StreamedProblem, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, folder / "out")
    assert len(list((folder / "out").glob(".em.*.checkpoint"))) == 1
    outcome = run(experiment, folder / "out", report=False)
    steps = sum(len(outcome.fits[name].objective) for name in ("em", "two"))
    assert passes[0] == steps + 1
    assert not list((folder / "out").glob(".*.checkpoint"))


def test_a_sample_is_drawn_with_the_seed_and_fitted_by_any_method(folder: Path) -> None:
    changes = ["data.blocks=false", "data.sample=300", "fits.two={method: laplace}"]
    one, again, other = (
        prepare(read_experiment(folder / "c.yaml", [*changes, f"seed={seed}"])).data.x for seed in (0, 0, 1)
    )
    assert one.shape == (300, 2)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_what_blocks_cannot_do_is_refused_before_any_work(folder: Path) -> None:
    (folder / "gap.csv").write_text("length,width\n1,2\n2,\n3,1\n")
    cases = {
        "fits.two={method: svi}": "take out two, or fit a random sample by data.sample: 20000",
        "data.threshold=1": "take out threshold",
        "data.holdout=0.1": "take out holdout",
        "data.sample=10": "not both",
        "data.path=null": "exactly one of",
        "data.columns=['w*']": "name each column",
        "model={name: bayesian_linear_regression}": "only the two mixtures",
        "fits.em.bootstrap=20": "bootstrap needs its rows in memory",
        "data.path=none.csv": "there is no file",
        "data.columns=[width, height]": "no column 'height'",
        "data.columns=[width, place]": "column 'place' holds (large_)?string",
        "data.path=gap.csv": "Row 1, column 'width' holds nan",
    }
    for change, said in cases.items():
        with pytest.raises(InputError, match=said):
            run(read_experiment(folder / "c.yaml", [change]), folder / "out")
    assert not (folder / "out").exists()
