"""The loop of EM, written once: many starts in one compiled call, block by block.

`Problem` is anything with `step(parameters) -> (parameters, objective, statistics)` that is a pytree; a
mixture and a regression both are. A block runs on the device; between blocks the host shows progress and can
be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from triptych.inference.effort import by_work, cells
from triptych.inference.em.accelerated import Accelerator
from triptych.inference.em.convergence import HISTORY, Rule, gain_to_come, rounding, stalled
from triptych.inference.em.family import Array, Parameters
from triptych.inference.status import Status

__all__ = ["Problem", "Run", "climb"]


class Problem(Protocol):
    """A model bound to its data, a pytree: all that one EM step reads.

    Where the M-step keeps constraints beyond the supports, `admit(parameters)` brings a proposal of
    `accelerated.py` within them, or makes it NaN to refuse it.
    """

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, Any]:
        """θ → (θ', objective at θ in nats, statistics at θ)."""
        ...


class LoopState(NamedTuple):
    """What the next step needs, for every start (leading axis R of each leaf)."""

    parameters: Parameters  # the next point to evaluate
    best: Parameters  # the point that `objective` belongs to
    objective: Array  # (R,)
    gains: Array  # (R, HISTORY), NaN before there are any
    done: Array  # (R,) code: 0 running, else an index into STATUSES
    steps: Array  # (R,)


class Run(NamedTuple):
    """How the starts ended: parameters and numbers with leading axis R, traces as a list of arrays."""

    parameters: Parameters
    objective: np.ndarray
    status: list[Status]
    steps: np.ndarray
    traces: list[np.ndarray]
    to_come: np.ndarray


STATUSES = (Status.STEP_LIMIT, Status.CONVERGED, Status.DECREASED, Status.NON_FINITE)


def climb(
    problem: Problem,
    starts: Parameters,
    *,
    tolerance: float,
    count: float,
    epsilon: float,
    max_steps: int,
    block: int = 100,
    accelerator: Accelerator | None = None,
    lanes: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Run:
    """Run EM from every start until each has stopped.

    Parameters
    ----------
    starts : dict site → (R, …). tolerance : nats still to come at which a start stops; 0 runs `max_steps`.
    count, epsilon : rows and machine precision, for the rounding error of the objective.
    block : steps between two looks of the host. progress : called with (steps done, best objective).
    accelerator : how steps are accelerated; `None` takes plain ones. A step is one E-step either way, and the
        traces hold the objective of the point accepted last.
    lanes : starts that the compiled loop has at least: with idle ones it serves other calls too.
    """
    rule = Rule(*(np.asarray(value, np.float64) for value in (tolerance, count, epsilon)))
    number = len(next(iter(starts.values())))
    full = {
        name: np.resize(value, (max(lanes, number), *np.shape(value)[1:])) for name, value in starts.items()
    }
    state: Any = begin(full) if accelerator is None else accelerator.begin(full)
    state = state._replace(done=(np.arange(max(lanes, number)) >= number).astype(np.int32))
    blocks: list[np.ndarray] = []
    done_steps = 0
    # Rows that are read in blocks are read by the host.
    # One measure for short runs and long ones, which where steps are cheap are one compiled loop.
    work = float(cells(problem)) * max(lanes, number) * 1000
    run = getattr(problem, "advance", partial(advance, problem, work=work))
    while done_steps < max_steps and not np.all(np.asarray(state.done) > 0):
        limit = np.int32(min(block, max_steps - done_steps))
        state, objectives = run(state, rule, limit, size=block, accelerator=accelerator)
        blocks.append(np.asarray(objectives))
        # A climb that goes on from a checkpoint has taken steps before.
        done_steps = max(done_steps + block, int(np.max(np.asarray(state.steps))))
        if progress is not None:
            progress(min(done_steps, max_steps), float(np.nanmax(np.asarray(state.objective))))
    to_come = _gains_to_come(state.gains) if accelerator is None else state.to_come
    state, to_come = jax.tree.map(lambda leaf: np.asarray(leaf)[:number], (state, to_come))
    steps = state.steps
    trace = np.concatenate(blocks) if blocks else np.empty((0, len(steps)))
    return Run(
        parameters=state.best,
        objective=state.objective,
        status=[STATUSES[code] for code in state.done],
        steps=steps,
        traces=[trace[:taken, index] for index, taken in enumerate(steps)],
        to_come=to_come,
    )


def begin(starts: Parameters) -> LoopState:
    """Build the state before the first step (by NumPy: nothing to compile)."""
    number = len(next(iter(starts.values())))
    parameters = {name: np.asarray(value, np.float64) for name, value in starts.items()}
    state = LoopState(
        parameters=parameters,
        best=parameters,
        objective=np.full(number, -np.inf),
        gains=np.full((number, HISTORY), np.nan),
        done=np.zeros(number, np.int32),
        steps=np.zeros(number, np.int32),
    )
    return jax.tree.map(jnp.asarray, state)


@jax.jit
def _gains_to_come(gains: Array) -> Array:
    return jax.vmap(gain_to_come)(gains)


@partial(by_work, static_argnames=("size", "accelerator"))
def advance(
    problem: Problem,
    state: Any,
    rule: Rule,
    limit: Array,
    *,
    size: int,
    accelerator: Accelerator | None = None,
) -> tuple[Any, Array]:
    """Run up to `limit` ≤ `size` steps of every start not yet stopped; also their objectives (size, R)."""
    one = jax.vmap(step if accelerator is None else accelerator.step, in_axes=(None, 0, None))

    def body(carry: tuple[Array, Any, jax.Array]) -> tuple[Array, Any, jax.Array]:
        index, state, trace = carry
        state = one(problem, state, rule)
        return index + 1, state, trace.at[index].set(state.objective)

    def go_on(carry: tuple[Array, Any, Array]) -> Array:
        index, state, _ = carry
        return (index < limit) & jnp.any(state.done == 0)

    trace = jnp.full((size, state.done.shape[0]), jnp.nan)
    _, state, trace = lax.while_loop(go_on, body, (jnp.zeros((), jnp.int32), state, trace))
    return state, trace


def step(problem: Problem, state: LoopState, rule: Rule) -> LoopState:
    """One EM step of one start: evaluate the pending point, judge it, move on."""
    following, objective, _ = problem.step(state.parameters)
    gain = objective - state.objective
    first = jnp.isneginf(state.objective)
    gains = jnp.where(first, state.gains, jnp.roll(state.gains, -1).at[-1].set(gain))
    finite = jnp.isfinite(objective)
    fell = ~first & (gain < -rounding(objective, rule.rows, rule.epsilon))
    little = gain_to_come(gains) < rule.tolerance
    arrived = ~first & (rule.tolerance > 0) & (little | stalled(objective, gains, rule.rows, rule.epsilon))
    code = jnp.where(~finite, 3, jnp.where(fell, 2, jnp.where(arrived, 1, 0)))
    good = finite & ~fell
    running = state.done == 0

    def choose(condition: Array, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)

    return LoopState(
        parameters=choose(running, following, state.parameters),
        best=choose(running & good, state.parameters, state.best),
        objective=jnp.where(running & good, objective, state.objective),
        gains=jnp.where(running, gains, state.gains),
        done=jnp.where(running, code, state.done).astype(jnp.int32),
        steps=state.steps + running,
    )
