"""EM of a mixture from rows that are seen once: stepwise EM along a stream.

The first rows (`Stream.first`) set the units, the prior and the starts, by the short runs of every EM, and
their statistics are the first of stepwise EM; there they stand for as many minibatches as they hold. Each
minibatch after them takes one step, for every start. The answer is the average θ̄ of the start under which the
rows were likeliest as they came.

An answer of this kind is not EM's optimum: the fit says SEEN_ONCE, and how far the average still moved. Its
`log_likelihood` is the prequential one,

    Σ_B log p(x_B | θ known before x_B was seen)  +  log p(x_first | θ of the short runs),

over all rows, in nats and the data's units; the first rows are counted at a θ that was fitted to them. Its
`objective` holds the same numbers a row, first rows first, then minibatch by minibatch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from triptych.inference.em import degeneracy
from triptych.inference.em.explain import explain
from triptych.inference.em.fitting import plan
from triptych.inference.em.fold import MixtureProblem
from triptych.inference.em.kernel import Call, Start, bind
from triptych.inference.em.minibatch import begun
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.em.search import point_of, short_runs
from triptych.inference.em.standardise import complete_moments, weighted_prior
from triptych.inference.em.stepwise import Stepwise, a_row, batch_of, blended, least_rows
from triptych.inference.em.streamed_kernel import binary
from triptych.inference.fit import Fit
from triptych.inference.posterior import build
from triptych.inference.status import Finding, Status, say
from triptych.inference.stream import Stream, checked, regrouped
from triptych.inference.timing import Stopwatch
from triptych.models.bernoulli_mixture import BernoulliMixture
from triptych.models.errors import InputError
from triptych.models.gaussian_mixture import GaussianMixture

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM

__all__ = ["Passed", "one_pass_fit", "passed"]


class Passed(NamedTuple):
    """What one pass left: the state at R points, log-likelihoods (R,) as the rows came, and how θ̄ moved.

    `trace` (steps, R) are nats a row, standardised units; `last` is θ̄ before the last minibatch, `half` θ̄
    when between a quarter and a half of the minibatches had been seen. `rows` are all that were seen.
    """

    state: Stepwise
    log_likelihood: np.ndarray
    trace: np.ndarray
    last: Any
    half: Any
    rows: int
    minibatches: int


def one_pass_fit(
    em: EM,
    source: Stream,
    key: jax.Array,
    parameters: Mapping[str, Any] | None,
    alone: bool,
    watch: Stopwatch,
) -> Fit:
    """Fit a mixture to a stream of rows.

    Parameters
    ----------
    alone : whether the stream is all that the fit was called with.

    Raises
    ------
    InputError : settings, a model or a call that a stream cannot serve; a block or first rows that the model
        cannot take; too few rows.
    """
    _refuse(em, alone)
    model: Any = em.model
    blocks = checked(source, binary if isinstance(model, BernoulliMixture) else np.isfinite)
    tables, size = _tables(blocks, model.components, source.first)
    head = next(tables)
    kernel = _bound(em, head)
    first, second, _ = jax.random.split(key, 3)
    if parameters is None:
        start = short_runs(em, kernel, first, second)
    else:
        given = kernel.inward(parameters)
        start = Start({name: np.asarray(value)[None] for name, value in given.items()}, ("given",))
    problem: Any = kernel.problem
    found = passed(problem, start.parameters, tables, size)
    best = int(np.argmax(np.where(np.isfinite(found.log_likelihood), found.log_likelihood, -np.inf)))
    height = found.log_likelihood + kernel.jacobian / len(head) * found.rows
    if not np.isfinite(height[best]):
        raise InputError(
            "Stepwise EM came to parameters that are not finite: look for extreme values in the stream, "
            "rescale the columns, or use objective='map'."
        )
    point = point_of(found.state.average, best)
    counts = np.asarray(found.state.statistics.sums)[best, 0] * found.rows
    natural = np.asarray(problem.family.natural(point))
    stacked = {name: value[None] for name, value in point.items()}
    (weak,) = degeneracy.findings(problem, stacked, counts[None], natural[None])
    findings = [*weak, _said(found, size, best)]
    outward = kernel.outward(point)
    tree = build({site: np.asarray(value)[None, None] for site, value in outward.items()})
    tree["plan"] = xr.DataTree(plan(explain(kernel, em.objective)))
    tree["stream"] = xr.DataTree(
        xr.Dataset(
            {"log_likelihood": ("restart", height), "start": ("restart", np.array(start.recipes))},
            attrs={
                "rows": found.rows,
                "first_rows": len(head),
                "minibatches": found.minibatches,
                "minibatch_rows": size,
                "last_move": _apart(found.state.average, found.last, best),
                "half_move": _apart(found.state.average, found.half, best),
            },
        )
    )
    return Fit(
        method=em.method,
        model=kernel.model,
        status=Status.SEEN_ONCE,
        seconds=watch.seconds,
        parameters=outward,
        log_likelihood=float(height[best]),
        objective=found.trace[:, best] + kernel.jacobian / len(head),
        data=tree,
        findings=tuple(say(finding) for finding in findings),
        settings=em.settings,
    )


def passed(problem: MixtureProblem, stacked: Any, tables: Iterable[np.ndarray], size: int) -> Passed:
    """Go along a stream: `problem` is bound to its first rows, `tables` are the minibatches that follow.

    Parameters
    ----------
    stacked : R starts, in standardised units. size : rows of a minibatch; the last one may have fewer.
    """
    rows = problem.rows.shape[0]
    state, value = _begun(problem, stacked, float(rows), rows / size)
    heights, trace = np.asarray(value), [np.asarray(value) / rows]
    light = dataclasses.replace(problem, rows=problem.rows[:0])
    last, half, doubled, number = state.average, [state.average] * 2, 1, 0
    for table in tables:
        short = size - len(table)
        filled = np.concatenate([table, np.repeat(table[-1:], short, axis=0)]) if short else table
        last = state.average
        state, value = _fed(light, filled, float(len(table)), float(rows), state)
        rows, number = rows + len(table), number + 1
        heights = heights + np.asarray(value)
        trace.append(np.asarray(value) / len(table))
        if number == doubled:
            doubled, half = 2 * doubled, [half[1], state.average]
    return Passed(state, heights, np.stack(trace), last, half[0], rows, number)


@jax.jit
def _begun(problem: MixtureProblem, stacked: Any, rows: Any, count: Any) -> tuple[Stepwise, Any]:
    """Begin with the first rows: their statistics at R points, and the log-likelihoods there."""
    values = jax.vmap(lambda point: problem.expect(point)[1])(stacked)
    return begun(problem, stacked, rows, count, rows), values


@jax.jit
def _fed(problem: MixtureProblem, table: Any, own: Any, seen: Any, state: Stepwise) -> tuple[Stepwise, Any]:
    """Take one step at R points from a minibatch, of whose rows the first `own` count."""
    weights = (jnp.arange(table.shape[0]) < own).astype(table.dtype)
    part = dataclasses.replace(problem, rows=table, weights=weights)
    batch = batch_of(part, 0, own, table.shape[0], seen + own)

    def one(state: Stepwise) -> tuple[Stepwise, Any]:
        statistics, value = a_row(batch, state.parameters)
        return blended(batch, state, statistics), value

    return jax.vmap(one)(state)


def _tables(blocks: Iterator[np.ndarray], components: int, first: int) -> tuple[Iterator[np.ndarray], int]:
    """Give the first rows and then the minibatches, and the rows of a minibatch."""
    opening = next(blocks, None)
    if opening is None:
        raise InputError("The stream is empty: no block came. An iterator that was used up gives none.")
    size = least_rows(components, opening.shape[1])
    tables = regrouped(chain([opening], blocks), max(first, size), size)
    head = next(tables, np.empty((0, 1)))
    if len(head) < size:
        raise InputError(
            f"The stream has {len(head)} rows, but no step is taken from fewer than {size} (for {components} "
            f"components in {opening.shape[1]} columns): fit these rows in memory, `run(key, x)`."
        )
    return chain([head], tables), size


def _bound(em: EM, head: np.ndarray) -> MixtureKernel:
    """Bind the model to the first rows; its prior is theirs."""
    model: Any = em.model
    if isinstance(model, GaussianMixture):
        count, centre, _, covariance = complete_moments(head, None)
        model = weighted_prior(model, centre, covariance, count)
    kernel: Any = bind(model, Call((head,), {}, None, em.objective, em.update))
    return kernel


def _refuse(em: EM, alone: bool) -> None:
    if not isinstance(em.model, GaussianMixture | BernoulliMixture) or not em.by_hand:
        raise InputError(
            "A stream is fitted by the exact EM of a GaussianMixture or a BernoulliMixture: give other "
            "models their rows in memory."
        )
    if em.minibatch not in ("stepwise", "auto"):
        raise InputError(
            f"A stream is seen once, but `minibatch` is {em.minibatch!r}: use EM(model, "
            "minibatch='stepwise'), or give rows that can be read again by `triptych.rows(...)`."
        )
    if not alone:
        raise InputError(
            "A stream has no labels, no weights and no checkpoint: give rows in memory for them."
        )
    if em.bootstrap:
        raise InputError("`bootstrap` needs its rows in memory.")


def _apart(first: Any, second: Any, best: int) -> float:
    """Largest difference of two points, standardised units: means in the columns' standard deviations."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(np.max(np.abs(np.asarray(a)[best] - np.asarray(b)[best]))) for a, b in pairs)


def _said(found: Passed, size: int, best: int) -> Finding:
    if found.minibatches == 0:
        text = f"The stream ended with its first {found.rows} rows: fit them in memory, `run(key, x)`."
        return Finding("SEEN_ONCE", text)
    last, half = (_apart(found.state.average, other, best) for other in (found.last, found.half))
    text = (
        f"{found.rows} rows were seen once, in {found.minibatches} minibatches of {size}. The last one still "
        f"moved the averaged parameters by up to {last:.1g}, the last half of them by up to {half:.1g} "
        "or more (weights and probabilities as they are, means and covariances with every column's standard "
        "deviation as 1). How far the optimum is, one pass cannot tell: give more rows, or, if they can be "
        "read again, EM(model).run(key, triptych.rows(...), parameters=fit.parameters)."
    )
    return Finding("SEEN_ONCE", text)
