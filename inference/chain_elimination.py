"""Chains contracted to a factor of their first states, which then meets the others (imports funsor)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import funsor
import funsor.ops
import funsor.sum_product
import jax
import jax.numpy as jnp

from triptych.inference.chain import backward, forward
from triptych.inference.enumeration import Factor
from triptych.inference.scans import before
from triptych.inference.survey import Survey
from triptych.models.errors import InputError

__all__ = ["as_tensor", "check_chains", "contract_chains", "one_step_ahead", "perturbations"]


def as_tensor(factor: Factor) -> funsor.Tensor:
    """Give a factor as funsor's tensor."""
    inputs = OrderedDict((name, funsor.Bint[size]) for name, size in factor.axes.items())
    return funsor.Tensor(factor.table, inputs, "real")


def perturbations(latent: str, table: Any, sites: Survey) -> list[Factor]:
    """Give what adds a table, (plates..., K) or (T, plates..., K), to a latent's log probabilities."""
    site = sites.latents[latent]
    axes = dict(zip((*site.plates, latent), (*site.shape, site.size), strict=True))
    if site.chain is None:
        return [Factor(table, axes, (latent,), site.plates)]
    later = Factor(
        table[1:],
        {site.chain: site.steps - 1, **axes},
        (latent,),
        site.plates,
        site.chain,
        site.steps - 1,
    )
    first = Factor(table[0], axes, (latent,), site.plates)
    return [first, later] if site.steps > 1 else [first]


class _Group(NamedTuple):
    """Latents of a chain that meet, and the factors of later steps over them.

    `carried` reach into the next step, and `plates` are theirs; `outer` are latents from outside the scan.
    """

    chain: str
    steps: int
    factors: tuple[Factor, ...]
    carried: tuple[str, ...]
    local: tuple[str, ...]
    outer: tuple[str, ...]
    plates: tuple[str, ...]
    inner: tuple[str, ...]


def _groups(factors: Iterable[Factor], sites: Survey) -> list[_Group]:
    groups: list[tuple[set[str], list[Factor]]] = []
    for factor in factors:
        own = {name for name in factor.latents if sites.latents[name].chain == factor.chain}
        names, members = own or {f"{factor.chain}: no latent"}, [factor]
        for other in [group for group in groups if group[0] & names]:
            names, members = names | other[0], other[1] + members
            groups.remove(other)
        groups.append((names, members))
    return [_read_group(members, sites) for _, members in groups]


def _read_group(factors: list[Factor], sites: Survey) -> _Group:
    chain, steps = str(factors[0].chain), factors[0].steps
    axes = {name for factor in factors for name in factor.axes}
    own = [name for name, latent in sites.latents.items() if latent.chain == chain]
    carried = tuple(name for name in own if before(name) in axes)
    local = tuple(name for name in own if name in axes and name not in carried)
    outer = tuple(name for name in sites.latents if name in axes and name not in own)
    known = {chain, *own, *map(before, own), *outer}
    every = [name for name in dict.fromkeys(n for f in factors for n in f.axes) if name not in known]
    shared = [set(sites.latents[name].plates) for name in carried or local] or [set(every)]
    plates = tuple(name for name in every if name in set.intersection(*shared))
    inner = tuple(name for name in every if name not in plates)
    return _Group(chain, steps, tuple(factors), carried, local, outer, plates, inner)


def check_chains(factors: Sequence[Factor], sites: Survey) -> None:
    """Refuse chains that meet across different plates, where no sum step by step is possible.

    Raises
    ------
    InputError : names the latents and the plates.
    """
    for group in _groups([factor for factor in factors if factor.steps], sites):
        plates = {name: set(sites.latents[name].plates) for name in (*group.carried, *group.outer)}
        for name in group.carried:
            if plates[name] != set(group.plates):
                other = next(n for n in group.carried if plates[n] != plates[name])
                raise InputError(
                    f"the chains of '{name}' and '{other}' meet in a `scan`, but stand in different plates: "
                    "their states would have to be summed all together. Put both in the same plates, or "
                    "observe one."
                )
        for name in group.outer:
            if plates[name] - set(group.plates):
                raise InputError(
                    f"the discrete latent '{name}' meets the chain of '{[*group.carried, *group.local][0]}' "
                    f"in a `scan`, but stands in the plate '{min(plates[name] - set(group.plates))}', in "
                    "which the chain does not: put the chain in that plate too, or observe one of them."
                )


