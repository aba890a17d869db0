"""A guide that cannot fit and chains that have not run long enough are named in the page's first line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from triptych.experiments.reading import read_experiment
from triptych.experiments.run import run
from triptych.inference.posterior import build
from triptych.inference.predictive import loo


@pytest.mark.slow
def test_a_bad_guide_and_unconverged_chains_are_named_in_the_first_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(120, 1))
    X = common + 0.05 * rng.normal(size=(120, 3))  # coefficients so correlated that independent normals miss
    table = np.column_stack([X, X.sum(axis=1) + rng.normal(size=120)])
    np.savetxt(tmp_path / "data.csv", table, delimiter=",", header="a,b,c,y", comments="")
    config = {
        "name": "bad",
        "seed": 0,
        "data": {"path": "data.csv", "target": "y"},
        "model": {"name": "bayesian_linear_regression"},
        "fits": {
            "svi": {"method": "svi", "guide": "AutoNormal", "steps": 2000},
            "mcmc": {"method": "mcmc", "warmup": 2, "draws": 30},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    outcome = run(read_experiment(tmp_path / "config.yaml"), tmp_path / "out")
    assert outcome.ok, outcome.trouble
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    first = re.sub(r"<[^>]+>", "", re.search(r'<p class="lead[^>]*>(.*?)</p>', page)[1])  # type: ignore[index]
    assert first.startswith("Not to be relied on as it stands: MCMC, the reference, has not converged (")
    assert "SVI&#39;s guide AutoNormal misses part of the posterior" in first
    # ... and nothing of note stands before it
    before = re.sub(r"<[^>]+>", " ", page.split("<body>")[1].split('<p class="lead')[0])
    assert before.split()[:2] == ["triptych", "bad"]


def test_draws_of_chains_that_are_stuck_have_no_predictions() -> None:
    stuck = np.tile(np.array([-1.0, -2.0, -3.0, -4.0])[:, None, None], (1, 60, 5))
    assert loo(build({"w": np.zeros((4, 60))}, log_likelihood={"y": stuck})) is None
