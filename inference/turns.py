"""Fits side by side in one process: they trace in turns, and XLA compiles one while the next is traced.

Tracing is Python, and NumPyro and funsor keep in variables of the whole process where in a program they are:
two fits must not trace at once. XLA is not Python, and lets other threads run. So a fit in a thread of
`together` has its turn until it hands XLA something long, and queues for another when XLA is done. Each fit
does what it does alone, in the same order and with the same keys; only when it does it hangs on the others.
"""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.primitives
from jax.core import Tracer

from triptych.inference.precision import double_precision

__all__ = ["in_turns", "look", "others_go_on", "together", "waited"]


class Stopped(BaseException):
    """Raised in a fit that is to end because another was interrupted."""


class _Turns:
    """Whose turn it is, first come, first served."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queue: deque[object] = deque()
        self.holder: int | None = None
        self.stopped = False
        self.waited: dict[int, float] = {}

    def ticket(self) -> object:
        ticket = object()
        with self.changed:
            self.queue.append(ticket)
        return ticket

    def take(self, ticket: object) -> None:
        started, me = time.time(), threading.get_ident()
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or (self.holder is None and self.queue[0] is ticket))
            self.waited[me] = self.waited.get(me, 0.0) + time.time() - started
            self.queue.remove(ticket)
            if self.stopped:
                raise Stopped
            self.holder = me

    def give(self) -> None:
        with self.changed:
            if self.holder == threading.get_ident():
                self.holder = None
                self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()


_TURNS: contextvars.ContextVar[_Turns | None] = contextvars.ContextVar("turns", default=None)


def together(jobs: Sequence[Callable[[], None]], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Do jobs side by side, each in a thread with the context of this one; the first has the first turn.

    This thread does `meanwhile`, which traces nothing, and waits.

    The first that raises ends the others when their next turn comes, and what it raised is raised here; an
    interrupt of this thread ends them too.
    """
    turns = _Turns()
    raised: list[BaseException] = []
    wide = jnp.result_type(float) == np.float64  # which JAX would ask of each thread anew

    def work(job: Callable[[], None], ticket: object) -> None:
        _TURNS.set(turns)
        try:
            turns.take(ticket)
            with double_precision() if wide else nullcontext():
                job()
        except Stopped:
            pass
        except BaseException as error:  # handed to the thread that waits
            raised.append(error)
            turns.stop()
        finally:
            turns.give()

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work, job, turns.ticket()))
        for job in jobs
    ]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        meanwhile()
        for thread in started:
            thread.join()
    except BaseException:
        turns.stop()
        for thread in started:
            thread.join()
        raise
    if raised:
        raise raised[0]


@contextmanager
def others_go_on() -> Iterator[None]:
    """Open a block that traces nothing, in which the other fits have their turns."""
    turns = _TURNS.get()
    if turns is None or turns.holder != threading.get_ident() or _within_a_program():
        yield
        return
    turns.give()
    try:
        yield
    finally:
        turns.take(turns.ticket())


def look() -> None:
    """End this fit here if another was interrupted."""
    turns = _TURNS.get()
    if turns is not None and turns.stopped:
        raise Stopped


def waited() -> float:
    """Give the seconds that this thread has waited for its turns: no work of its own."""
    turns = _TURNS.get()
    return 0.0 if turns is None else turns.waited.get(threading.get_ident(), 0.0)


def in_turns(compiled: Any, *, long: bool) -> Callable[..., Any]:
    """Give a function of `jax.jit` that lets other fits go on while XLA compiles it; `long`: and runs it."""
    known: dict[Any, threading.Event] = {}

    @functools.wraps(compiled)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _TURNS.get() is None:
            return compiled(*args, **kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return compiled(*args, **kwargs)
        key = (tree, tuple(map(_kind, leaves)), jnp.result_type(float))
        if key in known and not known[key].is_set():  # another fit has XLA at it
            with others_go_on():
                known[key].wait()
        if long or key not in known:
            lowered = compiled.lower(*args, **kwargs)
            done = known[key] = threading.Event()
            with others_go_on():
                try:
                    lowered.compile()  # which `compiled` then finds
                finally:
                    done.set()
                if long:
                    return jax.block_until_ready(compiled(*args, **kwargs))
        return compiled(*args, **kwargs)

    return call


def _kind(leaf: Any) -> Any:
    """Give what a program is compiled for: an array's shape and type, anything else as it is."""
    if not hasattr(leaf, "dtype"):
        return leaf
    return np.shape(leaf), str(leaf.dtype), getattr(leaf, "weak_type", False)


def _within_a_program() -> bool:
    """Whether a NumPyro program is being run, or this cannot be told: then the turn is kept."""
    return bool(getattr(numpyro.primitives, "_PYRO_STACK", True))
