"""How hard XLA is to work on a program: little where compiling it takes longer than running it.

On a few hundred rows a fit is mostly compilation. Without LLVM's optimisations and XLA's newer code generator
a program of ours compiles in a third of the time, and runs up to two and a half times as long; with a few of
them in a little over half, and runs up to a third longer. The arithmetic is the same; its rounding need not
be. Only the programs compiled here are touched: no setting of JAX is.

All of them do one thing after another. XLA would start what does not hang on each other side by side; but up
to jaxlib 0.10 a LAPACK call on a stack of matrices waits for the threads that it has shared the stack among,
and two at a time, on few cores, wait for each other for ever. Within an operation XLA uses all cores as
before: the iterations of EM take as long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from triptych.inference.turns import in_turns

__all__ = ["briefly", "by_work", "cells", "in_order", "normals", "options", "split"]

Options = dict[str, str | bool | int | float]

IN_ORDER: Options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
BRIEF: Options = IN_ORDER | {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}
MODERATE: Options = BRIEF | {"xla_backend_optimization_level": 1}
# Numbers read, times how often: some tenths of a second at full effort.
LITTLE = 2e7
SOME = 5e8
MANY = 10**6  # draws of a normal


def cells(*trees: Any) -> int:
    """Count the numbers in trees of arrays: what a program called with them reads."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(trees))


def options(work: float) -> Options:
    """Give XLA's options for a program, as `jax.jit` takes them; none on anything but a CPU.

    Parameters
    ----------
    work : numbers that it reads, times how often it is run.
    """
    if jax.default_backend() != "cpu" or not _known():
        return {}
    return dict(BRIEF if work <= LITTLE else MODERATE if work <= SOME else IN_ORDER)


def briefly(function: Callable[..., Any], work: float, **settings: Any) -> Any:
    """`jax.jit` with as little effort as the work is worth; for calls from outside of any other `jit`."""
    return in_turns(jax.jit(function, compiler_options=options(work) or None, **settings), long=work > LITTLE)


def by_work(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """`briefly`, for a function that is compiled for many calls: each says its `work`."""
    compiled: dict[Any, Any] = {}

    @functools.wraps(function)
    def call(*args: Any, work: float, **kwargs: Any) -> Any:
        chosen = options(work)
        key = tuple(chosen.items())
        if key not in compiled:
            compiled[key] = briefly(function, work, **settings)
        return compiled[key](*args, **kwargs)

    return call


def in_order(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    """`jax.jit` at full effort, but one thing after another; for calls from outside of any other `jit`."""
    return functools.wraps(function)(functools.partial(by_work(function, **settings), work=math.inf))


def normals(key: jax.Array, shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard normals, as `jax.random.normal` does."""
    return np.asarray(_drawer(tuple(shape))(key))


def split(key: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """Split a key as `jax.random.split` does, by one program for all who want as many."""
    return _splitter(count)(key)


@functools.cache
def _drawer(shape: tuple[int, ...]) -> Any:
    return briefly(lambda key: jax.random.normal(key, shape), 2 * SOME * (np.prod(shape) > MANY))


@functools.cache
def _splitter(count: int) -> Any:
    return briefly(lambda key: tuple(jax.random.split(key, count)), 0)


@functools.cache
def _known() -> bool:
    """Whether this version of XLA has the options: they are no part of JAX's interface."""
    try:
        jax.jit(lambda: 0, compiler_options=MODERATE).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
