"""The search for labels that may be permuted: what a latent indexes, by derivatives; what is symmetric."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to

from triptych.inference.effort import briefly, cells
from triptych.inference.marginal import Marginal
from triptych.inference.precision import double_precision
from triptych.inference.program import Structure
from triptych.inference.scans import before
from triptych.inference.survey import survey

__all__ = ["Exchangeable", "find_exchangeable", "permute"]

ALONE = 4  # with more latents than this (a loop over time), only joint permutations are looked for
COMBINATIONS = 64  # of axes tried where the derivatives leave it open
SWAPPED = 20  # labels at most for which each pair is tried where not all can be swapped
FEW = 4  # such candidates at most
TOLERANCE = 1e-9  # relative to the size of the log density, for two densities to be called equal


class Exchangeable(NamedTuple):
    """Latents whose `size` labels can be permuted together without changing p(x, θ).

    `axes` maps each site that the labels index to its axes of length `size`, counted from the left: a
    mixture's weights and means have axis 0, the transition matrix of a Markov chain has 0 and 1. `fixed` are
    labels that stay what they are, because data or a prior tell them from the others.
    """

    latents: tuple[str, ...]
    size: int
    axes: Mapping[str, tuple[int, ...]]
    fixed: tuple[int, ...] = ()

    @property
    def latent(self) -> str:
        """The first of the latents, by which a person knows the group."""
        return self.latents[0]

    @property
    def free(self) -> tuple[int, ...]:
        """The labels that can be permuted."""
        return tuple(label for label in range(self.size) if label not in self.fixed)

    def permutations(self) -> Iterator[tuple[int, ...]]:
        """Give all permutations that leave the fixed labels where they are, the identity first."""
        for order in itertools.permutations(self.free):
            places = dict(zip(self.free, order, strict=True))
            yield tuple(places.get(label, label) for label in range(self.size))


def permute(parameters: Mapping[str, Any], group: Exchangeable, permutation: Any) -> dict[str, Any]:
    """Relabel: component j of the answer is component `permutation[j]` of `parameters` (site → array)."""
    answer = dict(parameters)
    for name, axes in group.axes.items():
        for axis in axes:
            answer[name] = answer[name].take(permutation, axis=axis)
    return answer


def find_exchangeable(
    m: Marginal, parameters: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Exchangeable, ...]:
    """Find the groups; see `exchangeable.exchangeable`."""
    with double_precision():
        structure = m.structure(*args, **kwargs)
        if not structure.latents:
            return ()
        theta = _generic(parameters, structure)

        def log_density(theta: Mapping[str, jax.Array]) -> jax.Array:
            inside = [jnp.all(site.support(theta[name])) for name, site in structure.parameters.items()]
            value = m.log_density(theta, *args, **kwargs)
            return jnp.where(jnp.all(jnp.array(inside)), value, -jnp.inf)

        density = briefly(log_density, 10 * cells(args, kwargs))
        base = float(density(theta))
        groups: list[Exchangeable] = []
        left: list[str] = []

        def symmetric(group: Exchangeable) -> bool:
            return _is_symmetric(group, theta, base, density)

        names = [name for name, latent in structure.latents.items() if latent.size > 1]
        for name in names if len(names) <= ALONE else ():
            found = _search(m, (name,), theta, structure, symmetric, args, kwargs)
            groups.extend(found)
            if not found:
                left.append(name)
        left = left if len(names) <= ALONE else names
        for size in sorted({structure.latents[name].size for name in left}):
            together = tuple(name for name in left if structure.latents[name].size == size)
            if len(together) > 1:
                groups.extend(_search(m, together, theta, structure, symmetric, args, kwargs))
    return _merge(groups)


def _merge(groups: list[Exchangeable]) -> tuple[Exchangeable, ...]:
    """Join latents that index the same axes (rows written as a Python loop): they share their labels."""
    merged: list[Exchangeable] = []
    for group in groups:
        for i, other in enumerate(merged):
            if (other.axes, other.fixed) == (group.axes, group.fixed):
                merged[i] = other._replace(latents=other.latents + group.latents)
                break
        else:
            merged.append(group)
    return tuple(merged)


def _generic(parameters: Mapping[str, Any], structure: Structure) -> dict[str, np.ndarray]:
    """Move a point a little, so that no two components are equal by accident; stay inside the supports."""

    def move(parameters: dict[str, jax.Array]) -> dict[str, jax.Array]:
        random = np.random.default_rng(0)
        moved = {}
        for name, site in structure.parameters.items():
            transform = biject_to(site.support)
            free = transform.inv(parameters[name])
            free = jnp.where(jnp.isfinite(free), free, 0.0)
            # In the units of the values themselves: of their spread, else of their size.
            sizes = jnp.stack([jnp.std(free), jnp.max(jnp.abs(free), initial=0.0), jnp.ones(())])
            scale = 0.1 * sizes[jnp.argmax(sizes > 0)]
            moved[name] = transform(free + scale * random.normal(size=free.shape))
        return moved

    point = {name: np.asarray(parameters[name], np.float64) for name in structure.parameters}
    # NumPy's from here on: to relabel them nothing has to be compiled.
    return jax.tree.map(np.asarray, briefly(move, 0)(point))


def _is_symmetric(
    group: Exchangeable,
    theta: Mapping[str, np.ndarray],
    base: float,
    density: Callable[[Mapping[str, Any]], jax.Array],
) -> bool:
    free = np.array(group.free)
    swap, cycle = np.arange(group.size), np.arange(group.size)
    swap[free[:2]], cycle[free] = free[1::-1], np.roll(free, 1)
    for permutation in (swap, cycle):  # these two make all permutations of the free labels
        moved = permute(theta, group, permutation)
        if not abs(float(density(moved)) - base) <= TOLERANCE * (1 + abs(base)):
            return False
    return True


def _search(
    m: Marginal,
    latents: tuple[str, ...],
    theta: Mapping[str, np.ndarray],
    structure: Structure,
    symmetric: Callable[[Exchangeable], bool],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Exchangeable, ...]:
    size = structure.latents[latents[0]].size
    slopes = {n: np.asarray(s) for n, s in _slopes(m, latents, theta, args, kwargs).items()}
    certain: dict[str, tuple[int, ...]] = {}
    open_sites: dict[str, list[tuple[int, ...]]] = {}
    for name, slope in slopes.items():
        wide = [axis for axis in range(slope.ndim - 1) if slope.shape[axis + 1] == size]
        if not wide or not np.any(np.abs(slope - slope[:1]) > 1e-12 * np.max(np.abs(slope), initial=0)):
            continue  # the same for every label: not indexed by this latent
        sparse = tuple(axis for axis in wide if _is_sparse(slope, axis + 1))
        if sparse:
            certain[name] = sparse
        else:
            open_sites[name] = list(_subsets(wide))
    candidates = []
    for choice in itertools.islice(itertools.product(*open_sites.values()), COMBINATIONS):
        chosen = {name: axes for name, axes in zip(open_sites, choice, strict=True) if axes}
        axes = {name: {**certain, **chosen}[name] for name in slopes if name in certain or name in chosen}
        group = Exchangeable(latents, size, axes)
        if axes and symmetric(group):
            return (group,)
        candidates.extend([group] if axes else [])
    for group in candidates if 2 < size <= SWAPPED and len(candidates) <= FEW else ():
        if classes := _classes(group, symmetric):
            return classes
    return ()


def _classes(group: Exchangeable, symmetric: Callable[[Exchangeable], bool]) -> tuple[Exchangeable, ...]:
    """Find the classes of labels that can be swapped with one another, where not all can be."""
    left, classes = list(range(group.size)), []
    while left:
        first, *others = left
        alike = [
            label
            for label in others
            if symmetric(group._replace(fixed=tuple(set(range(group.size)) - {first, label})))
        ]
        left = [label for label in others if label not in alike]
        if alike:
            free = {first, *alike}
            classes.append(group._replace(fixed=tuple(k for k in range(group.size) if k not in free)))
    return tuple(classes)


def _subsets(axes: list[int]) -> Iterator[tuple[int, ...]]:
    for count in range(len(axes) + 1):
        yield from itertools.combinations(axes, count)


def _is_sparse(slope: np.ndarray, axis: int) -> bool:
    """Whether the derivative for label k, (K, ...), vanishes in every slice j ≠ k along an axis."""
    table = np.abs(np.moveaxis(slope, axis, 1)).reshape(len(slope), len(slope), -1).max(axis=2)
    diagonal = np.diag(table)
    return bool(np.max(table - np.diag(diagonal)) <= 1e-12 * np.max(table) and np.max(diagonal) > 0)


def _slopes(
    m: Marginal,
    latents: tuple[str, ...],
    theta: Mapping[str, np.ndarray],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """Give ∂ log p(x, z = k | θ) / ∂θ for every label k, (K, *site): `latents` are k in every plate."""
    from triptych.inference.elimination import eliminate
    from triptych.inference.enumeration import Factor, run_enumerated
    from triptych.inference.plan import analyse

    sites = survey(m.program, args, kwargs)
    plan = analyse(m.program, args, kwargs, sites, m.largest_table)
    members = [name for part in plan.components if set(part.latents) & set(latents) for name in part.sites]

    def at_label(factor: Factor, label: jax.Array) -> Factor:
        table, axes = factor.table, dict(factor.axes)
        for name in [axis for latent in latents for axis in (latent, before(latent)) if axis in axes]:
            table = jnp.take(table, label, axis=list(axes).index(name))
            del axes[name]
        left = tuple(name for name in factor.latents if name not in latents)
        return factor._replace(table=table, axes=axes, latents=left)

    def log_joint(theta: Mapping[str, jax.Array], label: jax.Array) -> jax.Array:
        factors = run_enumerated(m.program, args, kwargs, sites, theta).factors
        return eliminate([at_label(factors[name], label) for name in members], sites)

    labels = np.arange(sites.latents[latents[0]].size)
    slopes = briefly(
        lambda theta: jax.lax.map(lambda label: jax.grad(log_joint)(theta, label), labels),
        10 * cells(args, kwargs),
    )
    return slopes(theta)
