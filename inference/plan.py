"""What hangs on a program's discrete latents, and which of them meet: found abstractly, before any sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from triptych.inference.elimination import check_size
from triptych.inference.enumeration import Factor, run_enumerated
from triptych.inference.scans import site_of
from triptych.inference.status import Finding, say
from triptych.inference.survey import Survey, some_values
from triptych.inference.tracing import Program
from triptych.models.errors import InputError

__all__ = ["Component", "Plan", "analyse", "depends_on"]


MANY = 20  # discrete latents, one by one in a Python loop, beyond which compiling takes long


class Component(NamedTuple):
    """Latents that meet, directly or through other latents, and everything that hangs on them.

    `sites` are names of factors, and `given` those of no data site. `plates` are those that all latents
    share: the unit of the likelihood, left to right. A chain's time is no plate: its unit is the chain.
    """

    latents: tuple[str, ...]
    sites: tuple[str, ...]
    given: tuple[str, ...]
    observed: tuple[str, ...]
    plates: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the unit: its data sites joined."""
        return "+".join(self.observed)


class Plan(NamedTuple):
    """What an enumerated run will do.

    `absorbed` maps each site that hangs on a discrete latent (the latents too) to those latents; `hidden`
    are deterministic sites that hang on one.
    """

    absorbed: Mapping[str, tuple[str, ...]]
    hidden: frozenset[str]
    components: tuple[Component, ...]
    units: Mapping[str, tuple[str, ...]]


def _check_reach(name: str, factor: Factor, reached: Collection[str], sites: Survey) -> None:
    """Refuse a site on which enumeration would silently give the wrong sum."""
    for latent in reached:
        if latent == site_of(name):
            continue
        plates, size = sites.latents[latent].plates, sites.latents[latent].size
        if (
            size > 1
            and latent not in factor.latents
            and sites.latents[latent].chain not in (None, factor.chain)
        ):
            raise InputError(
                f"site '{name}' hangs on what a `scan` hands back of its discrete latent '{latent}', which "
                f"the sum over the chain cannot follow: move '{name}' into the scan's body."
            )
        if size > 1 and latent not in factor.latents:
            raise InputError(
                f"site '{name}' depends on the discrete latent '{latent}' through an operation that mixes "
                "its values (a sum, mean, sort or `scan` over them), so that it cannot be summed out row by "
                f"row. Use '{latent}' only elementwise and as an index, as in `means[{latent}]`."
            )
        outside = [plate for plate in plates if plate not in factor.plates]
        if outside:
            raise InputError(
                f"site '{name}' depends on the discrete latent '{latent}' outside the plate '{outside[0]}': "
                f"move '{name}' inside `with` that plate."
            )


def analyse(
    program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any], sites: Survey, largest_table: int
) -> Plan:
    """Find, without arithmetic, what hangs on the discrete latents and which of them meet.

    Raises
    ------
    InputError : a site uses a latent in a way that enumeration cannot follow; the text names both.
    """
    found: dict[str, Any] = {}
    names = list(sites.latents)
    if len(names) > MANY:
        text = (
            f"The program has {len(names)} discrete latents ('{names[0]}', '{names[1]}', …), which takes "
            "long to compile. Write a chain as numpyro's `scan`, and independent latents as a plate."
        )
        say(Finding("MANY_LATENTS", text))

    def run(probes: Sequence[Any]) -> list[Any]:
        probe = dict(zip(names, probes, strict=True))
        found["run"] = run_enumerated(program, args, kwargs, sites, some_values(sites), probe)
        factors, deterministic, supports = found["run"]
        bounds = [_sum_of_leaves(supports[name]) for name in supports]
        return [*(factor.table for factor in factors.values()), *bounds, *deterministic.values()]

    jaxpr = jax.make_jaxpr(run)([0] * len(names)).jaxpr
    reached = iter([names[i] for i in sorted(positions)] for positions in depends_on(jaxpr))
    factors, deterministic, supports = found["run"]
    absorbed = {}
    for name, factor in factors.items():
        _check_reach(name, factor, next(reached), sites)
        if factor.latents or name in sites.latents:
            absorbed[name] = factor.latents
        elif factor.chain:  # of a scan's body, which goes as a whole
            absorbed[name] = next(one.latents for one in sites.chains if one and one.name == factor.chain)
    for name in supports:
        _check_support(name, next(reached))
    if absorbed:
        check_size([factors[name] for name in absorbed], sites, largest_table)
    hidden = {name for name, latents in zip(deterministic, reached, strict=True) if latents}
    components = _components(absorbed, sites)
    joint = {component.name: component.observed for component in components if component.observed}
    alone = {name: (name,) for name in factors if name in sites.observed and name not in absorbed}
    return Plan(absorbed, frozenset(hidden), components, {**joint, **alone})


def _sum_of_leaves(support: Any) -> Any:
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(support) if isinstance(leaf, jax.Array | np.ndarray))


def _check_support(name: str, latents: Sequence[str]) -> None:
    if latents:
        raise InputError(
            f"the support of site '{name}' moves with the discrete latent '{latents[0]}', so '{name}' has no "
            "one space to be moved in. Draw a standard variable with a fixed support and shift or scale it "
            f"by '{latents[0]}' afterwards."
        )


def _components(absorbed: Mapping[str, tuple[str, ...]], sites: Survey) -> tuple[Component, ...]:
    """Join latents that meet in a factor, each group with its sites, in program order."""
    groups: list[set[str]] = []
    for name, latents in absorbed.items():
        joined = {*latents, *({site_of(name)} & set(sites.latents))}
        for group in [group for group in groups if group & joined]:
            joined |= group
            groups.remove(group)
        groups.append(joined)
    components = []
    for group in sorted(groups, key=lambda group: min(map(list(sites.latents).index, group))):
        latents = tuple(name for name in sites.latents if name in group)
        members = tuple(name for name, of in absorbed.items() if name in group or group & set(of))
        observed = tuple(dict.fromkeys(site_of(name) for name in members if site_of(name) in sites.observed))
        given = tuple(name for name in members if site_of(name) not in sites.observed)
        shared = set.intersection(*(set(sites.latents[name].plates) for name in latents))
        plates = tuple(plate for plate in sites.latents[latents[0]].plates if plate in shared)
        components.append(Component(latents, members, given, observed, plates))
    return tuple(components)


def depends_on(jaxpr: Any) -> list[frozenset[int]]:
    """Give, for each output of a jaxpr, the positions of the inputs that it is computed from."""
    sources: dict[Any, frozenset[int]] = {v: frozenset([i]) for i, v in enumerate(jaxpr.invars)}

    def of(var: Any) -> frozenset[int]:
        return frozenset() if isinstance(var, Literal) else sources.get(var, frozenset())

    for eqn in jaxpr.eqns:
        joined = frozenset().union(*map(of, eqn.invars))
        sources.update(dict.fromkeys(eqn.outvars, joined))
    return [of(var) for var in jaxpr.outvars]
