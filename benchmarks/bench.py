"""Measure triptych and its peers and write docs/benchmarks.md: `make bench`.

    python benchmarks/bench.py [--only NAME ...] [--fresh] [--repeats 5] [--show] [--list]

Each job runs in a process of its own, and what it measured is written down when it ends: a run that is cut
off goes on where it was, a job that fails or runs out of memory leaves the others. What was measured with
other code, versions or another machine is measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import Row, Share, as_row
from jobs import jobs
from ledger import ROOT, Ledger
from page import write

LEDGER = ROOT / "results" / "benchmarks" / "rows.jsonl"
LONGEST = 600  # seconds that a job may take, compilation and checks included


def arguments() -> argparse.Namespace:
    """Read the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="jobs whose names begin so")
    parser.add_argument("--fresh", action="store_true", help="forget what these jobs measured before")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of a row, at most")
    parser.add_argument("--show", action="store_true", help="print the rows; keep and write nothing")
    parser.add_argument("--list", action="store_true", help="name the jobs")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_process(name: str, repeats: int) -> tuple[list[Row | Share], str]:
    """Run a job in a process of its own: its rows, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--job", name, "--into", str(into), "--repeats", str(repeats)]
        try:
            done = subprocess.run(
                command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, timeout=LONGEST, check=False
            )
        except subprocess.TimeoutExpired:
            return [], f"it took longer than {LONGEST} s"
        if done.returncode:
            sys.stderr.write(done.stderr)
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            last = lines[-1].strip() if lines else "it said nothing"
            return [], f"exit code {done.returncode}: {last[:200]}"
        return [as_row(row) for row in json.loads(into.read_text(encoding="utf-8"))], ""


def told(row: Row | Share) -> str:
    """Give a row as a line of text."""
    if isinstance(row, Share):
        return (
            f"  {row.what} {row.precision}: {row.own:.1f} GFLOP/s, JAX {row.jax:.1f}, NumPy {row.numpy:.1f}"
        )
    span = f" ({min(row.ratios):.3g} to {max(row.ratios):.3g})" if row.ratios else ""
    ratio = "" if row.ratio is None else f", {row.ratio:.3g}x{span}"
    numbers = " against ".join("-" if one is None else f"{one:.4g}" for one in (row.own, row.other))
    return f"  {row.what} {row.precision} / {row.peer}: {numbers} {row.unit}{ratio}; {row.agreement}"


def measure(names: Sequence[str], every: Sequence[str], given: argparse.Namespace) -> bool:
    """Run the jobs that have no rows yet, writing the page after each; whether all of them have rows now."""
    ledger = Ledger(LEDGER)
    if given.fresh and not given.show:
        ledger.forget(names)
    whole = True
    for name in names:
        if ledger.done(name) and not given.show:
            continue
        begin = time.perf_counter()
        rows, error = in_a_process(name, given.repeats)
        spent = time.perf_counter() - begin
        whole = whole and bool(rows)
        print(f"{name}, {spent:.0f} s{': ' + error if error else ''}", *map(told, rows), sep="\n", flush=True)
        if not given.show:
            ledger.add(name, rows, error, spent)
            publish(ledger, every)
    if not given.show:
        publish(ledger, every)
    return whole


def publish(ledger: Ledger, names: Sequence[str]) -> None:
    """Write the page from what there is."""
    stamp = ledger.stamp
    write(ledger.rows(names), ledger.missing(names), ROOT / "docs", stamp["machine"], stamp["versions"])


def main() -> None:
    """Run what was asked for."""
    given = arguments()
    table = jobs(given.repeats)
    if given.job:
        rows = [dataclasses.asdict(row) for row in table[given.job]()]
        given.into.write_text(json.dumps(rows), encoding="utf-8")
        return
    names = [n for n in table if not given.only or any(n.startswith(only) for only in given.only)]
    if given.list:
        print(*names, sep="\n")
        return
    if not names:
        sys.exit(f"No job's name begins with {', '.join(given.only)}; --list names them.")
    sys.exit(0 if measure(names, list(table), given) else 1)


if __name__ == "__main__":
    main()
