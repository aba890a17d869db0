"""Every shipped config, tiny, by the real methods, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from triptych.experiments.cli import app
from triptych.experiments.registry import shipped_configs

TINY = [
    "fits.em.restarts=1",
    "fits.em.draws=20",
    "fits.svi.steps=250",
    "fits.svi.draws=20",
    "fits.svi.guide=AutoNormal",
    "fits.mcmc.warmup=50",
    "fits.mcmc.draws=20",
    "fits.mcmc.chains=2",
    "fits.mcmc.max_tree_depth=4",
]
SMALLER = {"digits": ["data.rows=60", "model.components=3"], "two_coins": ["data.simulate.rows=100"]}


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
def test_a_shipped_config_runs_by_all_three_methods(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    command = ["run", name, *TINY, *SMALLER.get(name, []), "--output", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest["fits"].values()] == ["em.nc", "svi.nc", "mcmc.nc"]
    comparison = json.loads((out / "comparison.json").read_text())
    assert {row["name"] for row in comparison["methods"]} == {"em", "svi", "mcmc"}
    page = (out / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
