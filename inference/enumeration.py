"""A program run once with its discrete latents enumerated by NumPyro (imports funsor: import lazily)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import funsor
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.funsor import enum, to_data
from numpyro.contrib.funsor import trace as packed_trace
from numpyro.primitives import Messenger

from triptych.inference.scans import Chain, before, is_scan
from triptych.inference.survey import Survey
from triptych.inference.tracing import Program, tracing

__all__ = ["Factor", "Run", "log_probability", "pack", "run_enumerated", "trace_enumerated"]


class Factor(NamedTuple):
    """One site's log probability as a table: `axes` names each axis and gives its size.

    A site in the body of a `scan` names its `chain`. Its first step is one factor; all later ones are
    another, which has `steps` of them, the latents of the step before among its axes, and the time axis only
    if it changes with time.
    """

    table: jax.Array
    axes: Mapping[str, int]
    latents: tuple[str, ...]
    plates: tuple[str, ...]
    chain: str | None = None
    steps: int = 0


class Run(NamedTuple):
    """An enumerated run: site → factor, deterministic site → value, continuous site → support."""

    factors: dict[str, Factor]
    deterministic: dict[str, Any]
    supports: dict[str, Any]


class _Enumerate(enum):
    """NumPyro's parallel enumeration, over the actual support values and every discrete latent."""

    def __init__(self, sites: Survey, probes: Mapping[str, Any], recorders: Sequence[Any]) -> None:
        self.latents, self.probes, self.sites, self.recorders = sites.latents, probes, sites, recorders
        self.chains = iter(sites.chains)
        self.factors: dict[str, Factor] = {}
        super().__init__(first_available_dim=-1 - sites.nesting)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "control_flow":
            chain = next(self.chains) if is_scan(msg) else None
            if chain is not None:  # a scan without discrete latents needs no enumeration
                self._scan(msg, chain)
            return
        if msg["type"] != "sample" or msg["is_observed"] or msg["name"] not in self.latents:
            super().process_message(msg)
            return
        name = msg["name"]
        values = jnp.asarray(self.latents[name].values)
        size = len(values)
        domain: Any = size
        index = to_data(funsor.Tensor(jnp.arange(size), OrderedDict([(name, funsor.Bint[size])]), domain))
        msg["value"] = values[index + self.probes.get(name, 0)]
        msg["done"] = True

    def _scan(self, msg: Any, chain: Chain) -> None:
        """Put a scan's factors, step by step in one table each, in place of running it."""
        from triptych.inference.chain_factors import Frame, chain_factors

        outer = self.probes
        axis = {name: _axis(name, self.latents[name].size) for name in chain.latents}
        axis_before = {name: _axis(before(name), self.latents[name].size) for name in chain.latents}

        def body(carry: Any, x: Any, probes: Sequence[Any]) -> tuple[Any, Any, dict[str, Factor]]:
            kept = [recorder.take() for recorder in self.recorders]
            self.probes = {**outer, **dict(zip(chain.latents, probes, strict=True))}
            following, y = msg["args"][0](carry, x)
            self.probes = outer
            record, *_ = [recorder.take(old) for recorder, old in zip(self.recorders, kept, strict=True)]
            return following, y, _pack_all(record, self.sites, in_scan=True)

        outer_probes = tuple(outer.get(name, 0) for name in chain.latents)
        counts = {name: self.latents[name].size for name in chain.latents}
        frame = Frame(chain, axis, axis_before, outer_probes, counts)
        factors, msg["value"] = chain_factors(msg, body, frame, self.sites)
        self.factors.update(factors)


def _axis(name: str, size: int) -> int:
    """Give the dimension (from the right) that funsor keeps for an enumerated name."""
    domain: Any = size
    index = to_data(funsor.Tensor(jnp.arange(size), OrderedDict([(name, funsor.Bint[size])]), domain))
    return -jnp.ndim(index)


class _Record(packed_trace):
    """The packed trace, whose sites can be taken out while the body of a scan is run."""

    def take(self, sites: Any = None) -> Any:
        taken, self.trace = self.trace, OrderedDict() if sites is None else sites
        return taken


class _Deterministic(Messenger):
    """Record the deterministic sites, which the packed trace leaves out."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        super().__init__()

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "deterministic":
            self.values[msg["name"]] = msg["value"]

    def take(self, values: Any = None) -> Any:
        taken, self.values = self.values, {} if values is None else values
        return taken


def log_probability(site: Mapping[str, Any], plate_scales: Mapping[str, float], size: int | None) -> Any:
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


def pack(log_prob: Any, site: Mapping[str, Any], sites: Survey, in_scan: bool) -> Factor:
    """Name the axes of a log probability: plates to the right, enumerated latents to the left."""
    frames = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.dim is not None}
    names = site["infer"]["dim_to_name"]
    wide = any(size > 1 for size in jnp.shape(log_prob)[: max(0, jnp.ndim(log_prob) - sites.nesting)])
    if not (wide or in_scan or site["name"] in sites.latents):  # hangs on no latent: its own log probability
        log_prob = jnp.reshape(log_prob, sites.batches[site["name"]])
        return Factor(log_prob, {}, (), tuple(frames[dim].name for dim in sorted(frames)))
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
    probes: Mapping[str, Any] | None = None,
) -> Run:
    """Run a program with its discrete latents enumerated.

    Parameters
    ----------
    sites : the program's survey for the same arguments.
    values : site → value of the continuous sites (and params, plates).
    probes : latent → an integer zero added to its enumerated index, to follow what depends on it.
    """
    record, scans, deterministic = trace_enumerated(program, args, kwargs, sites, values, probes)
    factors = _pack_all(record, sites) | scans
    supports = {name: record[name]["fn"].support for name in sites.parameters}
    return Run(factors, deterministic, supports)


def trace_enumerated(
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    sites: Survey,
    values: Mapping[str, Any],
    probes: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Factor], dict[str, Any]]:
    """Give the sites of an enumerated run, the factors of its scans, and its deterministic values."""
    deterministic, recorder = _Deterministic(), _Record()
    enumerate_latents = _Enumerate(sites, probes or {}, (recorder, deterministic))
    with (
        handlers.block(),
        enumerate_latents,
        recorder,
        deterministic,
        handlers.substitute(data={name: jnp.asarray(value) for name, value in values.items()}),
        tracing(program),
    ):
        program(*args, **kwargs)
    return recorder.trace, enumerate_latents.factors, deterministic.values


def _pack_all(record: Mapping[str, Any], sites: Survey, in_scan: bool = False) -> dict[str, Factor]:
    """Give site → factor of a packed trace."""
    factors = {}
    for name, site in record.items():
        if site["type"] == "sample":
            size = sites.latents[name].size if name in sites.latents else None
            factors[name] = pack(log_probability(site, sites.scales, size), site, sites, in_scan)
    return factors
