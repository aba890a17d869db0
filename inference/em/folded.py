"""The E-step of a program that is a table of features times natural parameters: a fold over rows, as by hand.

    log p(x_n, z_n = k | θ) = T(x_n) · η_k(θ) + B(x_n) · c(θ) + h(x_n)

T is computed chunk by chunk, η by running the program at θ without looking at its rows, and the posterior
that the M-step is given is the sums S = Σ_n T(x_n) r_nᵀ (`fold.py`). So

    Q(θ') = Σ S ∘ η(θ') + Σ_n B(x_n) · c(θ') + Σ_n h(x_n) + log p(θ')

costs nothing in the rows, whatever the M-step does with it. Which programs are of this form is found out in
`recognise.py` and `fold_check.py`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from triptych.inference.em.expected import Joint
from triptych.inference.em.exponential import peel
from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, fold_at, over_chunks
from triptych.inference.em.recognise import (
    Layout,
    coefficients,
    columns_of,
    constant_of,
    offset_of,
)
from triptych.inference.em.row_features import Piece, RowFamily, statistics_of
from triptych.inference.em.transposed_rows import TransposedRows
from triptych.inference.em.unindexed import unindexed
from triptych.inference.survey import Survey, some_values

__all__ = ["ABYSS", "FoldedStep", "Prepared"]

ABYSS = 1e25  # stands for an infinite logarithm: times 0 it is 0, and it is within float32


class Prepared(NamedTuple):
    """A program's arguments and what is had of them once.

    rows : (N, C) the columns that T reads; one enters as (x − centre) · scale, and transposed ones are that
    already. totals : Σ_n B(x_n), a shared piece each. base : Σ_n h(x_n), nats. fine : whether every row is
    finite and within its site's support.
    """

    args: Any
    kwargs: Any
    rows: Array | TransposedRows
    centre: Array
    scale: Array
    totals: tuple[Array, ...]
    base: Array
    fine: Array


class Natural(NamedTuple):
    """At θ: η (F, K); c, a shared piece each; log probability of what hangs on no latent (nats)."""

    table: Array
    shared: tuple[Array, ...]
    rest: Array


@dataclasses.dataclass(frozen=True, eq=False)
class FoldedStep:
    """The exact E-step as sums over rows; compared by identity, so that it can be static in `jax.jit`."""

    joint: Joint
    layout: Layout

    @property
    def sites(self) -> Survey:
        """The program's sites."""
        return self.joint.sites

    def without(self, ignored: frozenset[str]) -> FoldedStep:
        """Give the same with the sites `ignored` left out."""
        return dataclasses.replace(self, joint=self.joint.without(ignored))

    @property
    def family(self) -> RowFamily:
        """T(x) of the columns."""
        layout = self.layout
        pieces = [
            piece
            for term in layout.terms
            for piece, shared in zip(term.pieces, term.shared, strict=True)
            if not shared
        ]
        K = layout.combinations
        for index in range(len(layout.offsets)):
            start = layout.width + index * K
            pieces.append(Piece("linear", start, start + K))
        return RowFamily(K, tuple(pieces))

    @partial(jax.jit, static_argnums=0)
    def prepare(self, args: Any, kwargs: Any) -> Prepared:
        """Read off the rows what needs no parameter."""
        layout, sites = self.layout, self.sites
        record = self.record(some_values(sites), args, kwargs)
        centres, scales, base, fine = [], [], jnp.zeros(()), jnp.asarray(True)
        for term in layout.terms:
            site = record[term.site]
            columns, h = columns_of(term, site)
            family: Any = peel(site["fn"]).family
            width = columns.shape[1]
            centre, scale = jnp.zeros(width), jnp.ones(width)
            if family.moved:
                centre = jnp.mean(columns, axis=0, dtype=float)
                spread = jnp.sqrt(jnp.mean((columns - centre) ** 2, axis=0, dtype=float))
                scale = jnp.where(spread > 0, 1.0 / jnp.where(spread > 0, spread, 1.0), 1.0)
            centres.append(centre)
            scales.append(scale)
            base += jnp.sum(h)
            inside = peel(site["fn"]).fn.support(site["value"])
            fine = fine & jnp.all(inside) & jnp.all(jnp.isfinite(columns)) & jnp.all(jnp.isfinite(h))
        for _ in layout.offsets:
            centres.append(jnp.zeros(layout.combinations))
            scales.append(jnp.ones(layout.combinations))
        rows = self.columns(record)
        # As wide as the rows are: the coefficients must know the numbers that the rows were moved by.
        centre, scale = (jnp.concatenate(one).astype(rows.dtype) for one in (centres, scales))
        base = jnp.where(fine, base, -jnp.inf)
        held = rows if self.family.plain else TransposedRows(((rows - centre) * scale).T)
        prepared = Prepared(args, kwargs, held, centre, scale, (), base, fine)
        return prepared._replace(totals=self._totals(prepared))

    def columns(self, record: dict[str, Any]) -> Array:
        """Give the columns that T reads, (N, C), as they are in the data."""
        parts = [columns_of(term, record[term.site])[0] for term in self.layout.terms]
        for name in self.layout.offsets:
            table = offset_of(name, record[name], self.layout, self.sites)
            parts.append(jnp.clip(table, -ABYSS, ABYSS))
        return jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def _totals(self, prepared: Prepared) -> tuple[Array, ...]:
        """Σ_n B(x_n) of the statistics that no responsibility weighs."""
        pieces = [
            piece
            for term in self.layout.terms
            for piece, shared in zip(term.pieces, term.shared, strict=True)
            if shared
        ]
        if not pieces:
            return ()
        problem = self._problem(prepared, RowFamily(1, tuple(pieces)))
        return over_chunks(
            problem, lambda rows, *_: tuple(jnp.sum(statistics_of(rows, p), axis=1) for p in pieces)
        )

    def _problem(self, prepared: Prepared, family: Any, weights: Array | None = None) -> MixtureProblem:
        """Give what a fold reads; its parts that are for closed-form M-steps are empty."""
        nothing: Any = ()
        return MixtureProblem(
            rows=prepared.rows,
            weights=weights,
            labels=None,
            centre=prepared.centre,
            inverse_scale=prepared.scale,
            totals=jnp.zeros(()),
            hyper=nothing,
            constant=jnp.zeros(()),
            family=family,
            with_prior=False,
        )

    def record(self, parameters: Parameters, args: Any, kwargs: Any) -> dict[str, Any]:
        """Run the program at θ, its latents enumerated: site → what it records."""
        from triptych.inference.enumeration import trace_enumerated

        return trace_enumerated(self.joint.program, args, kwargs, self.sites, parameters)[0]

    @partial(jax.jit, static_argnums=0)
    def natural(self, parameters: Parameters, prepared: Prepared) -> Natural:
        """Run the program at θ for its natural parameters: what it does with its rows is left out by XLA."""
        return unindexed(self._natural)(parameters, prepared)

    def _natural(self, parameters: Parameters, prepared: Prepared) -> Natural:
        from triptych.inference.enumeration import log_probability

        layout, sites, joint = self.layout, self.sites, self.joint
        record = self.record(parameters, prepared.args, prepared.kwargs)
        constant = jnp.zeros(layout.sizes)
        parts, shared, rest = [], [], jnp.zeros(())
        centres, scales = prepared.centre.astype(float), prepared.scale.astype(float)
        for term in layout.terms:
            site = record[term.site]
            peeled = peel(site["fn"])
            family: Any = peeled.family
            places = dict(zip((index for _, index in family.statistics), term.pieces, strict=True))
            spans = [slice(places[index].start, places[index].stop) for index in sorted(places)]
            middle, unit = (
                tuple(jnp.reshape(values[span], term.columns) for span in spans)
                for values in (centres, scales)
            )
            total, found = coefficients(term, family, peeled.fn, middle, unit, site, layout, sites)
            constant = constant + total
            for one, alone in zip(found, term.shared, strict=True):
                if alone:
                    shared.append(jnp.ravel(one))
                else:
                    whole = jnp.broadcast_to(one, (*layout.sizes, one.shape[-1]))
                    parts.append(jnp.reshape(whole, (layout.combinations, -1)).T)
        for name in layout.constants:
            site = record[name]
            row = next(-frame.dim for frame in site["cond_indep_stack"] if frame.name == layout.plate)
            constant = constant + constant_of(peel(site["fn"]), site, row, layout, sites)
        parts += [jnp.eye(layout.combinations)] * len(layout.offsets)
        for name, site in record.items():
            if site["type"] == "sample" and name not in joint.absorbed and name not in joint.ignored:
                rest = rest + jnp.sum(log_probability(site, sites.scales, None))
        table = jnp.concatenate([jnp.reshape(constant, (1, -1)), *parts])
        return Natural(jnp.clip(table, -ABYSS, ABYSS), tuple(shared), rest)

    def _ready(self, args: Any, kwargs: Any) -> Prepared:
        return args if isinstance(args, Prepared) else self.prepare(args, kwargs)

    def infer(
        self, parameters: Parameters, args: Any, kwargs: Any, sharpness: Any = 1.0
    ) -> tuple[Statistics, Array]:
        """E-step: the expected statistics, and the objective at θ (nats); see `Joint.infer`."""
        prepared = self._ready(args, kwargs)
        natural = self.natural(parameters, prepared)
        statistics, value = fold_at(self._problem(prepared, self.family), natural.table * sharpness)
        return statistics, value + self._beside(natural, prepared)

    def _beside(self, natural: Natural, prepared: Prepared) -> Array:
        """Give what no responsibility weighs, nats."""
        pairs = zip(natural.shared, prepared.totals, strict=True)
        return sum((jnp.sum(c * total) for c, total in pairs), start=natural.rest + prepared.base)

    def expected(self, parameters: Parameters, posterior: Statistics, args: Any, kwargs: Any) -> Array:
        """Q(θ'): the expected log joint under the sums `posterior` (nats)."""
        prepared = self._ready(args, kwargs)
        natural = self.natural(parameters, prepared)
        return jnp.sum(posterior.sums * natural.table) + self._beside(natural, prepared)

    def noise(self, key: jax.Array, scale: Any, parameters: Parameters, args: Any, kwargs: Any) -> Statistics:
        """Give the sums of random responsibilities: those of Gaussian noise, the same as `Joint.noise`'s."""
        del parameters
        prepared, layout = self._ready(args, kwargs), self.layout
        keys = jax.random.split(key, max(len(self.joint.absorbed), 1))
        logits = jnp.zeros((layout.rows, *layout.sizes))
        for index, (name, K) in enumerate(zip(layout.latents, layout.sizes, strict=True)):
            place = self.joint.absorbed.index(name)
            noise = scale * jax.random.normal(keys[place], (K, layout.rows))
            shape = [K if i == index else 1 for i in range(len(layout.latents))]
            logits = logits + jnp.reshape(noise.T, (layout.rows, *shape))
        logits = jnp.reshape(logits, (layout.rows, layout.combinations))
        responsibilities = jax.nn.softmax(logits, axis=1).astype(prepared.rows.dtype)
        family = self.family
        problem = self._problem(prepared, family, responsibilities)
        sums = over_chunks(problem, lambda rows, r, _: family.features(rows) @ jnp.asarray(r))
        return Statistics(sums, jnp.zeros(()))
