"""EM of a mixture whose rows are read block by block: the same fold, the sum taken by the host.

    sums = Σ_blocks E-step(block),      log p(x | θ) = Σ_blocks log p(block | θ)

A block goes to the devices as one array, divided over all of them; each folds its part (`fold.py`) and the
parts are added. Where processes have each a share of the rows, their sums are added too. The M-step and the
accelerator then work as for rows in memory: they read only the sum.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from triptych.inference.em.accelerated import Accelerator
from triptych.inference.em.checkpoint import Checkpoint
from triptych.inference.em.company import added
from triptych.inference.em.convergence import Rule
from triptych.inference.em.family import Array, Family, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, fold_at, m_step, over_chunks
from triptych.inference.em.loop import step
from triptych.inference.rows import Rows

__all__ = ["StreamedProblem"]


@partial(
    jax.tree_util.register_dataclass, data_fields=["following", "objective", "hyper"], meta_fields=["family"]
)
@dataclasses.dataclass(frozen=True)
class Answer:
    """What a pass over the rows gave for a point: F(θ) and the objective (nats), shaped as a problem."""

    following: Parameters
    objective: Array
    hyper: Any
    family: Family

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, None]:
        """Give the answer; it was had for these parameters."""
        return self.following, self.objective, None

    def admit(self, parameters: Parameters) -> Parameters:
        """Bring a proposal within the constraints that the M-step keeps; NaN where it cannot be."""
        return self.family.admit(parameters, self.hyper)


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedProblem:
    """A mixture bound to rows that are read in blocks; `light` is the same problem on no rows.

    `size` rows make a block, a multiple of the number of devices; a climb that has a `checkpoint` writes its
    state there after every pass, and goes on from there.
    """

    rows: Rows
    light: MixtureProblem
    size: int
    checkpoint: Checkpoint | None = None

    @property
    def family(self) -> Family:
        """The components."""
        return self.light.family

    @property
    def hyper(self) -> Any:
        """The prior's numbers."""
        return self.light.hyper

    def expect(self, stacked: Parameters) -> tuple[Array, Array]:
        """One pass over the rows for R points: sums (R, F, K), and log-likelihoods (R,) without the base."""
        mesh = Mesh(np.array(jax.local_devices()), ("rows",))
        total: Any = None
        for block in self.rows.blocks(self.size):
            # Dispatch is asynchronous: the next block is read while the devices work on this one.
            part = _folded(self._on(block, mesh), stacked, mesh=mesh)
            # The block before is done with before another is read in its place.
            total = part if total is None else _add(jax.block_until_ready(total), part)
        return added(total, self.rows)

    def answer(self, stacked: Parameters) -> Answer:
        """One EM step of R points."""
        sums, values = self.expect(stacked)
        following, objective = _moved(self.light, stacked, sums, values)
        return Answer(following, objective, self.light.hyper, self.light.family)

    def answer_running(self, stacked: Parameters, running: np.ndarray) -> Answer:
        """One EM step of the points of R that are `running` (R,); what the others get is of no account.

        Points drop out by halves, so that few sizes of the E-step are compiled.
        """
        number = len(running)
        lanes = number
        while lanes // 2 >= max(int(running.sum()), 1):
            lanes //= 2
        if lanes == number:
            return self.answer(stacked)
        chosen = np.resize(np.flatnonzero(running), lanes)
        answer = self.answer({name: np.asarray(value)[chosen] for name, value in stacked.items()})
        back = np.zeros(number, int)
        back[chosen] = np.arange(lanes)
        following = {name: value[back] for name, value in answer.following.items()}
        return dataclasses.replace(answer, following=following, objective=answer.objective[back])

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, None]:
        """One EM step of one point: θ → (θ', objective at θ in nats, nothing)."""
        answer = self.answer({name: np.asarray(value)[None] for name, value in parameters.items()})
        return {name: value[0] for name, value in answer.following.items()}, answer.objective[0], None

    def totals(self) -> Array:
        """Σ_n B(x_n): one more pass, for the families that need it."""
        mesh = Mesh(np.array(jax.local_devices()), ("rows",))
        parts = [_totals(self._on(block, mesh), mesh=mesh) for block in self.rows.blocks(self.size)]
        return jnp.asarray(added(sum(np.asarray(part) for part in parts), self.rows))

    def advance(
        self, state: Any, rule: Rule, limit: int, *, size: int, accelerator: Accelerator | None
    ) -> tuple[Any, np.ndarray]:
        """Run up to `limit` steps of every start; the host's counterpart of `loop.advance`."""
        past = np.empty((0, len(state.done)))
        most = np.max(np.asarray(state.steps)) + int(limit)
        if self.checkpoint is not None and not np.any(np.asarray(state.steps)):
            state, past = self.checkpoint.load(state) or (state, past)
        trace = np.full((size, len(state.done)), np.nan)
        for index in range(int(limit)):
            running = np.asarray(state.done) == 0
            if not running.any() or np.max(np.asarray(state.steps)) >= most:
                break
            pending = state.parameters if accelerator is None else state.pending
            answer = self.answer_running(pending, running)
            state = _judged(answer, state, rule, accelerator=accelerator)
            trace[index] = np.asarray(state.objective)
            if self.checkpoint is not None:
                self.checkpoint.save(state, trace[index])
        return state, np.concatenate([past, trace])

    def _on(self, block: np.ndarray, mesh: Mesh) -> MixtureProblem:
        """Put a block on the devices, filled up with rows of weight 0 to a number they can share."""
        parts = mesh.size
        short = -len(block) % parts
        weights = None
        if parts > 1:
            weights = np.repeat(np.array([1.0, 0.0], block.dtype), [len(block), short])
            block = np.concatenate([block, np.repeat(block[:1], short, axis=0)]) if short else block
        over = NamedSharding(mesh, P("rows"))
        placed = jax.device_put(block, over)
        weights = None if weights is None else jax.device_put(weights, over)
        return dataclasses.replace(self.light, rows=placed, weights=weights)


