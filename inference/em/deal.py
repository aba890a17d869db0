"""Rows dealt into minibatches: which rows go together, in what order, from memory or from a file.

The rows are cut into long stretches (one, if they are few) and each stretch into minibatches, row j of a
stretch going to minibatch j mod B: rows that lie sorted are then spread over all of them. The key gives the
order of the stretches and of the minibatches in each. Rows in memory and rows read in blocks are cut alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from triptych.inference.em.family import Array
from triptych.inference.em.fold import MixtureProblem
from triptych.inference.em.stepwise import batch_of
from triptych.inference.em.streamed import StreamedProblem

__all__ = ["Deal", "cut", "deal", "problem_of", "sweep", "table_of"]


class Deal(NamedTuple):
    """How rows are dealt: the stretches' `edges` (S + 1,), and the minibatches of each."""

    edges: np.ndarray
    batches: int

    @property
    def stretches(self) -> int:
        """S."""
        return len(self.edges) - 1

    @property
    def longest(self) -> int:
        """Rows of the longest stretch; the others have at most one less."""
        return int(np.max(np.diff(self.edges)))

    @property
    def size(self) -> int:
        """Rows of a minibatch, at most."""
        return -(-self.longest // self.batches)


def deal(count: int, least: int, stretch: int) -> Deal:
    """Cut `count` rows into minibatches of `least` or more (all rows if they are fewer), within stretches."""
    number = max(1, count // max(stretch, least))
    edges = count * np.arange(number + 1) // number
    return Deal(edges, max(1, int(np.min(np.diff(edges))) // least))


def cut(part: MixtureProblem, index: Any, batches: int, here: Any) -> tuple[MixtureProblem, Array]:
    """Give minibatch `index` of a stretch that has `here` rows, and how many of them are its own."""
    place = index + batches * jnp.arange(-(-part.rows.shape[0] // batches))
    there = place < here
    place = jnp.minimum(place, part.rows.shape[0] - 1)
    weights = there.astype(part.rows.dtype)
    if part.weights is not None:
        weights *= part.weights[place]
    labels = None if part.labels is None else part.labels[place]
    problem = dataclasses.replace(part, rows=part.rows[place], weights=weights, labels=labels)
    return problem, jnp.sum(there)


def problem_of(problem: Any) -> MixtureProblem:
    """Give the problem that holds the family, the prior and the totals of all rows."""
    return problem.light if isinstance(problem, StreamedProblem) else problem


def table_of(problem: Any) -> tuple[int, int, int]:
    """Give rows, columns and bytes of a number."""
    if isinstance(problem, StreamedProblem):
        return len(problem.rows), problem.rows.columns, problem.rows.dtype.itemsize
    return *problem.rows.shape, problem.rows.dtype.itemsize


def sweep(problem: Any, dealt: Deal, random: np.random.Generator, move: Any, state: Any) -> Any:
    """Update a state by every minibatch once, in an order drawn anew."""
    order = random.permutation(dealt.stretches)
    batches = dealt.batches
    whole = jnp.asarray(float(dealt.edges[-1]))
    for stretch, part, here in _stretches(problem, dealt, order):
        inner = jnp.asarray(random.permutation(batches))
        state = _swept(part, here, inner, stretch * batches, whole, state, move=move, batches=batches)
    return state


def _stretches(problem: Any, dealt: Deal, order: np.ndarray) -> Iterator[tuple[int, MixtureProblem, int]]:
    """Give the stretches in some order, as problems of equally many rows, and how many of them count."""
    if not isinstance(problem, StreamedProblem) and dealt.stretches == 1:
        yield 0, problem, dealt.longest
        return
    bounds = [(int(dealt.edges[i]), int(dealt.edges[i + 1])) for i in order]
    light = problem_of(problem)
    if isinstance(problem, StreamedProblem):
        pieces: Any = ((block, None, None) for block in problem.rows.pieces(bounds))
    else:
        columns = (problem.rows, problem.weights, problem.labels)
        pieces = (tuple(None if c is None else c[a:b] for c in columns) for a, b in bounds)
    for index, piece in zip(order, pieces, strict=True):
        here = piece[0].shape[0]
        place = np.minimum(np.arange(dealt.longest), here - 1)  # the last row fills a short stretch up
        rows, weights, labels = (
            None if each is None else each if here == dealt.longest else each[place] for each in piece
        )
        yield int(index), dataclasses.replace(light, rows=rows, weights=weights, labels=labels), here


@partial(jax.jit, static_argnames=("move", "batches"))
def _swept(
    part: MixtureProblem,
    here: Any,
    order: Array,
    first: Any,
    whole: Array,
    state: Any,
    *,
    move: Any,
    batches: int,
) -> Any:
    """Update R states by the minibatches of a stretch, in the order given."""
    size = -(-part.rows.shape[0] // batches)

    def one(state: Any, index: Array) -> tuple[Any, None]:
        problem, own = cut(part, index, batches, here)
        batch = batch_of(problem, first + index, own, size, whole)
        return jax.vmap(move, in_axes=(None, 0))(batch, state), None

    return lax.scan(one, state, order)[0]
