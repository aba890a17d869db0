"""The posterior of discrete latents as a table for every clique: p(z | x) = Π_C v_C / Π_z v_z^(d_z − 1).

True where the latents' graph has no loop (rows of a mixture, chains, trees): C are the sets of latents that
meet in a factor, v their marginals, d_z in how many of them z is. Then entropies and divergences are sums
over the same tables,

    KL(q ‖ p) = Σ_C KL(q_C ‖ v_C) − Σ_z (d_z − 1) KL(q_z ‖ v_z).

A latent inside a plate stands for as many latents as the plate has rows; so do the cliques that it is in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from triptych.inference.em.expected import Joint
from triptych.inference.em.family import Array, Parameters
from triptych.inference.survey import Survey
from triptych.models.errors import InputError

__all__ = ["Clique", "Graph", "contrast", "expected", "graph_of", "marginals", "posterior", "product"]

Tables = dict[tuple[str, ...], Array]  # latents of a clique → log marginals, plates first


class Clique(NamedTuple):
    """Latents that meet: the axes of their table, plates first, and how many latents they then stand for."""

    latents: tuple[str, ...]
    axes: tuple[str, ...]
    alone: bool  # a single latent that meets no other


class Graph(NamedTuple):
    """The cliques of a program's latents; `excess` is latent → d_z − 1, per instance."""

    cliques: tuple[Clique, ...]
    excess: Mapping[str, int]
    factors: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]  # site → axes of its table, its latents


