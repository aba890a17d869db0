"""Labels aligned by assignment: each draw is relabelled so that its components are the pivot's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from triptych.inference.batches import batches
from triptych.inference.exchangeable import Exchangeable, exchangeable, permute
from triptych.inference.marginal import Marginal
from triptych.inference.posterior_tables import posteriors_of

__all__ = [
    "Aligned",
    "Exchangeable",
    "align",
    "align_all",
    "exchangeable",
    "permute",
    "permute_draws",
    "responsibility_rows",
]

CLOSE = 1.0  # nats: a margin below this is a label that could as well be another
AMBIGUOUS_SHARE = 0.05  # of draws with a close margin, above which the alignment is ambiguous
FLOOR = 1e-10  # below every responsibility of the pivot, so that a hard zero is no infinite cost
MOST_HELD = 2 * 10**7  # responsibilities of all draws that are kept from pass to pass: 160 MB
ROWS = 2000  # of the responsibilities, evenly spaced, are enough to tell components apart

Responsibilities = Callable[[Mapping[str, Any]], Any]


class Aligned(NamedTuple):
    """Draws with their labels aligned to a pivot.

    Attributes
    ----------
    draws : site → (S, ...), relabelled.
    permutations : (S, K): component j of a relabelled draw is component `permutations[s, j]` of the draw.
    margins : (S,), nats: how much worse the second-best relabelling of each draw is (infinite for K = 1).
    relabelled : the share of draws whose labels changed.
    close : the share of draws whose margin is under one nat.
    together : (S,), the probability that two random rows share a component, which no relabelling changes;
        `None` without responsibilities.
    """

    draws: dict[str, np.ndarray]
    permutations: np.ndarray
    margins: np.ndarray
    relabelled: float
    close: float
    together: np.ndarray | None = None

    @property
    def ambiguous(self) -> bool:
        """Whether the labels could as well be others in more than one draw in twenty."""
        return self.close > AMBIGUOUS_SHARE


def permute_draws(
    draws: Mapping[str, Any], group: Exchangeable, permutations: np.ndarray
) -> dict[str, np.ndarray]:
    """Relabel each draw, site → (S, ...), by its own permutation, (S, K)."""
    answer = {name: np.asarray(value) for name, value in draws.items()}
    for name, axes in group.axes.items():
        value = answer[name]
        for axis in axes:
            shape = [1] * value.ndim
            shape[0], shape[axis + 1] = permutations.shape
            value = np.take_along_axis(value, permutations.reshape(shape), axis=axis + 1)
        answer[name] = value
    return answer


@dataclasses.dataclass(frozen=True, eq=False)
class ResponsibilityRows:
    """θ → (rows, K): the posteriors of a group's latents, one row a latent and place.

    At most 2000 rows, evenly spaced, which are enough to tell components apart.
    """

    m: Marginal
    group: Exchangeable
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self, parameters: Mapping[str, Any]) -> jax.Array:
        """Give the rows at one point; may be traced."""
        posteriors = self.m.posteriors(parameters, *self.args, **self.kwargs)
        flat = [posteriors[name].reshape(-1, self.group.size) for name in self.group.latents]
        table = jnp.concatenate(flat)
        return table[_evenly(len(table))]

    def batches(self, draws: Mapping[str, Any]) -> Iterator[tuple[slice, np.ndarray]]:
        """Go through draws, site → (S, ...): which, and their rows (batch, rows, K)."""
        for part, tables in posteriors_of(self.m, draws, self.args, self.kwargs):
            flat = [
                tables[name].reshape(part.stop - part.start, -1, self.group.size)
                for name in self.group.latents
            ]
            table = np.concatenate(flat, axis=1)
            yield part, table[:, _evenly(table.shape[1])]


def _evenly(count: int) -> Any:
    """Give at most 2000 of so many rows."""
    return slice(None) if count <= ROWS else np.linspace(0, count - 1, ROWS).astype(int)


def responsibility_rows(m: Marginal, group: Exchangeable, *args: Any, **kwargs: Any) -> ResponsibilityRows:
    """Give the function θ → (rows, K) of a group's latents."""
    return ResponsibilityRows(m, group, args, kwargs)


def align(
    draws: Mapping[str, Any],
    group: Exchangeable,
    responsibilities: Responsibilities | None,
    pivot: Mapping[str, Any],
    *,
    iterations: int = 3,
) -> Aligned:
    """Relabel draws towards a pivot by assignment.

    With responsibilities, the cost of calling a draw's component k the pivot's j is −Σ_n r_nk log R_nj, R
    those of the pivot; after each pass R is the mean of the relabelled ones (Stephens 2000, "Dealing with
    label switching in mixture models"). Without, it is half the squared distance of the components'
    parameters in standard deviations. Either way the assignment is exact, K³ and not K! work.

    Parameters
    ----------
    draws : site → (S, ...).
    group : from `exchangeable`.
    responsibilities : θ → (rows, K), as `responsibility_rows` gives; None to compare parameters.
    pivot : site → array: the optimum, or the reference's estimate, whose labels the draws are to take.
    iterations : passes, at most; fewer if the relabelling no longer changes.

    Raises
    ------
    ValueError : `draws` is empty.
    """
    values = {name: np.asarray(value) for name, value in draws.items()}
    count = len(next(iter(values.values())))
    permutations = np.tile(np.arange(group.size), (count, 1))
    elsewhere = ~np.eye(group.size, dtype=bool) & _either(np.isin(np.arange(group.size), group.fixed))
    cost, together = np.zeros((count, group.size, group.size)), None
    if responsibilities is None:
        costs = _parameter_costs(values, group, pivot)
    else:
        costs = _responsibility_costs(values, responsibilities, pivot)
    previous = None
    for _ in range(max(1, iterations)):
        costed, together = costs(previous)
        cost = np.where(elsewhere, np.inf, costed)
        permutations = np.stack([linear_sum_assignment(table.T)[1] for table in cost])
        if previous is not None and np.array_equal(previous, permutations):
            break
        previous = permutations
    margins = _margins(cost, permutations)
    return Aligned(
        permute_draws(values, group, permutations),
        permutations,
        margins,
        float(np.mean(np.any(permutations != np.arange(group.size), axis=1))),
        float(np.mean(margins < CLOSE)),
        together,
    )


