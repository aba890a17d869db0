"""A program run with every site given: its log joint as one table a site, split by the rows of a plate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from numpyro import handlers

from triptych.inference.em.family import Array
from triptych.inference.tracing import tracing

__all__ = ["Split", "log_probabilities", "split_by_rows"]


class Split(NamedTuple):
    """A log joint in nats: `rows` (N,), what belongs to each row of a plate, and `rest`, a scalar."""

    rows: Array
    rest: Array


def log_probabilities(
    program: Callable[..., Any], args: Any, kwargs: Any, values: Mapping[str, Any]
) -> dict[str, tuple[Array, dict[str, int]]]:
    """Run a program with `values` for all its unobserved sites.

    Returns
    -------
    site → (its log probability in nats, plate → axis counted from the right).
    """
    with (
        handlers.block(),
        handlers.trace() as record,
        handlers.substitute(data=dict(values)),
        tracing(program),
    ):
        program(*args, **kwargs)
    found = {}
    for name, site in record.items():
        if site["type"] != "sample":
            continue
        log_prob = site["fn"].log_prob(site["value"])
        if site["scale"] is not None:
            log_prob = log_prob * site["scale"]
        found[name] = (log_prob, {frame.name: frame.dim for frame in site["cond_indep_stack"]})
    return found


def split_by_rows(
    factors: Mapping[str, tuple[Array, Mapping[str, int]]],
    plate: str | None,
    rows: int,
    ignored: frozenset[str] = frozenset(),
) -> Split:
    """Add up the sites that are not `ignored`: by row of `plate`; without one, all in the first row."""
    local, rest = jnp.zeros(rows), jnp.zeros(())
    for name, (log_prob, dims) in factors.items():
        if name in ignored:
            continue
        if plate is None:
            local = local.at[0].add(jnp.sum(log_prob))
        elif plate in dims:
            axis = dims[plate]
            others = tuple(other for other in range(-jnp.ndim(log_prob), 0) if other != axis)
            local = local + jnp.sum(log_prob, axis=others)
        else:
            rest = rest + jnp.sum(log_prob)
    return Split(local, rest)
