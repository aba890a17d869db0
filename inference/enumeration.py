"""Discrete latents summed out with NumPyro's funsor enumeration (imports funsor: import this lazily)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import funsor
import funsor.ops
import funsor.optimizer
import funsor.sum_product
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.funsor import enum, to_data
from numpyro.contrib.funsor import trace as packed_trace
from numpyro.primitives import Messenger

from triptych.inference.program import Program, Survey, depends_on, feasible, tracing
from triptych.models.errors import InputError

__all__ = ["Component", "Factor", "Plan", "analyse", "eliminate", "run_enumerated"]


class Factor(NamedTuple):
    """One site's log probability as a table: `axes` names each axis and gives its size."""

    table: jax.Array
    axes: Mapping[str, int]
    latents: tuple[str, ...]
    plates: tuple[str, ...]


class Component(NamedTuple):
    """Latents that meet, directly or through other latents, and everything that hangs on them.

    `plates` are those that all of them share: the unit of the likelihood, left to right.
    """

    latents: tuple[str, ...]
    sites: tuple[str, ...]
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


class _Enumerate(enum):
    """NumPyro's parallel enumeration, over the actual support values and every discrete latent."""

    def __init__(self, sites: Survey, probes: Mapping[str, Any]) -> None:
        self.latents, self.probes = sites.latents, probes
        super().__init__(first_available_dim=-1 - sites.nesting)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "control_flow":
            return  # a scan without discrete latents needs no enumeration
        if msg["type"] != "sample" or msg["is_observed"] or msg["name"] not in self.latents:
            super().process_message(msg)
            return
        name = msg["name"]
        values = jnp.asarray(self.latents[name].values)
        size = len(values)
        index = to_data(funsor.Tensor(jnp.arange(size), OrderedDict([(name, funsor.Bint[size])]), size))
        msg["value"] = values[index + self.probes.get(name, 0)]
        msg["done"] = True


class _Deterministic(Messenger):
    """Record the deterministic sites, which the packed trace leaves out."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        super().__init__()

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "deterministic":
            self.values[msg["name"]] = msg["value"]


def _log_prob(site: Mapping[str, Any], plate_scales: Mapping[str, float], size: int | None) -> Any:
    """Give a site's log probability; `size` is K for a discrete latent."""
    fn, value = site["fn"], site["value"]
    log_prob = fn.log_prob(value, site["intermediates"]) if site["intermediates"] else fn.log_prob(value)
    while size is not None and fn is not None:
        if isinstance(fn, dist.MaskedDistribution):
            # A latent that is masked out is absent: its K values must sum to one, not to K.
            log_prob = jnp.where(fn._mask, log_prob, -math.log(size))
        fn = getattr(fn, "base_dist", None)
    if site["scale"] is not None:
        # A subsampled plate multiplies whole rows, after their latents are summed out, not single sites.
        subsampling = math.prod(plate_scales.get(frame.name, 1) for frame in site["cond_indep_stack"])
        log_prob = log_prob * (site["scale"] / subsampling)
    return log_prob


def _pack(log_prob: Any, site: Mapping[str, Any], sites: Survey) -> Factor:
    """Name the axes of a log probability: plates to the right, enumerated latents to the left."""
    frames = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.dim is not None}
    names = site["infer"]["dim_to_name"]
    depth = max([jnp.ndim(log_prob), *(-dim for dim in frames)])
    log_prob = jnp.reshape(log_prob, (1,) * (depth - jnp.ndim(log_prob)) + jnp.shape(log_prob))
    shape, axes, dropped = list(jnp.shape(log_prob)), {}, []
    for dim in range(-depth, 0):
        if dim in frames:
            shape[dim] = frames[dim].size
            axes[frames[dim].name] = shape[dim]
        elif dim < -sites.nesting and shape[dim] > 1:
            axes[names[dim]] = shape[dim]
        else:
            dropped.append(depth + dim)  # of size one, or a batch without a plate: its rows add up
    table = jnp.sum(jnp.broadcast_to(log_prob, shape), axis=tuple(dropped))
    latents = tuple(name for name in axes if name in sites.latents)
    return Factor(table, axes, latents, tuple(frames[dim].name for dim in sorted(frames)))


def run_enumerated(
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    sites: Survey,
    values: Mapping[str, Any],
    *,
    probes: Mapping[str, Any] | None = None,
    fill: bool = False,
) -> tuple[dict[str, Factor], dict[str, Any]]:
    """Run a program with its discrete latents enumerated.

    Parameters
    ----------
    sites : the program's survey for the same arguments.
    values : site → value of the continuous sites (and params, plates).
    probes : latent → an integer zero added to its enumerated index, to follow what depends on it.
    fill : give continuous sites without a value a feasible one (to look at shapes only).

    Returns
    -------
    Site → factor, and deterministic site → value.
    """
    deterministic = _Deterministic()
    with (
        handlers.block(),
        _Enumerate(sites, probes or {}),
        packed_trace() as record,
        deterministic,
        handlers.substitute(substitute_fn=feasible if fill else lambda site: None),
        handlers.substitute(data=dict(values)),
        tracing(program),
    ):
        program(*args, **kwargs)
    factors = {}
    for name, site in record.items():
        if site["type"] == "sample":
            size = sites.latents[name].size if name in sites.latents else None
            factors[name] = _pack(_log_prob(site, sites.scales, size), site, sites)
    return factors, deterministic.values