def align_all(
    m: Marginal, draws: Mapping[str, Any], pivot: Mapping[str, Any], *args: Any, **kwargs: Any
) -> tuple[dict[str, np.ndarray], tuple[tuple[Exchangeable, Aligned], ...]]:
    """Find every exchangeable group of a program and align draws, site → (S, ...), to a pivot in each.

    Returns
    -------
    The aligned draws, and (group, alignment) for each group; a program without one keeps its draws.
    """
    aligned = {name: np.asarray(value) for name, value in draws.items()}
    groups = []
    for group in exchangeable(m, pivot, *args, **kwargs):
        found = align(aligned, group, responsibility_rows(m, group, *args, **kwargs), pivot)
        aligned = found.draws
        groups.append((group, found))
    return aligned, tuple(groups)


def _either(fixed: np.ndarray) -> np.ndarray:
    return fixed[:, None] | fixed


Costs = Callable[[np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]


def _responsibility_costs(
    draws: Mapping[str, np.ndarray], responsibilities: Responsibilities, pivot: Mapping[str, Any]
) -> Costs:
    """Give permutations so far → costs (S, K, K) of calling the draw's k (row) the pivot's j (column).

    Beside them, for each draw, the probability Σ_k (mean_n r_nk)² that two random rows share a component.
    """
    start = _rows_of(responsibilities, {name: np.asarray(pivot[name])[None] for name in draws})
    mean = next(start)[1][0]
    count = len(next(iter(draws.values())))
    held = list(_rows_of(responsibilities, draws)) if count * mean.size <= MOST_HELD else None

    def costs(permutations: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        centre = mean
        if permutations is not None:
            centre = np.zeros(mean.shape)
            for part, r in held or _rows_of(responsibilities, draws):
                centre += np.take_along_axis(r, permutations[part, None, :], axis=2).sum(axis=0)
            centre /= count
        log_centre = np.log(centre + FLOOR)
        cost, together = np.empty((count, *mean.shape[1:] * 2)), np.empty(count)
        for part, r in held or _rows_of(responsibilities, draws):
            cost[part] = -np.swapaxes(r, 1, 2) @ log_centre
            together[part] = np.sum(np.mean(r, axis=1) ** 2, axis=1)
        return cost, together

    return costs


def _rows_of(
    responsibilities: Responsibilities, draws: Mapping[str, np.ndarray]
) -> Iterator[tuple[slice, np.ndarray]]:
    if isinstance(responsibilities, ResponsibilityRows):
        return responsibilities.batches(draws)
    return batches(responsibilities, dict(draws))


def _parameter_costs(draws: Mapping[str, np.ndarray], group: Exchangeable, pivot: Mapping[str, Any]) -> Costs:
    single = {name: axes[0] for name, axes in group.axes.items() if len(axes) == 1}
    single = single or {name: axes[0] for name, axes in group.axes.items()}

    def table(values: Mapping[str, np.ndarray], lead: int) -> np.ndarray:
        count = next(iter(values.values())).shape[0] if lead else 1
        parts = [
            np.moveaxis(np.asarray(values[name], float), axis + lead, lead).reshape(count, group.size, -1)
            for name, axis in single.items()
        ]
        return np.concatenate(parts, axis=2)

    own, target = table(draws, 1), table({name: pivot[name] for name in single}, 0)[0]

    def costs(permutations: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        if permutations is None:  # a scale that no labelling changes
            centre, scale = target, np.concatenate([own, target[None]]).std(axis=(0, 1))
        else:
            relabelled = np.take_along_axis(own, permutations[:, :, None], axis=1)
            centre, scale = relabelled.mean(axis=0), relabelled.std(axis=0).mean(axis=0)
        scale = np.where(scale > 1e-9 * np.abs(own).max(), scale, 1)  # a constant says nothing
        difference = own[:, :, None] / scale - centre / scale
        return 0.5 * np.sum(difference**2, axis=-1), None

    return costs


def _margins(cost: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """Give the second-best assignment's cost less the best's, (S,).

    The second best is the best with one cycle turned, so the margin is the shortest cycle of the graph
    whose edge i → j costs what it costs j to take the component of i instead of its own.
    """
    taken = np.take_along_axis(cost, permutations[:, :, None], axis=1)  # row i: the component that i has
    distance = taken - np.diagonal(taken, axis1=1, axis2=2)[:, None, :]
    size = cost.shape[1]
    distance[:, np.arange(size), np.arange(size)] = np.inf
    for via in range(size):  # Floyd and Warshall: no cycle is negative, the assignment being the best
        distance = np.minimum(distance, distance[:, :, via, None] + distance[:, None, via, :])
    return np.maximum(np.diagonal(distance, axis1=1, axis2=2).min(axis=1), 0.0)
