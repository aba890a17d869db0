"""NumPyro's `scan` with discrete latents in its body: a chain z₁ → z₂ → … → z_T, read one step at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import Messenger

from triptych.models.errors import InputError

__all__ = [
    "SECOND_ORDER",
    "Chain",
    "SteadyScan",
    "before",
    "check_scan",
    "first_step",
    "is_scan",
    "plain_run",
    "site_of",
    "step_inputs",
]

FIRST = "[1]"
BEFORE = "[t-1]"
SECOND_ORDER = (
    "A chain remembers one step. Make the pair (z[t-1], z[t]) one latent with K² values, whose transition "
    "matrix is zero where the pairs do not join."
)


class Chain(NamedTuple):
    """One `scan` over discrete latents: the name of its time axis, its T steps, and the sites of its body."""

    name: str
    steps: int
    latents: tuple[str, ...]
    sites: tuple[str, ...]


def first_step(site: str) -> str:
    """Name the factor of a site of the body in the first step, where no latent of the chain precedes it."""
    return site + FIRST


def before(latent: str) -> str:
    """Name the axis of a latent's value in the step before."""
    return latent + BEFORE


def site_of(factor: str) -> str:
    """Give the site that a factor belongs to."""
    return factor.removesuffix(FIRST)


def is_scan(msg: Mapping[str, Any]) -> bool:
    """Whether a message is that of NumPyro's `scan`."""
    return msg["type"] == "control_flow" and getattr(msg["fn"], "__name__", "") == "scan_wrapper"


def step_inputs(msg: Mapping[str, Any]) -> tuple[int, Callable[[Any], Any]]:
    """Give a scan's number of steps, and what its body reads at a step (an index or a slice)."""
    _, _, xs, length, _ = msg["args"]
    xs = jax.tree.map(jnp.asarray, xs)
    leaves = jax.tree.leaves(xs)
    steps = int(length) if length is not None else (len(leaves[0]) if leaves else 0)
    return steps, lambda index: jax.tree.map(lambda leaf: leaf[index], xs)


class _FirstValues(Messenger):
    def __init__(self, values: Mapping[str, np.ndarray]) -> None:
        self.values = values
        super().__init__()

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["name"] in self.values:
            fn, values = msg["fn"], self.values[msg["name"]]
            value = jnp.asarray(values[0]).reshape((1,) * len(fn.batch_shape) + values.shape[1:])
            msg["value"] = jnp.broadcast_to(value, fn.shape())


def _steady(body: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the integer type of a scan's carry: a state drawn as int64 may follow a start given as int32."""

    def run(carry: Any, x: Any) -> tuple[Any, Any]:
        following, y = body(carry, x)
        with contextlib.suppress(ValueError):  # another structure: the scan itself says so
            following = jax.tree.map(_as_before, following, carry)
        return following, y

    return run


def _as_before(new: Any, old: Any) -> Any:
    a, b = jnp.result_type(new), jnp.result_type(old)
    if a != b and jnp.issubdtype(a, jnp.integer) and jnp.issubdtype(b, jnp.integer):
        return jnp.asarray(new, b)
    return new


def plain_run(msg: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Any:
    """Run a scan with its latents at their first values, unseen; what hangs on no latent comes out right."""
    f, init, xs, length, reverse = msg["args"]

    def body(carry: Any, x: Any) -> Any:
        with _FirstValues(values):
            return f(carry, x)

    wrapped, (_, ys) = msg["fn"](_steady(body), init, xs, length, reverse, rng_key=jax.random.key(0))
    return wrapped, (PytreeTrace({}), ys)


def check_scan(
    msg: Mapping[str, Any], inner: Mapping[str, Mapping[str, Any]], latents: tuple[str, ...], nested: bool
) -> None:
    """Refuse a scan over discrete latents that no chain elimination can follow.

    Raises
    ------
    InputError : names the site, the reason and the way out.
    """
    where = f"the discrete latent '{latents[0]}' is inside numpyro's `scan`"
    if nested or any(site.get("_control_flow_done") for site in inner.values()):
        raise InputError(
            f"{where}, and one `scan` (or `cond`) stands inside another: that cannot be summed out. Write "
            "the shorter loop in Python, or as a plate if its turns are independent."
        )
    if msg["args"][4]:
        raise InputError(
            f"{where} with reverse=True, which is not followed: reverse the data (`xs[::-1]`) instead."
        )
    if msg["kwargs"].get("history", 1) > 1:
        raise InputError(f"{where} with history={msg['kwargs']['history']}. {SECOND_ORDER}")
    for name, site in inner.items():
        _check_site(name, site, where, latents)
    for kind, data in msg["kwargs"]["substitute_stack"]:
        touched = [name for name in inner if not isinstance(data, Mapping) or name in data]
        if touched:
            raise InputError(
                f"site '{touched[0]}' stands in a `scan` and its value is set from outside (`{kind}`), which "
                "is not followed there: pass the data to the `scan` (`xs`) and to `obs=`."
            )


def _check_site(name: str, site: Mapping[str, Any], where: str, latents: tuple[str, ...]) -> None:
    if site["type"] == "plate":
        size, subsample = site["args"]
        if subsample is not None and subsample != size:
            raise InputError(
                f"{where}, and the plate '{name}' in it is subsampled: a chain cannot be summed over a part "
                "of a plate that changes with every step. Subsample the data before the `scan`."
            )
        return
    if site["type"] == "param":
        raise InputError(f"{where} together with the parameter '{name}': declare it before the `scan`.")
    if not site["is_observed"] and name not in latents:
        raise InputError(
            f"{where} together with the continuous site '{name}', one for each step: draw all steps of "
            f"'{name}' before the `scan`, in a plate, and pass them to it with the data (`xs`)."
        )
    if name in latents and site["fn"].event_dim:
        raise InputError(f"{where} and its values are vectors: write it as a dist.Categorical over its rows.")


class SteadyScan(Messenger):
    """Keep the integer types of every scan's carry."""

    def process_message(self, msg: Any) -> None:
        """Wrap the body of a scan."""
        if is_scan(msg):
            msg["args"] = (_steady(msg["args"][0]), *msg["args"][1:])
