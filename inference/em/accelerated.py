"""Accelerated EM: every E-step judges one point, a plain EM step or a proposal, and decides on the next.

"mix", the default: Anderson's proposal from the last points is tried where it points uphill, that is, has a
positive inner product with the EM step. Where it does not, as on a plateau, come two plain steps or one, and
ACX's cubic or square extrapolation, which goes along the EM steps. A proposal with a lower objective is
refused and a plain EM step from the last point follows: the objective never falls, and EM's convergence
theory holds. All points seen, the refused ones too, are kept as Anderson's history. Coordinates are the
unconstrained ones of `flat.py`; a proposal that is not finite there is not tried.

A climb ends by the rule of plain EM (`convergence.py`), on plain steps in a row: they are taken as soon as
one step gains, or promises, less than the tolerance.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em import extrapolation
from triptych.inference.em.convergence import (
    HISTORY,
    Rule,
    gain_to_come,
    noise,
    rounding,
    slow_gain_to_come,
)
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.flat import Space

__all__ = ["ACCELERATIONS", "Accelerator", "Climber"]

# Points that each method keeps beside the last one.
ACCELERATIONS = {"mix": 5, "squarem": 2, "acx": 2, "anderson": 10, "daarem": 10}
IDLE = 5  # E-steps in a row, proposals too, without a gain above rounding: there is no more to have
FORGET = 0.7  # share of the slowest rate's 1/(1 − c) that is remembered at the next look
LONGER = 4.0  # factor by which SQUAREM's longest step grows
ALPHA, KAPPA = 1.2, 25.0  # DAAREM's damping: 1/(1 + α^(κ − s)) after s successes


class Climber(NamedTuple):
    """One start on its way. `best` is the last accepted point x, `image` is F(x)."""

    pending: Parameters  # the next point to evaluate
    proposed: Array  # whether it is a proposal: else it is a start or a plain EM step
    best: Parameters
    image: Parameters
    point: Array  # (p,) best, in u
    residual: Array  # (p,) F(x) − x, in u
    points: Array  # (m, p) points seen before, newest first, NaN where none is
    residuals: Array  # (m, p)
    objective: Array
    gains: Array  # (HISTORY,) of the last plain steps in a row, NaN where there was none
    blur: Array  # nats, the largest fall that a plain step showed: rounding
    idle: Array  # E-steps in a row without a gain above rounding
    slowest: Array  # 1/(1 − c), c the slowest rate seen lately
    to_come: Array  # nats, as `convergence.py` estimates them
    plain: Array  # plain steps still to take before an extrapolation by SQUAREM or ACX
    cubic: Array  # whether ACX's next extrapolation is the cubic one
    memory: Array  # (2,) SQUAREM's longest step; DAAREM's successes and columns
    done: Array
    steps: Array


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A way to accelerate and the coordinates it works in; static, and hashable."""

    method: str
    space: Space

    @property
    def columns(self) -> int:
        """m, the points kept."""
        m = ACCELERATIONS[self.method]
        return min(m, -(-self.space.size // 2)) if self.method == "daarem" else m

    def begin(self, starts: Parameters) -> Climber:
        """Build the state of R starts before the first step (by NumPy: nothing to compile)."""
        number, p, m = len(next(iter(starts.values()))), self.space.size, self.columns
        parameters = {name: np.asarray(value, np.float64) for name, value in starts.items()}
        memory = {"squarem": [1.0, 0.0], "daarem": [0.0, 0.0]}.get(self.method, [0.0, 0.0])
        first = {"squarem": 1, "acx": 2}.get(self.method, 0)
        return Climber(
            pending=parameters,
            proposed=np.zeros(number, bool),
            best=parameters,
            image=parameters,
            point=np.full((number, p), np.nan),
            residual=np.full((number, p), np.nan),
            points=np.full((number, m, p), np.nan),
            residuals=np.full((number, m, p), np.nan),
            objective=np.full(number, -np.inf),
            gains=np.full((number, HISTORY), np.nan),
            blur=np.zeros(number),
            idle=np.zeros(number, np.int32),
            slowest=np.ones(number),
            to_come=np.full(number, np.inf),
            plain=np.full(number, first, np.int32),
            cubic=np.ones(number, bool),
            memory=np.tile(np.asarray(memory), (number, 1)),
            done=np.zeros(number, np.int32),
            steps=np.zeros(number, np.int32),
        )

    def step(self, problem: Any, state: Climber, rule: Rule) -> Climber:
        """One E-step of one start: evaluate the pending point, judge it, choose the next."""
        following, objective, _ = problem.step(state.pending)
        point = self.space.flatten(state.pending)
        residual = self.space.flatten(following) - point
        inside = jnp.all(jnp.isfinite(point) & jnp.isfinite(residual))
        first = jnp.isneginf(state.objective)
        gain = objective - state.objective
        finite = jnp.isfinite(objective)
        fell = ~first & (gain < -rounding(objective, rule.rows, rule.epsilon))
        accepted = jnp.where(state.proposed, finite & inside & (gain >= 0), finite & ~fell)
        failed = ~accepted & ~state.proposed

        blur = jnp.maximum(state.blur, noise(objective, rule.rows, rule.epsilon))
        blur = jnp.where(accepted & ~first, jnp.maximum(blur, -gain), state.blur)
        gains = jnp.roll(state.gains, -1).at[-1].set(jnp.where(first, jnp.nan, gain))
        gains = jnp.where(accepted, jnp.where(state.proposed, jnp.nan, gains), state.gains)
        judged = state._replace(
            best=_where(accepted, state.pending, state.best),
            image=_where(accepted, following, state.image),
            point=jnp.where(accepted, point, state.point),
            residual=jnp.where(accepted, residual, state.residual),
            objective=jnp.where(accepted, objective, state.objective),
            gains=gains,
            blur=blur,
            idle=jnp.where(accepted & (gain > blur), 0, state.idle + 1),
        )
        # What leaves: the last point when it is followed, the proposal when it is refused.
        old = jnp.where(accepted, state.point, point), jnp.where(accepted, state.residual, residual)
        keep = accepted | (self.method == "mix")
        judged = judged._replace(
            points=jnp.where(keep, _pushed(state.points, old[0]), state.points),
            residuals=jnp.where(keep, _pushed(state.residuals, old[1]), state.residuals),
        )

        soon = slow_gain_to_come(gains[-2:], state.slowest, blur)
        to_come = jnp.maximum(gain_to_come(gains), soon)
        still = judged.idle >= IDLE
        arrived = accepted & ~state.proposed & ((to_come < rule.tolerance) | still)
        # It may be the top: plain steps from here on, until the rule of plain EM can tell.
        unknown = jnp.isnan(gains[-2])
        hold = accepted & ~first & (jnp.where(unknown, gain, soon) < rule.tolerance)
        arrived, hold = arrived & (rule.tolerance > 0), (hold | still) & (rule.tolerance > 0)
        code = jnp.where(failed, jnp.where(finite, 2, 3), jnp.where(arrived, 1, 0))
        following_state = self._decide(problem, judged, accepted, first, hold)
        following_state = following_state._replace(
            to_come=to_come, done=code.astype(jnp.int32), steps=state.steps + 1
        )
        return _where(state.done == 0, following_state, state)

    def _decide(self, problem: Any, state: Climber, accepted: Array, first: Array, hold: Array) -> Climber:
        """Choose the next point to evaluate: a proposal, or F of the last accepted point."""
        decide = {"squarem": self._squarem, "acx": self._acx, "daarem": self._daarem}
        proposal, wanted, state = decide.get(self.method, self._anderson)(state, accepted, first, hold)
        candidate = self.space.unflatten(proposal)
        candidate = getattr(problem, "admit", lambda point: point)({**state.image, **candidate})
        leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(candidate)]
        proposed = wanted & jnp.all(jnp.stack([jnp.all(jnp.isfinite(proposal)), *leaves]))
        return state._replace(pending=_where(proposed, candidate, state.image), proposed=proposed)

    def _anderson(self, state: Climber, accepted: Array, first: Array, hold: Array) -> tuple[Any, ...]:
        """Propose by Anderson's formula; in "mix" only uphill, else after a cycle by ACX."""
        proposal, used, slow = extrapolation.anderson(
            state.point, state.residual, state.points, state.residuals
        )
        plain = jnp.where(state.proposed, 0, jnp.maximum(state.plain - ~first, 0))
        end = (state.plain > 0) & (plain == 0)  # of a cycle
        fresh = accepted & ~hold & (plain == 0) & ~end & (used > 0)
        state = state._replace(
            plain=plain, slowest=jnp.where(fresh, jnp.maximum(slow, FORGET * state.slowest), state.slowest)
        )
        if self.method == "anderson":
            return proposal, fresh, state
        uphill = (proposal - state.point) @ state.residual > 0
        jump = end & ~hold
        proposal, s = _where(jump, self._acx_proposal(state), (proposal, state.slowest))
        plain = jnp.where(fresh & ~uphill, jnp.where(state.cubic, 2, 1), plain)
        state = state._replace(
            plain=jnp.where(end & hold, 0, plain),
            cubic=state.cubic ^ jump,
            slowest=jnp.maximum(s, state.slowest),
        )
        return proposal, jump | (fresh & uphill), state

    def _acx(self, state: Climber, accepted: Array, first: Array, hold: Array) -> tuple[Any, ...]:
        """Propose by cubic and square extrapolations in turn, each from plain steps after the last."""
        # A refused proposal is followed by one plain step more, which begins the next cycle in its place.
        length = jnp.where(state.cubic, 3, 2)
        plain = jnp.where(state.proposed, length - accepted, jnp.maximum(state.plain - ~first, 0))
        jump = ~state.proposed & accepted & ~hold & (plain == 0)
        proposal, s = self._acx_proposal(state)
        state = state._replace(
            plain=jnp.where(jump, jnp.where(state.cubic, 2, 3), plain),
            cubic=state.cubic ^ jump,
            slowest=jnp.where(jump, jnp.maximum(s, FORGET * state.slowest), state.slowest),
        )
        return proposal, jump, state

    def _acx_proposal(self, state: Climber) -> tuple[Array, Array]:
        return _where(
            state.cubic,
            extrapolation.cube(self._last(state, 4)),
            extrapolation.square(self._last(state, 3)),
        )

    def _squarem(self, state: Climber, accepted: Array, first: Array, hold: Array) -> tuple[Any, ...]:
        """Propose a square extrapolation; a plain step that stabilises it and one more, and again."""
        plain = jnp.where(state.proposed, state.plain, jnp.maximum(state.plain - ~first, 0))
        jump = ~state.proposed & accepted & ~hold & (plain == 0)
        longest = state.memory[0]
        proposal, a = extrapolation.squarem(self._last(state, 3), longest)
        longest = jnp.where(state.proposed & ~accepted, jnp.maximum(longest / LONGER, 1.0), longest)
        longest = jnp.where(jump & (a >= longest), LONGER * longest, longest)
        state = state._replace(
            plain=jnp.where(jump, 2, plain),
            memory=jnp.stack([longest, state.memory[1]]),
            slowest=jnp.where(jump, jnp.maximum(a, FORGET * state.slowest), state.slowest),
        )
        return proposal, jump, state

    def _daarem(self, state: Climber, accepted: Array, first: Array, hold: Array) -> tuple[Any, ...]:
        """Propose by Anderson's formula, damped while successes were few; start anew every m points."""
        success, held = state.memory[0] + (accepted & state.proposed), state.memory[1]
        share = 1.0 / (1.0 + ALPHA ** (KAPPA - success))
        proposal = extrapolation.damped(state.point, state.residual, state.points, state.residuals, share)
        _, used, slow = extrapolation.anderson(state.point, state.residual, state.points, state.residuals)
        fresh = accepted & ~hold & (used > 0)
        held = held + fresh
        drop = held >= self.columns
        state = state._replace(
            memory=jnp.stack([success, jnp.where(drop, 0.0, held)]),
            points=jnp.where(drop, jnp.nan, state.points),
            residuals=jnp.where(drop, jnp.nan, state.residuals),
            slowest=jnp.where(fresh, jnp.maximum(slow, FORGET * state.slowest), state.slowest),
        )
        return proposal, fresh, state

    def _last(self, state: Climber, number: int) -> Array:
        """Give the last `number` points of a row of plain steps, oldest first; the last is F(x)."""
        before = [state.points[index] for index in range(number - 2)]
        return jnp.stack([*before[::-1], state.point, state.point + state.residual])


def _pushed(rows: Array, row: Array) -> Array:
    return jnp.roll(rows, 1, axis=0).at[0].set(row)


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
