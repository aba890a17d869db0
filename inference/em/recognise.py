"""Which programs have log p(x_n, z_n = k | θ) = T(x_n) · η_k(θ) + h(x_n), read off an enumerated run.

All discrete latents are in one plate, that of the rows. A site that hangs on them is one of

    a term      of a known exponential family, with parameters that have one row only: NumPyro's enumeration
                gives them the shape (K, 1, …), so that they hang on z and θ but on no row
    a constant  its log probability itself has one row only: log p(z_n = k | θ)
    an offset   its log probability hangs on the row and on z, but on no parameter (a label that is known)

and what T reads of x must hang on no parameter. The shapes prove it for any θ and any rows; anything else
gives `NotRecognisedError` with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist

from triptych.inference.em.exponential import Exponential, NotRecognisedError, Peeled, log_levels, peel
from triptych.inference.em.family import Array
from triptych.inference.em.row_features import Piece
from triptych.inference.enumeration import log_probability, pack
from triptych.inference.survey import Survey

__all__ = [
    "Layout",
    "NotRecognisedError",
    "Term",
    "coefficients",
    "columns_of",
    "constant_of",
    "offset_of",
    "read_layout",
]

MOST_COMBINATIONS = 64  # of several latents: more are cheaper one by one


class Term(NamedTuple):
    """A data site of an exponential family.

    site : its name. row : the rows' dimension, counted from the right of the batch. columns : shape of one
    row. pieces : statistics, of columns of all terms together. shared : which of them no latent changes.
    """

    site: str
    row: int
    columns: tuple[int, ...]
    pieces: tuple[Piece, ...]
    shared: tuple[bool, ...]


class Layout(NamedTuple):
    """How a program's log joint is put together: see the module's head."""

    latents: tuple[str, ...]
    sizes: tuple[int, ...]
    plate: str
    rows: int
    terms: tuple[Term, ...]
    constants: tuple[str, ...]
    offsets: tuple[str, ...]
    width: int  # columns of all terms together
    reads: Mapping[str, str]  # site → its statistics, in words
    unknown: Mapping[str, str]  # offset → what it must not be if it hangs on a parameter, in words

    @property
    def combinations(self) -> int:
        """K, of all latents together."""
        return math.prod(self.sizes)


def read_layout(record: Mapping[str, Any], sites: Survey, absorbed: tuple[str, ...]) -> Layout:
    """Read how the sites `absorbed` (those that hang on a latent) go together.

    Raises
    ------
    NotRecognisedError : they do not; the text names the site and the reason.
    """
    latents = tuple(sites.latents)
    if not latents:
        raise NotRecognisedError("the program has no discrete latent")
    if sites.scales or sites.random or any(latent.chain for latent in sites.latents.values()):
        raise NotRecognisedError("a plate is subsampled, or a latent is inside a `scan`")
    plates = {latent.plates for latent in sites.latents.values()}
    if len(plates) != 1 or len(next(iter(plates))) != 1:
        raise NotRecognisedError("the discrete latents are not all in one plate of rows, and in no other")
    first = next(iter(sites.latents.values()))
    plate = next(iter(first.plates))
    sizes = tuple(sites.latents[name].size for name in latents)
    if len(latents) > 1 and math.prod(sizes) > MOST_COMBINATIONS:
        raise NotRecognisedError(f"the discrete latents have {math.prod(sizes)} combinations")
    (rows,) = first.shape
    empty = Layout(latents, sizes, plate, rows, (), (), (), 0, {}, {})
    terms, constants, width, reads, unknown = [], [], 0, {}, {}
    for name in absorbed:
        site = record[name]
        row = _row_of(name, site, plate)
        if site["scale"] is not None:
            raise NotRecognisedError(f"site '{name}' is scaled")
        peeled = peel(site["fn"])
        if _is_constant(peeled, site, row, empty, sites):
            constants.append(name)
            reads[name] = "1"
        elif peeled.family is None or peeled.masked or not site["is_observed"]:
            # Whether it hangs on a parameter is for `depends_on` to say.
            kind = "masked" if peeled.masked else "of no family that is known"
            unknown[name] = f"site '{name}' ~ {type(peeled.fn).__name__} is {kind}"
            reads[name] = "a table of its own, which no parameter changes"
        else:
            term = _term(name, site, row, peeled, width, empty, sites)
            terms.append(term)
            width += math.prod(term.columns) * peeled.family.number
            reads[name] = peeled.family.reads
    if not terms:
        raise NotRecognisedError(next(iter(unknown.values()), "no data site hangs on a discrete latent"))
    return empty._replace(
        terms=tuple(terms),
        constants=tuple(constants),
        offsets=tuple(unknown),
        width=width,
        reads=reads,
        unknown=unknown,
    )


def _row_of(name: str, site: Mapping[str, Any], plate: str) -> int:
    frames = {frame.name: frame.dim for frame in site["cond_indep_stack"] if frame.dim is not None}
    if plate not in frames:
        raise NotRecognisedError(f"site '{name}' is outside the plate '{plate}'")
    row = -frames[plate]
    if any(-dim > row for dim in frames.values()):
        raise NotRecognisedError(f"site '{name}' is in a plate around '{plate}'")
    return row


def _is_constant(peeled: Peeled, site: Any, row: int, layout: Layout, sites: Survey) -> bool:
    """Whether a log probability has one row only."""
    if peeled.masked or (site["is_observed"] and jnp.size(site["value"])):
        return False
    try:
        constant_of(peeled, site, row, layout, sites)
    except NotRecognisedError:
        return False
    return True


def constant_of(peeled: Peeled, site: Any, row: int, layout: Layout, sites: Survey) -> Array:
    """Give the log probability of a site without rows, (K…)."""
    name = site["name"]
    if name in layout.latents and type(peeled.fn) in (dist.CategoricalProbs, dist.CategoricalLogits):
        # All values in their order: no need to look each of them up.
        own = layout.latents.index(name)
        table = by_latents(log_levels(peeled.fn), 1, row, site, layout, sites)
        return jnp.moveaxis(jnp.squeeze(table, own), -1, own)
    table = peeled.fn.log_prob(site["value"])
    table = jnp.sum(table, axis=tuple(range(-peeled.events, 0))) if peeled.events else table
    below = row - 1  # batches right of the rows: they add up
    if below and jnp.ndim(table) >= below and peeled.events == 0:
        table = jnp.sum(
            jnp.broadcast_to(table, _with_batch(table, site, below)), axis=tuple(range(-below, 0))
        )
    return by_latents(table, 0, row, site, layout, sites)


def _with_batch(table: Array, site: Any, below: int) -> tuple[int, ...]:
    return (*jnp.shape(table)[:-below], *site["fn"].batch_shape[-below:])


def _term(name: str, site: Any, row: int, peeled: Peeled, start: int, layout: Layout, sites: Survey) -> Term:
    family, fn = peeled.family, site["fn"]
    if family is None:
        raise NotRecognisedError(f"site '{name}' ~ {type(peeled.fn).__name__} is of no family that is known")
    depth = row - 1 + peeled.events + family.event
    columns = (tuple(fn.batch_shape) + tuple(fn.event_shape))[-depth:] if depth else ()
    if family.event and depth != family.event:
        raise NotRecognisedError(f"site '{name}' has several vectors a row")
    value = jnp.shape(site["value"])
    if value != (layout.rows, *columns):
        raise NotRecognisedError(f"site '{name}' has shape {value}, not one value a row and column")
    count, pieces = math.prod(columns), []
    for kind, index in family.statistics:
        levels = jnp.shape(peeled.fn.logits)[-1] if kind == "codes" else 0
        pieces.append(Piece(kind, start + index * count, start + (index + 1) * count, levels))
    term = Term(name, row, columns, tuple(pieces), (False,) * len(pieces))
    unmoved = (jnp.zeros(columns),) * family.number, (jnp.ones(columns),) * family.number
    _, found = coefficients(term, family, peeled.fn, *unmoved, site, layout, sites)
    shared = tuple(all(size == 1 for size in jnp.shape(one)[:-1]) for one in found)
    return term._replace(shared=shared)


def columns_of(term: Term, site: Mapping[str, Any]) -> tuple[Array, Array]:
    """Give the columns that a term reads, (N, C), and h summed over a row, (N,)."""
    peeled = peel(site["fn"])
    family: Any = peeled.family
    value = jnp.asarray(site["value"])
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(float)
    rows = len(value)
    columns = [jnp.reshape(one, (rows, -1)) for one in family.columns(peeled.fn, value)]
    if family.base is None:
        return jnp.concatenate(columns, axis=1), jnp.zeros(rows)
    base = jnp.reshape(family.base(peeled.fn, value.astype(float)), (rows, -1))
    return jnp.concatenate(columns, axis=1), jnp.sum(base, axis=1)


def offset_of(name: str, site: Mapping[str, Any], layout: Layout, sites: Survey) -> Array:
    """Give the table of a site that no parameter changes, (N, K)."""
    factor = pack(log_probability(site, sites.scales, None), site, sites, False)
    order = [axis for axis in (layout.plate, *layout.latents) if axis in factor.axes]
    if set(order) != set(factor.axes):  # plates right of the rows
        extra = tuple(i for i, axis in enumerate(factor.axes) if axis not in order)
        axes = [axis for axis in factor.axes if axis in order]
        table = jnp.sum(factor.table, axis=extra)
    else:
        axes, table = list(factor.axes), factor.table
    table = jnp.transpose(table, [axes.index(axis) for axis in order])
    shape = [n if a in order else 1 for a, n in zip(layout.latents, layout.sizes, strict=True)]
    table = jnp.broadcast_to(jnp.reshape(table, (layout.rows, *shape)), (layout.rows, *layout.sizes))
    return jnp.reshape(table, (layout.rows, layout.combinations))


def coefficients(
    term: Term,
    family: Exponential,
    fn: Any,
    centres: tuple[Array, ...],
    scales: tuple[Array, ...],
    site: Mapping[str, Any],
    layout: Layout,
    sites: Survey,
) -> tuple[Array, list[Array]]:
    """Give A summed over a row's columns, (K…), and the coefficients of each piece, (K…, width).

    K is 1 where a latent does not change them.

    Raises
    ------
    NotRecognisedError : a parameter hangs on the row.
    """
    constant, found = family.natural(fn, centres, scales)
    if family.event:
        total = by_latents(constant, 0, term.row, site, layout, sites)
    else:
        total = jnp.sum(_flat(constant, term.columns, 0, term, site, layout, sites), axis=-1)
    parts = []
    for piece, one in zip(term.pieces, found, strict=True):
        if family.event:
            values = by_latents(one, 2 if piece.kind == "outer" else 1, term.row, site, layout, sites)
        else:
            values = _flat(one, term.columns, int(piece.kind == "codes"), term, site, layout, sites)
        parts.append(piece.coefficients(values))
    return total, parts


def _flat(
    values: Array, columns: tuple[int, ...], more: int, term: Term, site: Any, layout: Layout, sites: Survey
) -> Array:
    """Give (K…, C) or, with `more` = 1 axis behind, (K…, C, levels), from (…, row, columns…, levels)."""
    values = jnp.asarray(values)
    behind = values.shape[values.ndim - more :]
    tail = (*columns, *behind)
    lead = values.shape[: max(values.ndim - len(tail), 0)]
    values = jnp.broadcast_to(values, (*lead, *tail))
    values = by_latents(values, len(tail), term.row, site, layout, sites)
    return jnp.reshape(values, (*values.shape[: len(layout.latents)], math.prod(columns), *behind))


def by_latents(
    values: Array, behind: int, row: int, site: Mapping[str, Any], layout: Layout, sites: Survey
) -> Array:
    """Give an array (…, row, `behind` axes) one axis a latent in place of `…` and the row."""
    values = jnp.asarray(values)
    lead = values.ndim - behind
    names = site["infer"]["dim_to_name"]
    kept: list[str] = []
    for axis in range(lead):
        dim, size = axis - lead - row + 1, values.shape[axis]
        if size == 1:
            continue
        if dim >= -sites.nesting or names.get(dim) not in layout.latents:
            what = f"site '{site['name']}' ~ {type(peel(site['fn']).fn).__name__}"
            raise NotRecognisedError(f"{what} has parameters that change with the row")
        kept.append(names[dim])
    tail = values.shape[lead:]
    values = jnp.reshape(values, (*(size for size in values.shape[:lead] if size > 1), *tail))
    order = [name for name in layout.latents if name in kept]
    values = jnp.transpose(values, [*(kept.index(n) for n in order), *range(len(kept), values.ndim)])
    sizes = [n if a in order else 1 for a, n in zip(layout.latents, layout.sizes, strict=True)]
    return jnp.reshape(values, (*sizes, *tail))
