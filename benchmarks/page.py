"""The page of the benchmarks: a table a group, the share of the matrix-product rate, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness import Row, Share
from picture import picture

__all__ = ["write"]

HEAD = """\
# Benchmarks

Written by `make bench`. Both sides of a row compute the same thing on the same data in the same run, in
turns; the column "answers" says what, and how far they agree. A ratio is the median over the rounds (least to
most, and how many), above 1 where triptych is ahead; "aim" is what the project wants of this machine. A row
has a time budget, so that a slow peer gets fewer rounds.

Machine: {machine}. Versions: {versions}.

![Ratios to the peers, on a logarithmic axis, by group](benchmarks.png)

E-steps to the optimum, by every way to accelerate EM, are in [acceleration.md](acceleration.md); how time and
memory grow with N, D, K, chains and draws in [cost_curves.md](cost_curves.md).
"""


def write(
    rows: Sequence[Row | Share], missing: Mapping[str, str], folder: Path, machine: str, versions: str
) -> None:
    """Write benchmarks.md and benchmarks.png, each whole or not at all."""
    lines = [HEAD.format(machine=machine, versions=versions)]
    timed = [row for row in rows if isinstance(row, Row)]
    for group in dict.fromkeys(row.group for row in timed):
        lines += _table(group, [row for row in timed if row.group == group])
    lines += _shares([row for row in rows if isinstance(row, Share)])
    if missing:
        lines += ["## Not measured", "", *(f"- `{name}`: {why}" for name, why in missing.items()), ""]
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "benchmarks.md.part"
    part.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    part.replace(folder / "benchmarks.md")
    drawn = [row for row in timed if row.ratios]
    if drawn:
        picture(drawn, folder / "benchmarks.png")


def _table(group: str, rows: Sequence[Row]) -> list[str]:
    lines = [
        f"## {group}",
        "",
        "| what | dtype | peer | triptych | peer's | ratio | aim | answers |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        cells = (
            row.what,
            row.precision,
            row.peer or "none",
            _amount(row.own, row.unit),
            ("> " if row.at_least else "") + _amount(row.other, row.unit),
            _ratio(row),
            _aim(row),
            row.agreement,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "ms" and value >= 10_000:
        value, unit = value / 1000, "s"
    return f"{value:.4g} {unit}" if value < 10_000 else f"{value:,.0f} {unit}".replace(",", " ")


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "–"
    count = len(row.ratios)
    span = f" ({_times(min(row.ratios))} to {_times(max(row.ratios))}, {count})" if count > 1 else " (1)"
    return f"**{'> ' if row.at_least else ''}{_times(row.ratio)}×**{span}"


def _times(ratio: float) -> str:
    return f"{ratio:.3g}" if ratio < 1000 else f"{ratio:.0f}"


def _aim(row: Row) -> str:
    if row.limit is not None:
        return f"≤ {row.limit:g} {row.unit}"
    return "" if row.target is None else f"{row.target:.3g}×"


def _shares(shares: Sequence[Share]) -> list[str]:
    if not shares:
        return []
    lines = [
        "## Share of the matrix-product rate",
        "",
        "GFLOP/s of one EM iteration, full covariances, useful work 4 N F K with F = 1 + D + D(D + 1)/2,",
        "against a product of two 2048 × 2048 matrices of the same dtype, by JAX and by NumPy, in turns;",
        "the share is of the faster product (aim 60 %). The thin products are those of the iteration alone,",
        "by NumPy, (K, F) · (F, n) and (F, n) · (n, K) over all rows, T(x) being in the cache already:",
        "what an iteration would reach that made its features and its responsibilities in no time.",
        "",
        "| what | dtype | iteration | JAX's product | NumPy's product | share | thin products |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for one in shares:
        span = f" ({min(one.shares):.0%} to {max(one.shares):.0%}, {len(one.shares)})"
        cells = (
            one.what,
            one.precision,
            *(f"{value:.1f} GFLOP/s" for value in (one.own, one.jax, one.numpy)),
            f"**{np.median(one.shares):.0%}**{span}",
            f"{one.thin:.1f} GFLOP/s",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
