"""The factors of a `scan` over discrete latents: the body traced twice, whatever the number of steps.

A first-order chain's log joint is Σ_t f_t(z_{t−1}, z_t). The body is run once as it begins, and once with
every value of the latents of the step before, as they come in through the carry; all later steps are that
same computation, mapped over time. What the carry holds besides the latents (a counter, the last
observation) is worked out first, by a plain scan. What the carry makes of a latent must be a function of that
step's latents alone, elementwise: that is what first order means, and it is checked on the jaxpr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from numpyro.ops.pytree import PytreeTrace

from triptych.inference.enumeration import Factor
from triptych.inference.plan import depends_on
from triptych.inference.scans import SECOND_ORDER, Chain, before, first_step, plain_run, step_inputs
from triptych.inference.survey import Survey
from triptych.models.errors import InputError

__all__ = ["Body", "Frame", "chain_factors"]

Body = Callable[[Any, Any, Sequence[Any]], tuple[Any, Any, dict[str, Factor]]]


class Frame(NamedTuple):
    """A chain, and the dimension (from the right) of each latent, of this step and of the one before.

    `probes` are zeros that follow what depends on the latents; `values` counts each latent's.
    """

    chain: Chain
    dims: Mapping[str, int]
    dims_before: Mapping[str, int]
    probes: tuple[Any, ...]
    values: Mapping[str, int]

    def sizes(self, latents: Sequence[str]) -> list[tuple[int, int]]:
        """Give (dimension, number of values) of each latent."""
        return [(self.dims[name], self.values[name]) for name in latents]


class _Traced(NamedTuple):
    """One run of the body as a function of its inputs: carry, data of the step, probes of the latents.

    `reach` gives, for each output (carry, ys, tables), the positions of the inputs it is computed from.
    """

    function: Callable[..., Any]
    reach: list[frozenset[int]]
    factors: dict[str, Factor]
    carried: int
    inputs: int
    ys: Any

    @property
    def outputs(self) -> int:
        """The number of arrays that a step hands back, the carry aside."""
        return self.ys.num_leaves

    def latents_of(self, output: int, frame: Frame) -> tuple[str, ...]:
        """Give the latents of this step that an output is computed from."""
        start = self.carried + self.inputs
        return tuple(name for i, name in enumerate(frame.chain.latents) if start + i in self.reach[output])


def _trace(body: Body, structure: Any, leaves: list[Any], x: Any, frame: Frame) -> _Traced:
    found: dict[str, Any] = {}

    def run(leaves: list[Any], x: Any, probes: Sequence[Any]) -> list[Any]:
        following, y, factors = body(jax.tree.unflatten(structure, leaves), x, probes)
        out, new_structure = jax.tree.flatten(following)
        if new_structure != structure:
            raise InputError(
                f"the `scan` over '{frame.chain.latents[0]}' returns a carry of another structure than it "
                f"began with: {new_structure} after {structure}."
            )
        ys, found["ys"] = jax.tree.flatten(y)
        found["factors"] = factors
        return [*map(jnp.asarray, [*out, *ys]), *(factor.table for factor in factors.values())]

    closed = jax.make_jaxpr(run)(leaves, x, [0] * len(frame.chain.latents))
    return _Traced(
        jaxpr_as_fun(closed),
        depends_on(closed.jaxpr),
        found["factors"],
        len(leaves),
        len(jax.tree.leaves(x)),
        found["ys"],
    )


def chain_factors(
    msg: Mapping[str, Any], body: Body, frame: Frame, sites: Survey
) -> tuple[dict[str, Factor], Any]:
    """Give the factors of a scan, and what it hands back to the program.

    Returns
    -------
    Name → factor: "site[1]" of the first step, "site" of all later ones; and the scan's value, in which
    everything that hangs on no latent is right, and what does is only a mark by which its use is found.

    Raises
    ------
    InputError : the chain is not of first order, or the body mixes the values of a latent.
    """
    chain = frame.chain
    _, at = step_inputs(msg)
    leaves, structure = jax.tree.flatten(msg["args"][1])
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    start = _trace(body, structure, leaves, at(0), frame)
    hangs = [start.latents_of(i, frame) for i in range(len(leaves))]
    _check_order(start, hangs, frame)
    _check_values(start, [()] * len(leaves), frame)
    tables = start.function(*leaves, *jax.tree.leaves(at(0)), *frame.probes)[len(leaves) + start.outputs :]
    factors = {}
    for table, (name, factor) in zip(tables, start.factors.items(), strict=True):
        factors[first_step(name)] = factor._replace(table=table, chain=chain.name)
    marked = [start.latents_of(len(leaves) + i, frame) for i in range(start.outputs)]
    if chain.steps > 1:
        carries, moving = _carries(msg, start, leaves, hangs, frame)
        example = [carry[0] if moves else carry for carry, moves in zip(carries, moving, strict=True)]
        later = _trace(body, structure, example, at(1), frame)
        _check_order(later, hangs, frame)
        _check_values(later, hangs, frame)
        factors |= _later_factors(later, carries, moving, at(slice(1, None)), frame, sites)
        marked = [
            also + tuple(name for j in later.reach[len(leaves) + i] if j < len(leaves) for name in hangs[j])
            for i, also in enumerate(marked)
        ]
    if all(hangs) and all(marked):  # nothing but marks to hand back: any values do
        final = _mark(msg["args"][1], hangs, frame)
        ys = jax.tree.unflatten(start.ys, [jnp.zeros(chain.steps)] * start.outputs)
        return factors, ((chain.steps, None, final), (PytreeTrace({}), _mark(ys, marked, frame)))
    wrapped, (nothing, ys) = plain_run(msg, {name: sites.latents[name].values for name in chain.latents})
    return factors, (
        (*wrapped[:2], _mark(wrapped[2], hangs, frame)),
        (nothing, _mark(ys, marked, frame)),
    )


def _mark(tree: Any, hangs: Sequence[tuple[str, ...]], frame: Frame) -> Any:
    """Make what hangs on a latent depend on the latent's probe, so that its use elsewhere is refused."""
    leaves, structure = jax.tree.flatten(tree)
    probes = dict(zip(frame.chain.latents, frame.probes, strict=True))
    marked = []
    for leaf, names in zip(leaves, hangs, strict=True):
        probe = sum((probes[name] for name in names), start=0)
        marked.append(jnp.where(jnp.asarray(probe) == 0, leaf, leaf) if names else leaf)
    return jax.tree.unflatten(structure, marked)