def _specs(problem: MixtureProblem) -> MixtureProblem:
    """Say of each field of a problem whether it is divided over the devices: rows and weights are."""
    fields: dict[str, Any] = {
        field.name: P() for field in dataclasses.fields(problem) if field.name not in ("family", "with_prior")
    }
    return dataclasses.replace(
        problem, **fields | {"rows": P("rows"), "weights": None if problem.weights is None else P("rows")}
    )


@partial(jax.jit, static_argnames="mesh")
def _folded(problem: MixtureProblem, stacked: Parameters, *, mesh: Mesh) -> tuple[Array, Array]:
    """E-steps of R points on one block: each device folds its rows, and the sums are added."""

    def here(problem: MixtureProblem, stacked: Parameters) -> Any:
        def one(point: Parameters) -> tuple[Array, Array]:
            statistics, value = fold_at(problem, problem.family.natural(point))
            return statistics.sums, value

        return jax.lax.psum(jax.vmap(one)(stacked), "rows")

    return jax.shard_map(here, mesh=mesh, in_specs=(_specs(problem), P()), out_specs=P(), check_vma=False)(
        problem, stacked
    )


@partial(jax.jit, static_argnames="mesh")
def _totals(problem: MixtureProblem, *, mesh: Mesh) -> Array:
    def here(problem: MixtureProblem) -> Array:
        part = over_chunks(problem, lambda rows, weights, _: problem.family.totals(rows, weights))
        return jax.lax.psum(part, "rows")

    return jax.shard_map(here, mesh=mesh, in_specs=(_specs(problem),), out_specs=P(), check_vma=False)(
        problem
    )


@jax.jit
def _add(first: Any, second: Any) -> Any:
    return jax.tree.map(jnp.add, first, second)


@jax.jit
def _moved(problem: MixtureProblem, stacked: Parameters, sums: Array, values: Array) -> Any:
    """M-steps of R points, and the objectives at them (nats)."""

    def one(point: Parameters, each: Array, value: Array) -> tuple[Parameters, Array]:
        objective = value + problem.family.base(point, problem.totals) + problem.constant
        if problem.with_prior:
            objective += problem.family.log_prior(point, problem.hyper)
        return m_step(problem.family, Statistics(each, problem.totals), problem.hyper), objective

    return jax.vmap(one)(stacked, sums, values)


@partial(jax.jit, static_argnames="accelerator")
def _judged(answer: Answer, state: Any, rule: Rule, *, accelerator: Accelerator | None) -> Any:
    """Judge the points that were answered and choose the next ones."""
    one = step if accelerator is None else accelerator.step
    axes: Any = Answer(0, 0, None, answer.family)  # type: ignore[arg-type]
    return jax.vmap(one, in_axes=(axes, 0, None))(answer, state, rule)
