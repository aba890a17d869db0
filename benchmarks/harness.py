"""Two sides on the same data in the same run, alternating: what a row is, and how it is timed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["PAUSE", "Rounds", "Row", "Share", "alternate", "as_row", "seconds", "size_of"]

PAUSE = 0.3  # seconds: the threads of the other side's BLAS spin on for a while


class Rounds(NamedTuple):
    """How often the two sides take turns: `most` times, fewer where that would take more than `seconds`."""

    most: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: what both sides computed, how long each took, and how far their answers agree.

    `own` and `other` are medians in `unit`, `None` where that side never got there or there is no peer;
    `ratios` are other/own of each round (own/other where more is better), so that above 1 triptych is ahead.
    `target` is the ratio aimed at, `limit` the most that `own` should be where there is no peer. `precision`
    is the dtype of both sides; `at_least` says that the peer was stopped before it got there.
    """

    group: str
    what: str
    peer: str
    own: float | None
    other: float | None
    ratios: tuple[float, ...]
    unit: str = "ms"
    agreement: str = ""
    target: float | None = None
    precision: str = ""
    limit: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        """The median ratio."""
        return float(np.median(self.ratios)) if self.ratios else None


@dataclasses.dataclass(frozen=True)
class Share:
    """GFLOP/s of an iteration and of JAX's and NumPy's product of squares; by round, the share of the larger.

    `thin` is the rate of an iteration's own two products by NumPy, T(x) and the responsibilities being there.
    """

    what: str
    precision: str
    own: float
    jax: float
    numpy: float
    thin: float
    shares: tuple[float, ...]


def as_row(found: Mapping[str, Any]) -> Row | Share:
    """Make what `dataclasses.asdict` took apart, and JSON kept."""
    kind = Share if "shares" in found else Row
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return kind(**plain)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def alternate(
    own: Callable[[], float], other: Callable[[], float], rounds: Rounds | int
) -> tuple[float, float, tuple[float, ...]]:
    """Call two timers in turn; give both medians (seconds) and the ratio other/own of each round.

    There is one round at least; another begins only if it would end in time, going by the last one. A whole
    number of rounds is done whatever it takes.
    """
    rounds = Rounds(rounds, float("inf")) if isinstance(rounds, int) else rounds
    mine, theirs = [], []
    begin = now = time.perf_counter()
    while True:
        time.sleep(PAUSE)
        mine.append(own())
        time.sleep(PAUSE)
        theirs.append(other())
        before, now = now, time.perf_counter()
        if len(mine) >= rounds.most or now - begin + (now - before) > rounds.seconds:
            break
    ratios = tuple(float(b / a) for a, b in zip(mine, theirs, strict=True))
    return float(np.median(mine)), float(np.median(theirs)), ratios


def size_of(*numbers: int) -> str:
    """Write a size, (500 000, 16, 16)."""
    return "(" + ", ".join(f"{number:,}".replace(",", " ") for number in numbers) + ")"