def graph_of(joint: Joint, parameters: Parameters, args: Any, kwargs: Any) -> Graph:
    """Read the cliques off a program's factors, without arithmetic.

    Raises
    ------
    InputError : a latent is inside a `scan`.
    """
    found: dict[str, Any] = {}
    kept: dict[str, Any] = {}

    def run(theta: Parameters) -> list[Array]:
        factors = joint.tables(theta, args, kwargs)
        kept.update({name: factors[name] for name in joint.absorbed})
        found.update({name: (tuple(factors[name].axes), factors[name].latents) for name in joint.absorbed})
        return [factor.table for factor in factors.values()]

    jax.eval_shape(run, parameters)
    sites = joint.sites
    inside = [name for name, factor in kept.items() if factor.chain is not None]
    if inside:
        raise InputError(
            f"the ledger of EM has no table for the latents of a `scan` ('{inside[0]}'): write its steps as "
            "a Python loop to have it."
        )
    sets = {frozenset(latents) for _, latents in found.values()}
    largest = [one for one in sets if not any(one < other for other in sets)]
    order = list(sites.latents)
    cliques = []
    for members in sorted(largest, key=lambda one: sorted(map(order.index, one))):
        latents = tuple(sorted(members, key=order.index))
        plates = _plates(sites, latents)
        cliques.append(Clique(latents, (*plates, *latents), len(latents) == 1))
    excess = {
        name: sum(_instances(sites, c.latents) // _instances(sites, (name,)) for c in cliques if name in c[0])
        - 1
        for name in order
        if any(name in clique.latents for clique in cliques)
    }
    return Graph(tuple(cliques), excess, found)


def _plates(sites: Survey, latents: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(plate for name in latents for plate in sites.latents[name].plates))


def _instances(sites: Survey, latents: tuple[str, ...]) -> int:
    sizes = {p: n for name in latents for p, n in zip(*sites.latents[name][:2], strict=True)}
    return math.prod(sizes.values())


def posterior(
    joint: Joint, graph: Graph, parameters: Parameters, args: Any, kwargs: Any
) -> tuple[Tables, Array]:
    """Give the log marginals of every clique under p(z | x, θ), and log p(x | θ) in nats."""
    weights, value = joint.infer(parameters, args, kwargs)
    factors = joint.tables(parameters, args, kwargs)
    tables: Tables = {}
    for clique in graph.cliques:
        if clique.alone:
            # From the logarithms, so that a responsibility of e^−1000 is not 0.
            parts = [
                _onto(factors[name].table, axes, clique.axes, jnp.sum)
                for name, (axes, latents) in graph.factors.items()
                if latents == clique.latents
            ]
            tables[clique.latents] = jax.nn.log_softmax(sum(parts[1:], start=parts[0]), axis=-1)
        else:
            name, (axes, _) = next(
                item for item in graph.factors.items() if set(item[1][1]) == set(clique.latents)
            )
            tables[clique.latents] = jnp.log(_onto(weights[name], axes, clique.axes, jnp.mean))
    return tables, value


def product(graph: Graph, sites: Survey, responsibilities: Mapping[str, Array]) -> Tables:
    """Give the log marginals of q(z) = Π_z q_z, latent → (plates…, K)."""
    tables: Tables = {}
    for clique in graph.cliques:
        total: Any = 0.0
        for name in clique.latents:
            held = (*sites.latents[name].plates, name)
            order = tuple(axis for axis in clique.axes if axis in held)
            total = total + _spread(
                _onto(jnp.log(responsibilities[name]), held, order, jnp.sum), order, clique.axes
            )
        tables[clique.latents] = total
    return tables


def marginals(graph: Graph, tables: Tables, sites: Survey) -> dict[str, Array]:
    """Give the log marginals of single latents, (plates…, K)."""
    found = {}
    for clique in graph.cliques:
        for name in clique.latents:
            if name in found:
                continue
            keep = (*sites.latents[name].plates, name)
            found[name] = _reduced(tables[clique.latents], clique.axes, keep, clique.latents)
    return found


def contrast(graph: Graph, sites: Survey, q: Tables, log: Tables) -> Array:
    """Give E_q[log of the density that the tables `log` make up], nats; with q itself, minus its entropy."""
    total = sum(
        (_dot(q[clique.latents], log[clique.latents]) for clique in graph.cliques), start=jnp.zeros(())
    )
    single_q, single_log = marginals(graph, q, sites), marginals(graph, log, sites)
    for name, excess in graph.excess.items():
        if excess:
            total -= excess * _dot(single_q[name], single_log[name])
    return total


def expected(joint: Joint, graph: Graph, q: Tables, parameters: Parameters, args: Any, kwargs: Any) -> Array:
    """Give E_q[log p(x, z | θ)], nats."""
    factors = joint.tables(parameters, args, kwargs)
    total = jnp.zeros(())
    for name, factor in factors.items():
        if name not in graph.factors:
            total += jnp.sum(factor.table)
            continue
        axes, latents = graph.factors[name]
        clique = next(c for c in graph.cliques if set(latents) <= set(c.latents))
        keep = tuple(axis for axis in clique.axes if axis in axes)
        log_q = _reduced(q[clique.latents], clique.axes, keep, clique.latents)
        total += _dot(log_q, _onto(factor.table, axes, keep, jnp.sum))
    return total


def _dot(log_q: Array, values: Array) -> Array:
    """Σ q · values; a cell of probability 0 does not count, whatever it holds."""
    q = jnp.exp(log_q)
    return jnp.sum(jnp.where(q > 0, q * jnp.where(q > 0, values, 0.0), 0.0))


def _onto(table: Array, axes: tuple[str, ...], keep: tuple[str, ...], over: Any) -> Array:
    """Reduce a table to some of its axes, in their order."""
    dropped = tuple(i for i, axis in enumerate(axes) if axis not in keep)
    left = [axis for axis in axes if axis in keep]
    reduced = over(table, axis=dropped) if dropped else table
    return jnp.transpose(reduced, [left.index(axis) for axis in keep])


def _reduced(table: Array, axes: tuple[str, ...], keep: tuple[str, ...], latents: tuple[str, ...]) -> Array:
    """Sum latents out of log marginals; plates that the rest is not in hold copies, of which one is kept."""
    for axis in [axis for axis in axes if axis not in keep]:
        position = axes.index(axis)
        if axis in latents:
            table = jax.nn.logsumexp(table, axis=position)
        else:
            table = jnp.take(table, 0, axis=position)
        axes = tuple(name for name in axes if name != axis)
    return jnp.transpose(table, [axes.index(axis) for axis in keep])


def _spread(table: Array, axes: tuple[str, ...], target: tuple[str, ...]) -> Array:
    """Give a table the axes of another, of size 1 where it has none."""
    return jnp.reshape(table, [jnp.shape(table)[axes.index(a)] if a in axes else 1 for a in target])