def contract_chains(factors: Sequence[Factor], sites: Survey) -> list[Factor]:
    """Sum the later states out of every chain; other factors stay as they are."""
    groups = _groups([factor for factor in factors if factor.steps], sites)
    return [factor for factor in factors if not factor.steps] + [_contract(group, sites) for group in groups]


def _contract(group: _Group, sites: Survey) -> Factor:
    constant, changing, shape = _tables(group, sites)
    table = backward(constant, changing, shape, len(group.carried), group.steps)
    names = (*group.plates, *group.outer, *group.carried)
    axes = dict(zip(names, shape, strict=True))
    return Factor(table, axes, (*group.outer, *group.carried), group.plates)


def _tables(group: _Group, sites: Survey) -> tuple[jax.Array, list[jax.Array], tuple[int, ...]]:
    """Give a group's factors with axes (plates, outer, before, now), the constant ones added up."""
    sizes = {name: size for factor in group.factors for name, size in factor.axes.items()}
    sizes |= {name: sites.latents[name].size for name in group.carried}
    tensors = [as_tensor(factor) for factor in group.factors]
    if group.local or group.inner:
        # Time and the chain's plates are mere batch axes here: nothing is shared between their places.
        tensors = funsor.sum_product.partial_sum_product(
            funsor.ops.logaddexp,
            funsor.ops.add,
            tensors,
            eliminate=frozenset(group.local + group.inner),
            plates=frozenset(group.inner),
        )
    names = (*group.plates, *group.outer, *map(before, group.carried), *group.carried)
    dtype = jnp.result_type(*(factor.table for factor in group.factors))
    constant, changing = jnp.zeros((1,) * len(names), dtype), []
    for tensor in tensors:
        table: Any = tensor
        order = tuple(name for name in (group.chain, *names) if name in table.inputs)
        data = table.align(order).data
        timed = (group.steps,) if group.chain in table.inputs else ()
        data = jnp.reshape(data, (*timed, *(sizes[n] if n in table.inputs else 1 for n in names)))
        if timed:
            changing.append(data)
        else:
            constant = constant + data
    shape = tuple(sizes[name] for name in (*group.plates, *group.outer, *group.carried))
    return constant, changing, shape


def one_step_ahead(factors: Sequence[Factor], sites: Survey, chain: str, plates: Sequence[str]) -> jax.Array:
    """Give log p(x_t | x_1, …, x_{t−1}): (T, plates...), nats, of a chain that meets no other latent.

    Raises
    ------
    InputError : other latents meet the chain, so that its start is not a factor of its own.
    """
    from triptych.inference.elimination import eliminate

    groups = _groups([factor for factor in factors if factor.steps], sites)
    strangers = {name for factor in factors for name in factor.latents if sites.latents[name].chain != chain}
    if strangers or len(groups) > 1:
        raise InputError(
            f"there is no prediction step by step: besides its chain the program's data hang on "
            f"{', '.join(sorted(strangers)) or 'another chain'}. Observe that, or use log_likelihood."
        )
    opening = [factor for factor in factors if not factor.steps]
    if not groups:
        return eliminate(opening, sites, plates)[None]
    (group,) = groups
    first = eliminate(opening, sites, (*group.plates, *group.carried))
    constant, changing, shape = _tables(group, sites)
    sums = forward(jnp.broadcast_to(first, shape), constant, changing, len(group.carried), group.steps)
    order = [group.plates.index(name) for name in plates]
    return jnp.transpose(sums, (0, *(1 + i for i in order)))