def _check_order(traced: _Traced, hangs: Sequence[tuple[str, ...]], frame: Frame) -> None:
    for output in range(len(hangs)):
        for j, names in enumerate(hangs):
            if names and j in traced.reach[output]:
                raise InputError(
                    f"the `scan` carries what it made of the discrete latent '{names[0]}' of an earlier step "
                    f"on to the next one, so that '{frame.chain.latents[-1]}' hangs on more than one step. "
                    + SECOND_ORDER
                )


def _check_values(traced: _Traced, hangs: Sequence[tuple[str, ...]], frame: Frame) -> None:
    """Refuse a site in which the values of a latent that it is computed from cannot be told apart."""
    first = traced.carried + traced.outputs
    for output, (site, factor) in enumerate(traced.factors.items(), start=first):
        came_before = {n for j in traced.reach[output] if j < traced.carried for n in hangs[j]}
        for axis, latent in [
            *((name, name) for name in traced.latents_of(output, frame)),
            *((before(name), name) for name in came_before),
        ]:
            if axis not in factor.axes and frame.values[latent] > 1:
                raise InputError(
                    f"site '{site}' depends on the discrete latent '{latent}' through an operation that "
                    "mixes its values (a sum, mean or sort over them), so that it cannot be summed out. Use "
                    f"'{latent}' only elementwise and as an index, as in `means[{latent}]`."
                )