def _check_reach(name: str, factor: Factor, reached: Collection[str], sites: Survey) -> None:
    """Refuse a site on which enumeration would silently give the wrong sum."""
    for latent in reached:
        if latent == name:
            continue
        plates, size = sites.latents[latent].plates, sites.latents[latent].size
        if size > 1 and latent not in factor.latents:
            raise InputError(
                f"site '{name}' depends on the discrete latent '{latent}' through an operation that mixes its "
                "values (a sum, mean, sort or `scan` over them), so that it cannot be summed out row by row. "
                f"Use '{latent}' only elementwise and as an index, as in `means[{latent}]`."
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

    def run(probes: Sequence[Any]) -> list[Any]:
        probe = dict(zip(names, probes, strict=True))
        factors, deterministic = run_enumerated(program, args, kwargs, sites, {}, probes=probe, fill=True)
        found["factors"], found["deterministic"] = factors, list(deterministic)
        return [factor.table for factor in factors.values()] + list(deterministic.values())

    reached = [
        tuple(names[i] for i in sorted(positions))
        for positions in depends_on(jax.make_jaxpr(run)([0] * len(names)).jaxpr)
    ]
    factors: dict[str, Factor] = found["factors"]
    absorbed = {}
    for (name, factor), latents in zip(factors.items(), reached, strict=False):
        _check_reach(name, factor, latents, sites)
        if factor.latents or name in sites.latents:
            absorbed[name] = factor.latents
    _check_size([factors[name] for name in absorbed], sites, largest_table)
    hidden = {name for name, of in zip(found["deterministic"], reached[len(factors) :], strict=True) if of}
    components = _components(absorbed, sites)
    joint = {component.name: component.observed for component in components if component.observed}
    alone = {name: (name,) for name in factors if name in sites.observed and name not in absorbed}
    return Plan(absorbed, frozenset(hidden), components, {**joint, **alone})


def _components(absorbed: Mapping[str, tuple[str, ...]], sites: Survey) -> tuple[Component, ...]:
    """Join latents that meet in a factor, each group with its sites, in program order."""
    groups: list[set[str]] = []
    for name, latents in absorbed.items():
        joined = {*latents, *({name} & set(sites.latents))}
        for group in [group for group in groups if group & joined]:
            joined |= group
            groups.remove(group)
        groups.append(joined)
    components = []
    for group in sorted(groups, key=lambda group: min(map(list(sites.latents).index, group))):
        latents = tuple(name for name in sites.latents if name in group)
        members = tuple(name for name, of in absorbed.items() if name in group or group & set(of))
        observed = tuple(name for name in members if name in sites.observed)
        shared = set.intersection(*(set(sites.latents[name].plates) for name in latents))
        plates = tuple(plate for plate in sites.latents[latents[0]].plates if plate in shared)
        components.append(Component(latents, members, observed, plates))
    return tuple(components)


def _tensor(factor: Factor) -> funsor.Tensor:
    inputs = OrderedDict((name, funsor.Bint[size]) for name, size in factor.axes.items())
    return funsor.Tensor(factor.table, inputs, "real")


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
    plates = frozenset(name for factor in factors for name in factor.axes if name not in sites.latents)
    every = plates | frozenset(name for factor in factors for name in factor.latents)
    with funsor.interpretations.lazy:
        lazy = funsor.sum_product.sum_product(
            funsor.ops.logaddexp,
            funsor.ops.add,
            [_tensor(factor) for factor in factors],
            eliminate=every - frozenset(keep),
            plates=plates,
            plate_to_scale=dict(scales or {}),
        )
    result = funsor.optimizer.apply_optimizer(lazy)
    # An answer that does not vary over a plate comes back without its axis.
    order = OrderedDict((name, result.inputs[name]) for name in keep if name in result.inputs)
    shape = [result.inputs[name].size if name in result.inputs else 1 for name in keep]
    return jnp.reshape(result.align(tuple(order)).data, shape)


def _check_size(factors: Sequence[Factor], sites: Survey, largest: int) -> None:
    """Refuse tables too large to fill, found by tracing the elimination without running it.

    Raises
    ------
    InputError : names the latents of the largest table, and the ways out.
    """
    shapes = [jax.ShapeDtypeStruct(jnp.shape(factor.table), factor.table.dtype) for factor in factors]
    entries = max(math.prod(shape.shape) for shape in shapes)
    widest = max(factors, key=lambda factor: math.prod(factor.axes.values()))
    if entries <= largest:

        def run(tables: Sequence[jax.Array]) -> jax.Array:
            return eliminate([f._replace(table=t) for f, t in zip(factors, tables, strict=True)], sites)

        steps = jax.make_jaxpr(run)(shapes).jaxpr.eqns
        entries = max([entries, *(math.prod(v.aval.shape) for step in steps for v in step.outvars)])
    if entries > largest:
        sizes = ", ".join(f"'{name}' ({sites.latents[name].size} values)" for name in widest.latents)
        raise InputError(
            f"summing out the discrete latents {sizes} needs a table of {entries:.2g} entries, above the limit "
            f"of {largest:.2g}. Use fewer values or rows, separate latents that need not meet, or raise the "
            "limit: marginal(program, largest_table=...)."
        )
