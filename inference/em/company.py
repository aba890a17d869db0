"""Several processes that share the rows: one that ends ends the run of all, with words that say what to do.

Sums are added over all processes, so that none can go on alone. Where one is killed, the sum of the others
fails; JAX's own coordination may abort a process before that, from a thread of its own, and at a normal
exit it waits for all to leave. So a helper process stands by during the fit and has the last word if this
process ends without a farewell, and a process that failed leaves without waiting for the others.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from triptych.inference.rows import Rows

__all__ = ["LostProcessError", "added", "in_company"]

# Reads its input to the end; without a farewell the words are said.
LAST_WORDS = "import sys; sys.stdin.buffer.read() or sys.stderr.write(sys.argv[1] + chr(10))"


class LostProcessError(RuntimeError):
    """Another process that shares the rows has ended, so that this one cannot go on."""


def added(parts: Any, rows: Rows) -> Any:
    """Add the sums of all processes, where the rows are spread over several.

    Raises
    ------
    LostProcessError : one of them has ended.
    """
    if not rows.shared or jax.process_count() == 1:
        return jax.tree.map(np.asarray, parts)
    return jax.tree.map(lambda leaf: np.sum(leaf, axis=0), gathered(parts))


def gathered(parts: Any) -> Any:
    """Give what all processes have of the same kind, along a new first axis."""
    from jax.experimental.multihost_utils import process_allgather

    try:
        return process_allgather(jax.tree.map(np.asarray, parts))
    except Exception as error:  # the transports fail each in their own way
        raise LostProcessError("Another process that shares the rows has ended.") from error


@contextmanager
def in_company(rows: Any, checkpoint: Path | None) -> Iterator[None]:
    """Run a fit whose rows may be shared: whatever ends it is said, and leaves no process waiting."""
    if not (isinstance(rows, Rows) and rows.shared and jax.process_count() > 1):
        yield
        return
    where = f": they go on from {checkpoint}" if checkpoint else "; with `checkpoint=PATH` they would go on"
    again = f"Start all of them again{where}."
    me = f"process {jax.process_index()} of {jax.process_count()}"
    words = (
        f"{me.capitalize()} was ended during its fit: it was killed, or another process that shares the rows "
        f"has ended. {again}"
    )
    witness = subprocess.Popen([sys.executable, "-S", "-c", LAST_WORDS, words], stdin=subprocess.PIPE)

    def farewell() -> None:
        with suppress(BrokenPipeError):
            witness.communicate(b"farewell")

    try:
        yield
    except LostProcessError as error:
        # JAX may abort this process before its last line is out: the farewell comes after that.
        _leave_alone(farewell)
        lost = f"Another process that shares the rows has ended, so {me} ends too. {again}"
        raise LostProcessError(lost) from error.__cause__
    except BaseException:
        farewell()
        _leave_alone(lambda: None)
        raise
    farewell()


def _leave_alone(last: Callable[[], None]) -> None:
    """Have this process leave, at its end, without waiting for the others (JAX's own exit would)."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        last()
        os._exit(1)

    atexit.register(leave)  # the last to be registered is the first to run
