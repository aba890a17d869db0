"""Every shipped config, tiny, by the real methods, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych.experiments.cli import app
from triptych.experiments.reading import read_experiment
from triptych.experiments.registry import shipped_configs

TINY = {
    "em": ["restarts=1", "draws=20"],
    "ascent": ["restarts=1", "draws=20"],
    "svi": ["steps=250", "draws=20", "guide=AutoNormal"],
    "mcmc": ["warmup=50", "draws=20", "chains=2", "max_tree_depth=4"],
    "gibbs": ["warmup=20", "draws=20", "chains=2"],
    "laplace": ["draws=20"],
    "cavi": ["restarts=1", "draws=20"],
    "batch_and_match": ["steps=20", "draws=20"],
    "pathfinder": ["paths=2", "steps=20", "draws=20"],
    "chees": ["warmup=20", "draws=20", "chains=4"],
}
SMALLER = {
    "digits": ["data.rows=60", "model.components=3"],
    "two_coins": ["data.simulate.rows=100"],
    "topics": ["data.simulate.rows=160"],
}


def test_a_real_fit_is_kept_and_comes_out_the_same_again(tmp_path: Path) -> None:
    out = tmp_path / "diabetes"
    command = ["run", "diabetes", "fits.svi=null", "fits.mcmc=null", "fits.em.draws=20", "--output", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0
    assert "every fit was kept" in again.stdout
    same = CliRunner().invoke(app, ["verify", str(out)])
    assert same.exit_code == 0, same.output
    assert "to the last bit" in same.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_config_runs_by_all_its_methods(name: str, tmp_path: Path) -> None:
    fits = read_experiment(name).config.fits
    tiny = [f"fits.{fit}.{setting}" for fit, one in fits.items() for setting in TINY[one.method]]
    out = tmp_path / name
    command = ["run", name, *tiny, *SMALLER.get(name, []), "--output", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest["fits"].values()] == [f"{fit}.nc" for fit in fits]
    comparison = json.loads((out / "comparison.json").read_text())
    assert {row["name"] for row in comparison["methods"]} == set(fits)
    page = (out / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
