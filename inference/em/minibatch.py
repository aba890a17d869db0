"""First passes over the rows by minibatches, before the exact iterations of EM.

After the passes every start goes on from where they led, or from where it was if that is higher: the exact
iterations that follow, and so the answer, its status and the stopping rule, are those of EM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from triptych.inference import rows as reading
from triptych.inference.em import stepwise as updates
from triptych.inference.em.deal import Deal, deal, problem_of, sweep, table_of
from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, infer
from triptych.inference.em.kernel import Kernel, Start
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.em.search import SHORT_ROWS
from triptych.inference.em.starts import generator
from triptych.inference.em.streamed import StreamedProblem
from triptych.inference.em.streamed_kernel import StreamedKernel
from triptych.models.errors import InputError

__all__ = ["MINIBATCH", "begun", "blank", "chosen", "first_passes", "passes", "refuse_unfit", "summed"]

MINIBATCH = ("none", "stepwise", "incremental", "variance_reduced", "auto")
# Times that the minibatches are gone through: measured, docs/minibatch.md.
ROUNDS = {"stepwise": 2, "incremental": 4, "variance_reduced": 2}
SMALL = 0.05  # share of the data's bytes that the statistics of all minibatches may have


def refuse_unfit(minibatch: str, kernel: Kernel) -> None:
    """Refuse what minibatches cannot be taken of.

    Raises
    ------
    InputError : no hand-written kernel of a mixture, missing cells beside full or tied covariances, or rows
        that several processes share.
    """
    if minibatch == "none":
        return
    cure = "leave `minibatch` out"
    if not isinstance(kernel, MixtureKernel | StreamedKernel):
        raise InputError(
            f"`minibatch={minibatch!r}` is for exact EM of a GaussianMixture or a BernoulliMixture: {cure}."
        )
    problem = kernel.problem
    if not isinstance(problem, MixtureProblem | StreamedProblem):
        raise InputError(
            f"`minibatch={minibatch!r}` does not take missing cells beside full or tied covariances: {cure}, "
            "or use covariance='diagonal'."
        )
    if isinstance(problem, StreamedProblem) and problem.rows.shared:
        raise InputError(f"`minibatch={minibatch!r}` is for the rows of one process: {cure}.")


def chosen(minibatch: str, problem: Any, dealt: Deal, starts: int) -> str:
    """Resolve "auto": incremental where the statistics of all minibatches are small beside the data."""
    if minibatch != "auto":
        return minibatch
    family = problem.family
    kept = 8 * starts * dealt.stretches * dealt.batches * family.feature_count * family.components
    count, columns, itemsize = table_of(problem)
    return "incremental" if kept < SMALL * count * columns * itemsize else "variance_reduced"


def first_passes(minibatch: str, kernel: Any, start: Start, key: jax.Array) -> tuple[Start, xr.Dataset]:
    """Go through the rows by minibatches from every start; each goes on from the higher of its two points.

    Returns
    -------
    The starts of the exact iterations, and a table: by `restart` the objective `before` and `after` the
    passes (nats); attributes `method`, `minibatches`, `minibatch_rows`, `rounds` and, of variance-reduced EM,
    `refused`, the share of steps whose statistics had left the cone.
    """
    problem = kernel.problem
    count, columns, itemsize = table_of(problem)
    least = updates.least_rows(problem.family.components, columns)
    dealt = deal(count, least, max(1, reading.BLOCK_BYTES // (columns * itemsize)))
    method = chosen(minibatch, problem, dealt, len(start.recipes))
    fitted = min(count, SHORT_ROWS) if start.recipes != ("given",) else 0
    rounds = ROUNDS[method]
    *_, (after, extra) = passes(method, kernel, start.parameters, key, dealt, rounds, fitted)
    both = {name: np.concatenate([start.parameters[name], np.asarray(after[name])]) for name in after}
    heights = np.asarray(_heights(problem, both)).reshape(2, -1)
    better = np.isfinite(heights[1]) & ~(heights[1] <= heights[0])
    kept = {
        name: np.where(better.reshape(-1, *[1] * (np.ndim(value) - 1)), after[name], value)
        for name, value in start.parameters.items()
    }
    number = dealt.stretches * dealt.batches
    facts = {"method": method, "minibatches": number, "minibatch_rows": dealt.size, "rounds": rounds}
    table = xr.Dataset(
        {"before": ("restart", heights[0]), "after": ("restart", heights[1])}, attrs={**facts, **extra}
    )
    return start._replace(parameters=kept), table


def passes(
    method: str,
    kernel: Any,
    stacked: Parameters,
    key: jax.Array,
    dealt: Deal,
    rounds: int,
    fitted: int = 0,
) -> Iterator[tuple[Parameters, Mapping[str, Any]]]:
    """Give R points, stacked, after each round over the minibatches, and what else is to be said of them.

    A round is one E-step a row for stepwise and incremental EM, three for variance-reduced EM (one over all
    rows at the anchor, and two a minibatch).

    Parameters
    ----------
    fitted : rows on which the starts were had; as many minibatches stand behind the first statistics of
        stepwise EM.
    """
    random, problem = generator(key), kernel.problem
    stacked = {name: jnp.asarray(value, jnp.float64) for name, value in stacked.items()}
    swept = partial(sweep, problem, dealt, random)
    count = float(table_of(problem)[0])
    if method == "incremental":
        family, number = problem.family, dealt.stretches * dealt.batches
        starts = len(next(iter(stacked.values())))
        zero = jnp.zeros((starts, number, family.feature_count, family.components))
        state: Any = updates.Incremental(zero, jnp.zeros((starts, number)), zero[:, 0], stacked)
        state = summed(problem_of(problem), swept(updates.gather, state))
        for index in range(rounds):
            if index:
                # Sums of differences drift by rounding: each round begins with a true sum.
                state = state._replace(sums=jnp.sum(state.parts, axis=1))
                state = swept(updates.incremental, state)
            yield state.parameters, {}
    elif method == "stepwise":
        state = jax.vmap(partial(blank, problem_of(problem)))(stacked)
        if fitted:
            small = kernel.sample(key, SHORT_ROWS).problem
            state = begun(small, stacked, float(small.rows.shape[0]), fitted / dealt.size, count)
        for _ in range(rounds):
            state = swept(updates.stepwise, state)
            yield state.average, {}
    else:
        refused = jnp.zeros(len(next(iter(stacked.values()))))
        state = updates.Reduced(None, stacked, stacked, None, refused)  # type: ignore[arg-type]
        for index in range(rounds):
            at = jax.tree.map(lambda leaf: leaf / count, _expected(problem, state.parameters))
            now = at if index == 0 else state.statistics
            state = swept(
                updates.reduced, updates.Reduced(now, state.parameters, state.parameters, at, state.refused)
            )
            steps = (index + 1) * dealt.stretches * dealt.batches
            yield state.parameters, {"refused": float(jnp.mean(state.refused)) / steps}


@jax.jit
def summed(problem: MixtureProblem, state: updates.Incremental) -> updates.Incremental:
    """Take the M-step from the statistics of all minibatches: the EM step that incremental EM begins with."""
    sums = jnp.sum(state.parts, axis=1)

    def one(each: Array) -> Parameters:
        return problem.family.maximise(Statistics(each, problem.totals), problem.hyper)

    return state._replace(sums=sums, parameters=jax.vmap(one)(sums))


def blank(problem: MixtureProblem, point: Parameters) -> updates.Stepwise:
    """Begin stepwise EM with nothing: γ = 1 at k = −1, so that the first minibatch is all there is."""
    family = problem.family
    sums = jnp.zeros((family.feature_count, family.components))
    return updates.Stepwise(
        Statistics(sums, jnp.zeros(np.shape(problem.totals))), point, point, jnp.full((), -1.0), jnp.zeros(())
    )


@jax.jit
def begun(
    problem: MixtureProblem, stacked: Parameters, rows: Any, count: Any, whole: Any
) -> updates.Stepwise:
    """Begin stepwise EM at R points with the statistics of `rows` rows, as if of `count` minibatches."""
    batch = updates.batch_of(problem, 0, rows, rows, whole)

    def one(point: Parameters) -> updates.Stepwise:
        statistics, _ = updates.a_row(batch, point)
        moved = updates.maximised(batch, statistics)
        return updates.Stepwise(statistics, moved, moved, jnp.asarray(count, float), jnp.zeros(()))

    return jax.vmap(one)(stacked)


def _expected(problem: Any, stacked: Parameters) -> Statistics:
    """Give the expected statistics of all rows at R points."""
    if not isinstance(problem, StreamedProblem):
        return _all(problem, stacked)
    sums = jnp.asarray(problem.expect(stacked)[0])
    totals = jnp.asarray(problem.light.totals)
    return Statistics(sums, jnp.broadcast_to(totals, (len(sums), *totals.shape)))


@jax.jit
def _all(problem: MixtureProblem, stacked: Parameters) -> Statistics:
    return jax.vmap(lambda point: problem.expect(point)[0])(stacked)


def _heights(problem: Any, stacked: Parameters) -> Array:
    """Objectives (nats) of stacked points, by one pass over the rows."""
    if isinstance(problem, StreamedProblem):
        return problem.answer(stacked).objective
    return _inferred(problem, stacked)


@jax.jit
def _inferred(problem: MixtureProblem, stacked: Parameters) -> Array:
    return jax.vmap(lambda point: infer(problem, point)[1])(stacked)
