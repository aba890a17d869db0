"""Whether a program is a table of features times natural parameters: read off it, then checked in numbers.

`recognise.py` proves the form site by site; that no feature hangs on a parameter is read off the program's
trace; and on some of the rows the table T(x) · η is compared with the program's own densities.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.expected import Joint
from triptych.inference.em.exponential import peel
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.folded import ABYSS, FoldedStep, Prepared
from triptych.inference.em.recognise import (
    Layout,
    NotRecognisedError,
    by_latents,
    columns_of,
    constant_of,
    offset_of,
    read_layout,
)
from triptych.inference.em.row_features import statistics_of
from triptych.inference.plan import depends_on

__all__ = ["folded"]

CHECKED = 32  # rows on which the table is compared with the program's own
AGREEMENT = 1e-9  # of the largest terms that went into a cell


def folded(joint: Joint, args: Any, kwargs: Any, point: Parameters) -> FoldedStep:
    """Give the E-step of a program as a fold over its rows; at `point` the table is compared with its own.

    Raises
    ------
    NotRecognisedError : the program is not of this form; the text says why.
    """
    from triptych.inference.enumeration import trace_enumerated

    sites = joint.sites
    found: dict[str, Any] = {}

    def run(theta: Parameters) -> list[Array]:
        record = trace_enumerated(joint.program, args, kwargs, sites, theta)[0]
        layout = found["layout"] = read_layout(record, sites, joint.absorbed)
        read = [
            jnp.concatenate([jnp.ravel(one) for one in columns_of(t, record[t.site])]) for t in layout.terms
        ]
        return read + [offset_of(name, record[name], layout, sites) for name in layout.offsets]

    shapes = {name: jax.ShapeDtypeStruct(site.shape, float) for name, site in sites.parameters.items()}
    reached = depends_on(jax.make_jaxpr(run)(shapes).jaxpr)
    layout: Layout = found["layout"]
    for name, positions in zip([t.site for t in layout.terms] + list(layout.offsets), reached, strict=True):
        if not positions:
            continue
        if name in layout.offsets:
            raise NotRecognisedError(layout.unknown[name])
        raise NotRecognisedError(f"what is observed at site '{name}' hangs on a parameter")
    step = FoldedStep(joint, layout)
    prepared = step.prepare(args, kwargs)
    if not bool(prepared.fine):
        raise NotRecognisedError("a row has a cell that is not finite, or outside its site's support")
    chosen = np.unique(np.linspace(0, layout.rows - 1, CHECKED).astype(int))
    direct, table, size = (np.asarray(one) for one in compared(step, point, prepared, chosen))
    alive = direct > -0.1 * ABYSS
    worst = np.max(np.abs(direct - table) / np.maximum(size, 1.0), initial=0.0, where=alive)
    if not (np.all(np.isfinite(size)) and worst < AGREEMENT and np.all(table[~alive] < -0.01 * ABYSS)):
        raise NotRecognisedError("the table of features differs from the program's own densities")
    return step


@partial(jax.jit, static_argnums=0)
def compared(
    step: FoldedStep, parameters: Parameters, prepared: Prepared, chosen: Array
) -> tuple[Array, Array, Array]:
    """Give log p(x_n, z_n = k) of some rows by the program's densities and by T · η, and Σ |T η|."""
    layout, sites = step.layout, step.sites
    record = step.record(parameters, prepared.args, prepared.kwargs)
    natural = step.natural(parameters, prepared)
    rows, centre, scale = (
        jnp.asarray(one, float) for one in (step.columns(record)[chosen], prepared.centre, prepared.scale)
    )
    rows = (rows - centre) * scale  # in double precision, whatever the fold's
    features = jnp.asarray(step.family.features(rows))
    coefficient = jnp.asarray(natural.table)
    table, size = features.T @ coefficient, jnp.abs(features.T) @ jnp.abs(coefficient)
    alone = iter(natural.shared)
    direct = jnp.zeros((len(chosen), layout.combinations))
    for term in layout.terms:
        site = record[term.site]
        peeled = peel(site["fn"])
        own = hasattr(peeled.fn, "total_count")  # trials may be one number a row
        logs = peeled.fn.log_prob(site["value"] if own else site["value"][chosen])
        depth = len(term.columns) - (peeled.family.event if peeled.family else 0)
        logs = jnp.sum(logs, axis=tuple(range(-depth, 0))) if depth else logs
        logs = logs[..., chosen] if own else logs
        direct += _one_table(step, logs, len(chosen), term.row, site)
        for piece, shared in zip(term.pieces, term.shared, strict=True):
            if shared:
                c, statistics = next(alone), statistics_of(rows, piece)
                table += (c @ statistics)[:, None]
                size += (jnp.abs(c) @ jnp.abs(statistics))[:, None]
        table += columns_of(term, site)[1][chosen][:, None]
    for name in layout.constants:
        site = record[name]
        row = next(-frame.dim for frame in site["cond_indep_stack"] if frame.name == layout.plate)
        value = constant_of(peel(site["fn"]), site, row, layout, sites)
        direct += jnp.reshape(jnp.broadcast_to(value, layout.sizes), (1, -1))
    for name in layout.offsets:
        direct += jnp.clip(offset_of(name, record[name], layout, sites)[chosen], -ABYSS, ABYSS)
    return direct, table, size


def _one_table(step: FoldedStep, logs: Array, rows: int, row: int, site: Any) -> Array:
    """Give log probabilities (…, rows) of a term as (rows, K)."""
    logs = jnp.asarray(logs)
    spread = jnp.moveaxis(logs, -1, 0) if logs.ndim else logs
    parts = jax.vmap(lambda one: by_latents(one[..., None], 0, row, site, step.layout, step.sites))(
        jnp.broadcast_to(spread, (rows, *spread.shape[1:]))
    )
    return jnp.reshape(jnp.broadcast_to(parts, (rows, *step.layout.sizes)), (rows, -1))
