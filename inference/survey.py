"""One abstract run of a program: its sites, their shapes and supports, no arithmetic done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.core import Tracer
from numpyro import handlers
from numpyro.primitives import Messenger

from triptych.inference.scans import Chain, check_scan, is_scan, plain_run, step_inputs
from triptych.inference.tracing import Program, tracing
from triptych.models.errors import InputError

__all__ = ["Latent", "Parameter", "Survey", "first_value", "some_values", "survey"]


class Parameter(NamedTuple):
    """A continuous unobserved site θ: its shape, its support, and the discrete latents its prior hangs on."""

    shape: tuple[int, ...]
    support: Any
    hangs_on: tuple[str, ...] = ()
    plates: tuple[str, ...] = ()


class Latent(NamedTuple):
    """A discrete latent: plates and their sizes (left to right), and its support values, (K, *event).

    One in the body of a `scan` has a `chain`, the name of its time axis, which comes before its plates.
    """

    plates: tuple[str, ...]
    shape: tuple[int, ...]
    values: np.ndarray
    chain: str | None = None
    steps: int = 0

    @property
    def size(self) -> int:
        """The number K of values."""
        return len(self.values)

    @property
    def places(self) -> tuple[int, ...]:
        """Shape of its posterior: (plates..., K), in a chain (T, plates..., K)."""
        times = () if self.chain is None else (self.steps,)
        return (*times, *self.shape, self.size)


class Survey(NamedTuple):
    """The sites of one run without enumeration; `nesting` dimensions from the right are taken by batches."""

    parameters: Mapping[str, Parameter]
    latents: Mapping[str, Latent]
    observed: Mapping[str, tuple[int, ...]]
    nesting: int
    scales: Mapping[str, float]  # subsampled plate → size / subsample size
    random: Mapping[str, int]  # plate whose subsample is drawn with a key from outside → its size
    batches: Mapping[str, tuple[int, ...]]  # site → shape of its log probability
    chains: tuple[Chain | None, ...] = ()  # for each `scan` in turn; None where it has no discrete latent


def feasible(site: Any) -> Any:
    """Give a plate's subsample, or a continuous latent, some value in its support, without a key."""
    if site["value"] is not None or site["type"] not in ("sample", "plate"):
        return None
    if site["type"] == "plate":
        return jnp.arange(site["args"][1])
    if is_discrete(site["fn"]):
        return None
    return _inside(site["fn"].support, site["kwargs"].get("sample_shape", ()) + site["fn"].shape())


def some_values(sites: Survey) -> dict[str, Any]:
    """Give every continuous site, and every subsample, some value: to look at shapes only."""
    values: dict[str, Any] = {name: jnp.arange(size) for name, size in sites.random.items()}
    return values | {name: _inside(site.support, site.shape) for name, site in sites.parameters.items()}


def _inside(support: Any, shape: tuple[int, ...]) -> jax.Array:
    try:
        transform = numpyro.distributions.biject_to(support)
        return jnp.broadcast_to(transform(jnp.zeros(transform.inverse_shape(shape))), shape)
    except NotImplementedError:
        return jnp.zeros(shape)


def is_discrete(fn: Any) -> bool:
    """Whether a distribution's values are discrete."""
    return bool(fn.support is not None and fn.support.is_discrete)


def first_value(values: np.ndarray, fn: Any) -> jax.Array:
    """Give the first support value, with a batch of ones that broadcasts as an enumerated value does."""
    return jnp.asarray(values[0]).reshape((1,) * len(fn.batch_shape) + values.shape[1:])


class _Sites(Messenger):
    """Record every site's shapes; give each discrete latent its first value."""

    def __init__(self) -> None:
        self.sites: dict[str, dict[str, Any]] = {}
        self.values: dict[str, np.ndarray] = {}
        self.random: dict[str, int] = {}
        self.chains: list[Chain | None] = []
        self.depth = 0
        super().__init__()

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "control_flow":
            if msg["kwargs"]["rng_key"] is None:
                msg["kwargs"]["rng_key"] = jax.random.key(0)
            if is_scan(msg):
                self._scan(msg)
            return
        if msg["type"] == "plate" and msg["value"] is None and msg["kwargs"]["rng_key"] is None:
            self.random[msg["name"]] = msg["args"][1]
        if msg["type"] != "sample" or msg["is_observed"] or not is_discrete(msg["fn"]):
            return
        name, fn = msg["name"], msg["fn"]
        if msg.get("_control_flow_done"):
            raise InputError(
                f"the discrete latent '{name}' is inside numpyro's `cond`, which cannot be summed out: draw "
                "it before, and choose between the two distributions with `jnp.where`."
            )
        self.values[name] = support_values(name, fn)
        value = first_value(self.values[name], fn)
        msg["value"] = jnp.broadcast_to(value, fn.shape())

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] in ("sample", "plate") or (msg["type"] == "param" and self.depth):
            self.sites[msg["name"]] = dict(msg)

    def _scan(self, msg: Any) -> None:
        """Look at one step of a scan's body; if it has a discrete latent, record the body as a chain."""
        f, init, *_ = msg["args"]
        steps, at = step_inputs(msg)
        if steps == 0:
            self.chains.extend(() if self.depth else (None,))
            return
        kept, self.sites, random = self.sites, {}, dict(self.random)
        self.depth += 1
        with handlers.seed(rng_seed=jax.random.key(0)):
            f(init, at(0))
        self.depth -= 1
        inner, self.sites, self.random = self.sites, kept, random
        latents = tuple(name for name in inner if name in self.values)
        chain = None
        if latents:
            check_scan(msg, inner, latents, self.depth > 0)
            sites = tuple(name for name, site in inner.items() if site["type"] == "sample")
            chain = Chain(f"time of {latents[0]}", steps, latents, sites)
            repeated = [name for name in sites if name in self.sites]
            if repeated:
                raise InputError(f"two sites are called '{repeated[0]}': rename the one in the `scan`.")
            for name in inner:
                self.sites[name] = inner[name] | {"chain": chain}
            msg["value"] = plain_run(msg, self.values)
        if not self.depth:
            self.chains.append(chain)