def _carries(
    msg: Mapping[str, Any],
    start: _Traced,
    leaves: list[Any],
    hangs: Sequence[tuple[str, ...]],
    frame: Frame,
) -> tuple[list[Any], list[bool]]:
    """Give what the carry holds as steps 2, …, T begin, and whether it changes with time (a leading axis).

    A latent comes as all its values, along the axis of the step before.
    """
    steps, at = step_inputs(msg)
    zeros = [0] * len(frame.probes)
    others = [i for i, names in enumerate(hangs) if not names]
    entering: dict[int, Any] = {}

    def run(values: Sequence[Any], x: Any, probes: Sequence[Any]) -> Any:
        given = list(leaves)
        for i, value in zip(others, values, strict=True):
            given[i] = value
        return start.function(*given, *jax.tree.leaves(x), *probes)

    def advance(values: list[Any], x: Any) -> tuple[list[Any], list[Any]]:
        out = run(values, x, zeros)
        following = [_like(out[i], leaves[i], frame) for i in others]
        return following, following

    now = [leaves[i] for i in others]
    if others:
        _, after = jax.lax.scan(advance, now, at(slice(None, -1)), length=steps - 1)
        entering = dict(zip(others, after, strict=True))
        now = [jnp.concatenate([leaf[None], value[:-1]]) for leaf, value in zip(now, after, strict=True)]
    changing = {*others, *range(start.carried, start.carried + start.inputs)}
    carries, moving = [], []
    for i, names in enumerate(hangs):
        if not names:
            carries.append(entering[i])
        elif start.reach[i] & changing:
            table = jax.vmap(lambda values, x, i=i: run(values, x, frame.probes)[i])(now, at(slice(None, -1)))
            carries.append(jax.vmap(lambda value, names=names: _move(value, names, frame))(table))
        else:
            carries.append(_move(run([leaves[i] for i in others], at(0), frame.probes)[i], names, frame))
        moving.append(not names or bool(start.reach[i] & changing))
    return carries, moving


def _like(new: Any, old: Any, frame: Frame) -> Any:
    if jnp.size(new) != jnp.size(old):
        raise InputError(
            f"the `scan` over '{frame.chain.latents[0]}' changes the shape of its carry from "
            f"{jnp.shape(old)} to {jnp.shape(new)}: begin with a carry of the shape that the body returns."
        )
    return jnp.asarray(new, old.dtype).reshape(old.shape)


def _move(value: Any, names: Sequence[str], frame: Frame) -> Any:
    """Turn a carried value, a function of this step's latents, into one of the step before."""
    depth = max(-frame.dims[name] for name in names)
    kept = all(jnp.ndim(value) >= -d and jnp.shape(value)[d] == size for d, size in frame.sizes(names))
    if jnp.ndim(value) > depth or not kept:
        raise InputError(
            f"the `scan` carries an array of shape {jnp.shape(value)} made of the discrete latent "
            f"'{names[0]}': carry '{names[0]}' itself, and index with it in the next step."
        )
    depth = max(depth, *(-frame.dims_before[name] for name in names))
    value = jnp.reshape(value, (1,) * (depth - jnp.ndim(value)) + jnp.shape(value))
    for name in names:
        value = jnp.swapaxes(value, frame.dims[name], frame.dims_before[name])
    return value


def _later_factors(
    traced: _Traced, carries: list[Any], moving: list[bool], xs: Any, frame: Frame, sites: Survey
) -> dict[str, Factor]:
    """Map the body over steps 2, …, T; a table that does not change with time stays as small as it is."""
    chain, first = frame.chain, traced.carried + traced.outputs
    changing = {i for i, moves in enumerate(moving) if moves}
    changing |= set(range(traced.carried, traced.carried + traced.inputs))
    timed = [bool(traced.reach[first + i] & changing) for i in range(len(traced.factors))]

    def step(carry: list[Any], x: Any) -> tuple[Any, ...]:
        return tuple(traced.function(*carry, *jax.tree.leaves(x), *frame.probes)[first:])

    in_axes = ([0 if moves else None for moves in moving], 0)
    if changing:
        tables = jax.vmap(step, in_axes, tuple(0 if one else None for one in timed))(carries, xs)
    else:
        tables = step(carries, xs)
    factors = {}
    for (name, factor), table, one in zip(traced.factors.items(), tables, timed, strict=True):
        axes = ({chain.name: chain.steps - 1} if one else {}) | dict(factor.axes)
        names = (*sites.latents, *map(before, chain.latents))
        latents = dict.fromkeys(axis.removesuffix(before("")) for axis in axes if axis in names)
        factors[name] = Factor(table, axes, tuple(latents), factor.plates, chain.name, chain.steps - 1)
    return factors
