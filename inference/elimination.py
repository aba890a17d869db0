"""Enumerated factors summed and multiplied out by funsor (import this lazily)."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import funsor
import funsor.ops
import funsor.optimizer
import funsor.sum_product
import jax
import jax.numpy as jnp

from triptych.inference.chain_elimination import as_tensor, check_chains, contract_chains
from triptych.inference.enumeration import Factor
from triptych.inference.survey import Survey
from triptych.models.errors import InputError

__all__ = ["check_size", "eliminate"]


def eliminate(
    factors: Sequence[Factor],
    sites: Survey,
    keep: Sequence[str] = (),
    scales: Mapping[str, float] | None = None,
) -> jax.Array:
    """Sum the latents and multiply the plates out of factors: log Π_plates Σ_z exp Σ factors, in nats.

    Parameters
    ----------
    factors : log probabilities.
    keep : plates that stay, in this order, as the axes of the answer.
    scales : plate → power its product is raised to (subsampling).
    """
    factors = _merged(contract_chains(factors, sites), sites)
    plates = frozenset(name for factor in factors for name in factor.axes if name not in sites.latents)
    every = plates | frozenset(name for factor in factors for name in factor.latents)
    with funsor.interpretations.lazy:
        lazy = funsor.sum_product.sum_product(
            funsor.ops.logaddexp,
            funsor.ops.add,
            [as_tensor(factor) for factor in factors],
            eliminate=every - frozenset(keep),
            plates=plates,
            plate_to_scale=dict(scales or {}),
        )
    result: Any = funsor.optimizer.apply_optimizer(lazy)
    # An answer that does not vary over a plate comes back without its axis.
    order = OrderedDict((name, result.inputs[name]) for name in keep if name in result.inputs)
    shape = [result.inputs[name].size if name in result.inputs else 1 for name in keep]
    return jnp.reshape(result.align(tuple(order)).data, shape)


def _merged(factors: Sequence[Factor], sites: Survey) -> list[Factor]:
    """Add up factors over the same plates, one of which has all the latents of the other.

    Funsor multiplies factors as exponentials, each scaled by its own maximum, which underflows where two
    factors disagree by more than 745 nats; a sum of logarithms does not.
    """
    merged: list[Factor] = []
    for factor in sorted(factors, key=lambda factor: -len(factor.axes)):
        plates = {name for name in factor.axes if name not in sites.latents}
        for i, host in enumerate(merged):
            same = plates == {name for name in host.axes if name not in sites.latents}
            if same and set(factor.axes) <= set(host.axes):
                own = [name for name in host.axes if name in factor.axes]
                table = jnp.transpose(factor.table, [list(factor.axes).index(name) for name in own])
                table = jnp.reshape(table, [factor.axes.get(name, 1) for name in host.axes])
                merged[i] = host._replace(table=host.table + table)
                break
        else:
            merged.append(factor)
    return merged


def check_size(factors: Sequence[Factor], sites: Survey, largest: int) -> None:
    """Refuse tables too large to fill, found by tracing the elimination without running it.

    Raises
    ------
    InputError : names the latents of the largest table, and the ways out.
    """
    if not factors:
        return
    shapes = [jax.ShapeDtypeStruct(jnp.shape(factor.table), factor.table.dtype) for factor in factors]
    check_chains(factors, sites)
    entries = max(math.prod(shape.shape) for shape in shapes)
    widest = max(factors, key=lambda factor: math.prod(factor.axes.values()))

    def run(tables: Sequence[jax.Array]) -> jax.Array:
        return eliminate([f._replace(table=t) for f, t in zip(factors, tables, strict=True)], sites)

    if entries <= largest:
        try:
            entries = max(entries, _largest(jax.make_jaxpr(run)(shapes).jaxpr))
        except ValueError as error:  # funsor: "intractable!"
            raise InputError(_crossed(factors, sites)) from error
    if entries > largest:
        sizes = ", ".join(f"'{name}' ({sites.latents[name].size} values)" for name in widest.latents)
        raise InputError(
            f"summing out the discrete latents {sizes} needs a table of {entries:.2g} entries, above the "
            f"limit of {largest:.2g}. Use fewer values or rows, separate latents that need not meet, or "
            "raise the limit: marginal(program, largest_table=...)."
        )


def _largest(jaxpr: Any) -> int:
    """Give the entries of the largest array that a jaxpr makes, nested calls included."""
    most = 0
    for step in jaxpr.eqns:
        most = max([most, *(math.prod(var.aval.shape) for var in step.outvars)])
        for parameter in step.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                most = max(most, _largest(inner))
    return most


def _crossed(factors: Sequence[Factor], sites: Survey) -> str:
    """Say which latents meet across plates that cross."""
    several = [factor.latents for factor in factors if len(factor.latents) > 1]
    pairs = [pair for latents in several for pair in itertools.combinations(latents, 2)]
    plates = {name: set(latent.plates) for name, latent in sites.latents.items()}
    a, b = next((pair for pair in pairs if plates[pair[0]] ^ plates[pair[1]]), list(sites.latents)[:2])
    return (
        f"the discrete latents '{a}' and '{b}' meet across plates that cross, so every combination of all "
        "their values would have to be summed. Write the shorter plate as a Python loop, or observe one."
    )