def support_values(name: str, fn: Any) -> np.ndarray:
    """Give the K support values of a discrete latent, (K, *event).

    Raises
    ------
    InputError : the support is infinite, or not one table for the whole batch.
    """
    family = type(getattr(fn, "base_dist", fn)).__name__
    if not fn.has_enumerate_support:
        raise InputError(
            f"the discrete latent '{name}' ~ {family} cannot be summed out: its support is not a finite "
            "list. Write it as a dist.Categorical over the values that matter (0, …, a bound) with "
            f"{family}'s probabilities, or observe it."
        )
    try:
        with jax.ensure_compile_time_eval():
            values = np.asarray(fn.enumerate_support(expand=False))
    except (NotImplementedError, ValueError) as error:
        raise InputError(
            f"the discrete latent '{name}' ~ {family} cannot be summed out: {error} "
            "Put independent copies in a numpyro.plate instead of `to_event`, and give all the same support."
        ) from error
    return values.reshape(values.shape[:1] + values.shape[1 + len(fn.batch_shape) :])


def _frames(site: Mapping[str, Any]) -> list[Any]:
    return sorted((f for f in site["cond_indep_stack"] if f.dim is not None), key=lambda f: f.dim)


def _batch_shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    value = jnp.shape(site["value"])
    return jnp.broadcast_shapes(tuple(site["fn"].batch_shape), value[: len(value) - site["fn"].event_dim])


def _read_latent(name: str, site: Mapping[str, Any], values: np.ndarray) -> Latent:
    frames, batch = _frames(site), _batch_shape(site)
    declared = {f.dim for f in frames}
    for dim in range(-len(batch), 0):
        if batch[dim] > 1 and dim not in declared:
            raise InputError(
                f"the discrete latent '{name}' has a batch dimension of {batch[dim]} (dimension {dim}) "
                "without a plate: draw it, and the data that hang on it, inside "
                f"`with numpyro.plate(..., {batch[dim]}):`."
            )
    return Latent(tuple(f.name for f in frames), tuple(f.size for f in frames), values)


def survey(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Survey:
    """Run a program abstractly (no arithmetic) and list its sites.

    Raises
    ------
    InputError : the program fails, or a discrete latent cannot be enumerated; the text names the site.
    """
    found: dict[str, Any] = {}

    def run() -> list[Any]:
        record = _Sites()
        with handlers.block(), handlers.substitute(substitute_fn=feasible), record, tracing(program):
            program(*args, **kwargs)
        found["record"] = record
        supports = {
            name: site["fn"].support
            for name, site in record.sites.items()
            if site["type"] == "sample" and not site["is_observed"] and name not in record.values
        }
        leaves, found["supports"] = jax.tree.flatten(supports)
        found["static"] = [None if isinstance(leaf, Tracer) else leaf for leaf in leaves]
        return [leaf for leaf in leaves if isinstance(leaf, Tracer)]

    traced = jax.eval_shape(run)
    # Bounds that the program computes are had by running it; XLA leaves out everything else.
    computed = iter(jax.jit(run)() if traced else [])
    static = [next(computed) if leaf is None else leaf for leaf in found["static"]]
    supports = jax.tree.unflatten(found["supports"], static)
    return _read(found["record"], supports)


def _read(record: _Sites, supports: Mapping[str, Any]) -> Survey:
    parameters, latents, observed, scales = {}, {}, {}, {}
    nesting, batches = 0, {}
    for name, site in record.sites.items():
        if site["type"] == "plate":
            size, subsample = site["args"]
            if subsample is not None and subsample != size:
                scales[name] = size / subsample
            continue
        chain = site.get("chain")
        batches[name] = _batch_shape(site)
        nesting = max([nesting, len(batches[name]), *(-f.dim for f in _frames(site))])
        if name in record.values:
            latents[name] = _read_latent(name, site, record.values[name])
            if chain is not None:
                latents[name] = latents[name]._replace(chain=chain.name, steps=chain.steps)
        elif site["is_observed"]:
            times = () if chain is None else (chain.steps,)
            observed[name] = (*times, *jnp.shape(site["value"]))
        else:
            plates = tuple(frame.name for frame in _frames(site))
            parameters[name] = Parameter(jnp.shape(site["value"]), supports[name], plates=plates)
    return Survey(
        parameters, latents, observed, nesting, scales, record.random, batches, tuple(record.chains)
    )
