"""The record of the benchmarks: what a run that was cut off leaves, and what is measured again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the modules as `python benchmarks/bench.py` does."""
    monkeypatch.syspath_prepend(str(ROOT))
    import harness  # pyright: ignore[reportMissingImports]
    import ledger  # pyright: ignore[reportMissingImports]
    import page  # pyright: ignore[reportMissingImports]

    return SimpleNamespace(harness=harness, ledger=ledger, page=page)


@pytest.fixture
def row(bench: Any) -> Callable[[str], Any]:
    return lambda what: bench.harness.Row("EM", what, "peer", 1.0, 3.0, (2.0, 3.0, 5.0), target=4)


def test_every_script_can_be_begun() -> None:
    # Apart from this process: their names are short, and others' modules may have the same.
    begin = "import sys; sys.path.insert(0, sys.argv[1]); [__import__(name) for name in sys.argv[2:]]"
    names = [path.stem for path in ROOT.glob("*.py")]
    done = subprocess.run(
        [sys.executable, "-c", begin, str(ROOT), *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_line_that_was_cut_off_costs_its_own_job_only(
    bench: Any, row: Callable[[str], Any], tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "rows.jsonl"
    bench.ledger.Ledger(path).add("first", [row("a")], "", 1.0)
    with path.open("a") as file:
        file.write('{"name": "second", "rows": [{"gro')
    after = bench.ledger.Ledger(path)
    assert (after.done("first"), after.done("second")) == (True, False)
    share = bench.harness.Share("b", "float64", 20.0, 40.0, 30.0, 25.0, (0.5,))
    after.add("second", [share], "", 1.0)
    after.add("third", [], "exit code 1: no memory", 1.0)
    again = bench.ledger.Ledger(path)
    assert again.rows(["second", "first"]) == [share, row("a")]
    assert again.missing(["first", "third", "fourth"]) == {
        "third": "exit code 1: no memory",
        "fourth": "not run yet",
    }
    again.forget(["first"])
    assert bench.ledger.Ledger(path).missing(["first", "second"]) == {"first": "not run yet"}


def test_what_was_measured_with_other_code_does_not_count(
    bench: Any, row: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    bench.ledger.Ledger(path).add("first", [row("a")], "", 1.0)
    monkeypatch.setattr(bench.ledger, "fingerprint", lambda: "other")
    after = bench.ledger.Ledger(path)
    assert not after.done("first")
    assert "other code" in after.missing(["first"])["first"]
    after.add("first", [row("b")], "", 1.0)
    assert bench.ledger.Ledger(path).rows(["first"]) == [row("b")]


def test_comments_do_not_make_other_code(bench: Any) -> None:
    source = '"""Head."""\n\n\ndef f():\n    """Say."""\n    return 1  # one\n'
    other = "def f():\n    return 1\n"
    assert bench.ledger.statements(source) == bench.ledger.statements(other)
    assert bench.ledger.statements(other) != bench.ledger.statements(other.replace("1", "2"))


def test_the_page_has_every_row_and_says_what_is_missing(
    bench: Any, row: Callable[[str], Any], tmp_path: Path
) -> None:
    alone = bench.harness.Row("Cold", "to the page", "", 20.0, None, (), "s", limit=30)
    share = bench.harness.Share("b", "float64", 20.0, 40.0, 30.0, 25.0, (0.5, 0.25, 0.5))
    bench.page.write([row("a"), alone, share], {"late": "not run yet"}, tmp_path, "two cores", "numpy 2")
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| a |  | peer | 1 ms | 3 ms | **3×** (2 to 5, 3) | 4× |  |" in text
    assert "| to the page |  | none | 20 s | – | – | ≤ 30 s |  |" in text
    assert "**50%** (25% to 50%, 3)" in text
    assert "- `late`: not run yet" in text
    assert (tmp_path / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_the_rounds_of_a_slow_peer_end_in_time(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))  # every look at the clock is ten seconds later
    monkeypatch.setattr(bench.harness.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(bench.harness.time, "sleep", lambda _: None)
    rounds = bench.harness.Rounds
    own, other, ratios = bench.harness.alternate(lambda: 1.0, lambda: 4.0, rounds(9, 35))
    assert (own, other, ratios) == (1.0, 4.0, (4.0,) * 3)
    assert len(bench.harness.alternate(lambda: 1.0, lambda: 4.0, rounds(9, 0))[2]) == 1
    assert len(bench.harness.alternate(lambda: 1.0, lambda: 4.0, rounds(2, 1e9))[2]) == 2
