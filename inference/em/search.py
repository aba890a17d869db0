"""Where a fit looks for the optimum: many short runs, and the best of them run to convergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from triptych.inference.em.accelerated import Accelerator
from triptych.inference.em.flat import space_of
from triptych.inference.em.kernel import Kernel, Start
from triptych.inference.em.loop import Run, climb

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM

__all__ = ["Progress", "long_runs", "point_of", "short_runs"]

SHORT_ROWS = 20_000  # rows of the short first runs; more rows change their ranking little
SHORT_STEPS = 20
CANDIDATES = 24  # short runs at least
BLOCK_WORK = 2e9  # multiplications between two looks of the host, about a second
SHARED_WORK = 1e6  # multiplications of a step up to which idle starts cost less than compiling anew

Progress = Callable[[int, int, float], None]  # called with (steps done, steps at most, best objective)


def short_runs(em: EM, kernel: Kernel, first: jax.Array, second: jax.Array) -> Start:
    """Take 20 steps from many starts, on a sample of the rows; the best `restarts` go on.

    Where all of them would go on, on the same rows, there is nothing to choose.
    """
    if getattr(em.model, "components", 2) == 1:
        return kernel.starts(first, 1, em.starts)
    small = kernel.sample(second, SHORT_ROWS)
    start = small.starts(first, _candidates(em), em.starts)
    if small is kernel and _candidates(em) == em.restarts:
        return start
    short = climb(
        em.climbed(small),
        start.parameters,
        tolerance=0.0,
        count=small.count,
        epsilon=small.epsilon,
        max_steps=SHORT_STEPS,
        block=_block(em, small, start, _candidates(em)),
        accelerator=_accelerator(em, small, start),
    )
    order = _best_distinct(short.objective, em.restarts)
    history = tuple(short.traces[index] for index in order) if small is kernel else ()
    recipes = tuple(start.recipes[index] for index in order)
    return Start(point_of(short.parameters, order), recipes, history)


def long_runs(em: EM, kernel: Kernel, start: Start, progress: Progress | None) -> Run:
    """Run every start to convergence."""
    # Where a step is cheap the short runs and these are compiled as one loop, of as many starts.
    shared = start.history and _work(kernel, start) * _candidates(em) <= SHARED_WORK
    show = None if progress is None else lambda done, best: progress(done, em.max_steps, best)
    return climb(
        em.climbed(kernel),
        start.parameters,
        tolerance=em.tol,
        count=kernel.count,
        epsilon=kernel.epsilon,
        max_steps=em.max_steps,
        block=_block(em, kernel, start, len(start.recipes)),
        accelerator=_accelerator(em, kernel, start),
        lanes=_candidates(em) if shared else 0,
        progress=show,
    )


def point_of(parameters: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Give one of stacked points, or several."""
    return {name: np.asarray(value)[index] for name, value in parameters.items()}


def _candidates(em: EM) -> int:
    """Count the short runs."""
    least = CANDIDATES if em.starts == "portfolio" else min(CANDIDATES, 2 * em.restarts)
    return max(em.restarts, least)


def _accelerator(em: EM, kernel: Kernel, start: Start) -> Accelerator | None:
    if em.acceleration == "none":
        return None
    return Accelerator(em.acceleration, space_of(point_of(start.parameters, 0), kernel.supports))


def _block(em: EM, kernel: Kernel, start: Start, number: int) -> int:
    """Choose the steps between two looks of the host."""
    blocks = BLOCK_WORK / max(_work(kernel, start) * number, 1.0)
    return int(np.clip(blocks, 1, min(100, em.max_steps)))


def _work(kernel: Kernel, start: Start) -> float:
    """Multiplications of a step of one start, about."""
    return kernel.count * sum(np.asarray(leaf[0]).size for leaf in start.parameters.values())


def _best_distinct(objective: np.ndarray, number: int) -> np.ndarray:
    """Give the indices of the best objectives, those that differ by more than 1e-6 nats first."""
    height = np.where(np.isfinite(objective), objective, np.finfo(float).min)
    order = np.argsort(-height, kind="stable")
    new = np.append(True, -np.diff(height[order]) > 1e-6)
    return np.concatenate([order[new], order[~new]])[:number]
