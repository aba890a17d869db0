"""Runs side by side: Bayes factors in words, predictions over the same rows, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from triptych.experiments.beside import side_by_side
from triptych.experiments.cli import app
from triptych.experiments.report.beside import write_page
from triptych.experiments.weighing import in_words
from triptych.inference.fit import Fit, Seconds
from triptych.inference.posterior import build
from triptych.inference.status import Status
from triptych.models import GaussianMixture, InputError

BAD = "<script>window.hit = 1</script>"
ROWS = 12


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Write what a run leaves, as far as it is read here."""

    def write(
        name: str, nats: float, shift: float = 0.0, rows: int = ROWS, mark: str = "a", **more: Any
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        rng = np.random.default_rng(0)
        table = -1.0 - shift * np.linspace(0, 2, rows) + 0.01 * rng.normal(size=(4, 100, rows))
        fit = Fit(
            method="mcmc",
            model=GaussianMixture(1),
            status=Status.CONVERGED,
            seconds=Seconds(0.1, 0.1),
            parameters={"means": np.zeros((1, 1))},
            log_likelihood=-1.0,
            objective=np.zeros(0),
            data=build({"means": np.zeros((4, 100, 1, 1))}, log_likelihood={"x": table}),
        )
        fit.save(directory / "mcmc.nc")
        entry = {"method": "mcmc", "status": "converged", "ok": True, "file": "mcmc.nc", **more}
        data = {"arrays_sha256": mark, "sha256": mark, "rows": rows}
        manifest = {"name": name, "data": data, "fits": {"mcmc": entry}}
        method = {
            "name": "mcmc",
            "method": "mcmc",
            "ok": True,
            "log_evidence": nats,
            "log_evidence_error": 0.03,
        }
        method |= {"elpd": float(table.mean(axis=(0, 1)).sum()), "elpd_se": 0.1}
        way = {"fit": "mcmc", "how": "bridge sampling", "log_evidence": nats, "standard_error": 0.03}
        comparison = {"methods": [method], "evidence": [way], "sentences": [f"{name} says so {BAD}."]}
        config = {"name": name, "model": {"name": "gaussian_mixture", "components": int(name[-1])}, "seed": 0}
        for file, content in (("manifest.json", manifest), ("comparison.json", comparison)):
            (directory / file).write_text(json.dumps(content))
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        return directory

    return write


def test_bayes_factors_and_paired_predictions(run: Callable[..., Path]) -> None:
    found = side_by_side([run("k3", -105.0, shift=0.5), run("k2", -100.0)])
    assert [one.run for one in found.candidates] == ["k2", "k3"]
    best, worse = found.candidates
    assert best.factor is not None
    assert best.factor.log10 == 0
    assert worse.factor is not None
    assert worse.factor.log10 == pytest.approx(-5 / np.log(10))
    assert worse.factor.error == pytest.approx(0.03 * np.sqrt(2) / np.log(10))
    assert worse.factor.words == "strong"  # 2 log B = 10 (Kass & Raftery 1995)
    assert "k2 explains the data best" in found.first
    assert worse.settings == {"model.components": "3"}
    (behind,) = [row for row in found.rows if row.run == "k3"]
    terms = -0.5 * np.linspace(0, 2, ROWS)
    assert behind.difference == pytest.approx(terms.sum(), abs=0.01)
    assert behind.difference_se == pytest.approx(np.sqrt(ROWS * terms.var()), rel=0.02)
    assert [in_words(nats) for nats in (0.9, 1.1, 3.1, -5.1)] == [
        "not worth more than a bare mention", "positive", "strong", "very strong",
    ]  # fmt: skip


def test_different_data_and_rows_are_not_compared(run: Callable[..., Path]) -> None:
    one, other, fewer = run("a2", -100.0), run("b2", -90.0, mark="b"), run("c3", -99.0, rows=11)
    found = side_by_side([one, other])
    assert not found.same_data
    assert "different data" in found.first
    assert all(row.factor is None and row.difference is None for row in found.rows)
    assert all(candidate.factor is None for candidate in found.candidates)
    found = side_by_side([one, fewer])
    assert any("cannot be paired" in note for note in found.notes)
    assert [row.difference for row in found.rows].count(None) == 1
    done = CliRunner().invoke(app, ["compare", str(one), str(other)])
    assert done.exit_code == 1
    assert "different data" in done.output


def test_what_is_no_run_is_refused_in_a_line(run: Callable[..., Path], tmp_path: Path) -> None:
    good, cut = run("k2", -100.0), run("k3", -100.0)
    (cut / "comparison.json").unlink()
    (tmp_path / "empty").mkdir()
    for name, said in (("gone", "no directory"), ("empty", "no run directory"), ("k3", "was cut off")):
        done = CliRunner().invoke(app, ["compare", str(good), str(tmp_path / name)])
        assert done.exit_code == 2
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("Error: ")
        assert said in line
    with pytest.raises(InputError, match="Cannot write"):
        write_page(side_by_side([good]), tmp_path / "nowhere" / "page.html")


def test_the_command_shows_a_table_and_says_what_not_to_rely_on(run: Callable[..., Path]) -> None:
    bad = run("k3", -90.0, ok=False, status="not_mixed")
    done = CliRunner().invoke(app, ["compare", str(run("k2", -100.0)), str(bad)])
    assert done.exit_code == 0, done.output
    assert "But k3 is not to be relied on (mcmc not mixed)." in done.output
    assert "very strong" in done.output
    assert "model.components" in done.output


@pytest.mark.browser
def test_the_page_opens_offline_and_names_do_nothing(
    browser: Any, run: Callable[..., Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(
        app, ["compare", str(run("k2", -100.0)), str(run("k3", -104.0, 0.2)), "--output", str(page)]
    )
    assert done.exit_code == 0, done.output
    browser.open(page, 390, dark=True, script=False)
    asked = [e for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [event["params"]["request"]["url"] for event in asked] == [page.as_uri()]
    assert browser.run("window.hit") is None
    assert BAD in browser.run("document.body.textContent")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.querySelector('.lead').textContent").startswith("k2 explains the data best")
    labels = browser.run("[...document.querySelectorAll('svg')].map((n) => n.getAttribute('aria-label'))")
    assert len(labels) == 2
    assert all("k3" in label for label in labels)
    assert str(tmp_path) not in page.read_text(encoding="utf-8")
