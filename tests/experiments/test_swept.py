"""Numbers against the setting that runs differ in: which setting, which lines, which point is best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from triptych.experiments.candidates import Beside, Candidate, Row
from triptych.experiments.report.beside import write_page
from triptych.experiments.report.swept import MEASURES, curves, scale_of

EVIDENCE, PREDICTIONS, BIC = MEASURES
BAD = "<script>window.hit = 1</script>"


def candidate(run: str, settings: Mapping[str, str]) -> Candidate:
    return Candidate(run, None, None, "", None, "", "", settings)


def beside(settings: list[dict[str, str]], **more: bool) -> Beside:
    """Runs a, b, c, …, of which the n-th has log p(x) −n, BIC n², and elpd −2n with paired errors."""
    runs = [chr(ord("a") + n) for n in range(len(settings))]
    rows = []
    for n, run in enumerate(runs):
        rows.append(Row(run, "em", "em", ok=True, log_evidence=-1.0 * n, bic=1.0 * (n - 1) ** 2))
        paired = {"difference": -2.0 * n, "difference_se": 0.5 * n}
        rows.append(Row(run, "mcmc", "mcmc", ok=True, elpd=-2.0 * n, elpd_se=9.0, **paired))
    found = tuple(candidate(run, chosen) for run, chosen in zip(runs, settings, strict=True))
    return Beside(found, tuple(rows), (), more.get("same_data", True))


def test_a_line_a_fit_in_the_order_of_the_setting_with_its_best() -> None:
    found = beside([{"model.components": k} for k in ("10", "2", "3")])
    assert scale_of(found) == "model.components"
    (line,) = curves(found, "model.components", BIC)
    assert (line.fit, line.others) == ("em", "")
    assert line.points == ((2.0, 0.0, None), (3.0, 1.0, None), (10.0, 1.0, None))  # not "10" before "2"
    assert line.best(less=True)[0] == 2
    (line,) = curves(found, "model.components", EVIDENCE)
    assert line.best(less=False) == (10.0, 0.0, None)
    (line,) = curves(found, "model.components", PREDICTIONS)
    assert line.points == ((2.0, -2.0, 0.5), (3.0, -4.0, 1.0), (10.0, 0.0, 0.0))  # the paired errors


def test_other_settings_are_lines_of_their_own() -> None:
    grid = [{"model.components": str(k), "seed": str(seed)} for seed in (0, 1) for k in (2, 3, 4)]
    found = beside(grid)
    assert scale_of(found) == "model.components"
    lines = curves(found, "model.components", EVIDENCE)
    assert [(line.others, [x for x, *_ in line.points]) for line in lines] == [
        ("seed 0", [2, 3, 4]),
        ("seed 1", [2, 3, 4]),
    ]
    assert [y for _, y, _ in lines[1].points] == [-3, -4, -5]


@pytest.mark.parametrize(
    "settings",
    [
        [{"seed": str(n)} for n in range(5)],  # no scale
        [{"model.covariance": kind} for kind in ("full", "tied", "diagonal")],
        [{"model.components": k} for k in ("2", "3")],
        [{"model.components": k} for k in ("2", "3", "–")],  # one run has no such setting
    ],
)
def test_what_is_no_scale_is_not_drawn(settings: list[dict[str, str]], tmp_path: Path) -> None:
    found = beside(settings)
    assert scale_of(found) is None
    assert 'id="swept"' not in write_page(found, tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_shows_the_lines_and_says_them(tmp_path: Path) -> None:
    settings = [{"model.components": str(k), "model.arguments.a": BAD} for k in (2, 3, 4)]
    page = write_page(beside(settings), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Against <code>model.components</code>" in page
    assert "log p(x), nats against model.components: " in page
    assert page.count(", best at ") == 2 * 3  # a label and a title of each picture
    assert "2: 0.0, 3: −1.0, 4: −2.0, best at 2" in page
    assert BAD not in page
    other = write_page(beside(settings, same_data=False), tmp_path / "other.html")
    assert 'id="swept"' not in other.read_text(encoding="utf-8")
