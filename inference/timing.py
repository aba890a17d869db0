"""Wall-clock seconds of a block of work, what JAX spent on tracing and compiling apart from the rest.

Only what the block's own thread does counts: beside it other fits may compile (`turns.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.monitoring

from triptych.inference.fit import Seconds
from triptych.inference.turns import waited

__all__ = ["Stopwatch", "stopwatch"]

COMPILING = "/jax/core/compile/"  # the prefix of JAX's own events: tracing, lowering, XLA


class Stopwatch:
    """Reads how long a block has been running; `seconds` may be read inside the block and after it."""

    def __init__(self) -> None:
        self._begin = time.time()
        self._end: float | None = None
        self._before = waited()
        self._idle: float | None = None  # seconds, once it has ended
        self._spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> Seconds:
        """Seconds so far: `compile` is the union of JAX's compile events (they nest), `run` the rest.

        Where fits have turns, the wait for them is neither.
        """
        idle = waited() - self._before if self._idle is None else self._idle
        total = (self._end or time.time()) - self._begin - idle
        compiling, reached = 0.0, self._begin
        for begin, end in sorted(self._spans):
            compiling += max(0.0, end - max(begin, reached))
            reached = max(reached, end)
        return Seconds(min(compiling, total), total - min(compiling, total))


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a block: `with stopwatch() as watch: ...; watch.seconds`."""
    watch, mine = Stopwatch(), threading.get_ident()

    def listen(event: str, start_time: float, end_time: float, **_: Any) -> None:
        # JAX calls every listener, in the thread whose event it is.
        if event.startswith(COMPILING) and threading.get_ident() == mine:
            watch._spans.append((start_time, end_time))

    jax.monitoring.register_event_time_span_listener(listen)
    try:
        yield watch
    finally:
        watch._end, watch._idle = time.time(), waited() - watch._before
        jax.monitoring.unregister_event_time_span_listener(listen)
