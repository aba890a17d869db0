"""Which exact E-step continuous latents have: Gaussian is proved, Gamma and independent rows are verified."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.closed_form import AGREEMENT
from triptych.inference.em.completed import Split, log_probabilities, split_by_rows
from triptych.inference.em.conditional_step import ConditionalStep
from triptych.inference.em.degree import degree_in
from triptych.inference.em.family import Array, Parameters
from triptych.inference.plan import depends_on
from triptych.inference.survey import Survey
from triptych.models.errors import InputError

__all__ = ["common_plate", "conditional_step", "is_real"]

SMALL = 1e-9  # relative size below which a difference counts as none
LARGEST_DENSE = 1000  # coordinates of latents that all meet: a Hessian and its factor in memory
OTHERWISE = (
    "Integrate it approximately with `e_step='variational'` or 'monte_carlo', leave it out of `latents` (it "
    "is then maximised), or fit the program by SVI or MCMC."
)


def conditional_step(
    program: Callable[..., Any],
    sites: Survey,
    latents: tuple[str, ...],
    parameters: Parameters,
    args: Any,
    kwargs: Any,
    ignored: frozenset[str],
) -> ConditionalStep:
    """Find the exact E-step of the latents: their family, and the plate whose rows do not meet.

    Raises
    ------
    InputError : there is none (the site and the reason are named), or the latents are too many for one block.
    """
    named = ", ".join(f"'{name}'" for name in latents)
    if sites.scales or sites.random:
        plate = next(iter({**sites.scales, **sites.random}))
        raise InputError(
            f"the plate '{plate}' is subsampled: EM needs all its rows to integrate {named} out. Call the "
            "program without `subsample_size`."
        )
    whole = ConditionalStep(program, sites, latents, ignored, "", None, 1, tuple(sites.latents))
    family = _family(whole, parameters, args, kwargs, named)
    step = _by_rows(dataclasses.replace(whole, family=family), parameters, args, kwargs)
    if step.plate is None and sites.latents:
        discrete = ", ".join(f"'{name}'" for name in sites.latents)
        raise InputError(
            f"the latents {named} and the discrete {discrete} have no exact posterior together: that needs "
            "all of them in one and the same plate, each row's data hanging on its own row alone. The "
            f"discrete half alone is exact: leave {named} out of `latents`; or choose `e_step='variational'` "
            "or 'monte_carlo', which sum the discrete half out exactly."
        )
    if step.plate is None and family == "gaussian" and step.shape[1] > LARGEST_DENSE:
        raise InputError(
            f"the latents {named} have {step.shape[1]} coordinates that meet: above {LARGEST_DENSE} one "
            "exact Gaussian is too large. Put independent ones in a plate of their own."
        )
    return step


def _family(step: ConditionalStep, parameters: Parameters, args: Any, kwargs: Any, named: str) -> str:
    """Prove the latents Gaussian given the rest, or verify that they are Gamma."""
    from numpyro.distributions import constraints

    supports = [_base(step.sites.parameters[name].support) for name in step.latents]
    start = {name: jnp.ones(step.sites.parameters[name].shape) for name in step.latents}

    def total(latents: Mapping[str, Array], choice: Array) -> Array:
        values = {**parameters, **latents, **_constant(step, choice)}
        factors = log_probabilities(step.program, args, kwargs, values)
        return split_by_rows(factors, None, 1, step.ignored).rows[0]

    if all(is_real(support) for support in supports):
        certificate = degree_in(total, start, jnp.zeros((), int))
        if certificate.degree <= 2:
            return "gaussian"
        found = certificate.culprit or f"a product of degree {certificate.degree:.0f}"
        reason = f"Gaussian given the rest: the log joint is not quadratic in it ({found})"
    elif all(support in (constraints.positive, constraints.nonnegative) for support in supports):
        if _is_gamma(total, start, step.combinations):
            return "gamma"
        reason = "Gamma given the rest: the log joint is not a combination of log u and u, element by element"
    else:
        reason = "known exactly given the rest: only real (Gaussian) and positive (Gamma) latents can be"
    raise InputError(f"the latent {named} is not {reason}. {OTHERWISE}")


def _base(support: Any) -> Any:
    from numpyro.distributions import constraints

    while isinstance(support, constraints._IndependentConstraint):
        support = support.base_constraint
    return support


def is_real(support: Any) -> bool:
    """Tell whether a support is the whole real line, in every coordinate."""
    from numpyro.distributions import constraints

    return _base(support) in (constraints.real, constraints.real_vector)


def _constant(step: ConditionalStep, choice: Any) -> dict[str, Array]:
    """Give every discrete latent, of whatever plates, one value throughout."""
    values = {}
    for name, index in zip(step.discrete, jnp.unravel_index(choice, step._sizes), strict=True):
        latent = step.sites.latents[name]
        value = jnp.asarray(latent.values)[index]
        values[name] = jnp.broadcast_to(value, (*latent.shape, *value.shape))
    return values


def _is_gamma(total: Callable[..., Array], start: Mapping[str, Array], combinations: int) -> bool:
    """Verify u ∂ℓ/∂u = a + b u, each element on its own, at random points."""
    gradient = jax.jit(jax.grad(total))
    generator = np.random.default_rng(0)
    for choice in range(min(combinations, 4)):

        def slope(u: Mapping[str, Array], choice: int = choice) -> dict[str, Array]:
            return {name: u[name] * g for name, g in gradient(u, jnp.asarray(choice)).items()}

        one, two = slope(start), slope({name: 2.0 * value for name, value in start.items()})
        for _ in range(3):
            point = {name: jnp.asarray(generator.uniform(0.2, 3.0, v.shape)) for name, v in start.items()}
            found = slope(point)
            for name, u in point.items():
                b = two[name] - one[name]
                expected = one[name] + b * (u - 1.0)
                size = float(jnp.max(jnp.abs(one[name])) + jnp.max(jnp.abs(b * u)) + 1e-300)
                if not float(jnp.max(jnp.abs(found[name] - expected))) <= AGREEMENT * size:
                    return False
    return True


def _by_rows(step: ConditionalStep, parameters: Parameters, args: Any, kwargs: Any) -> ConditionalStep:
    """Give the step by rows of the plate that all latents share, where the rows do not meet."""
    plate = common_plate(step.sites, step.latents + step.discrete)
    if plate is None:
        return step
    rows = step.sites.parameters[step.latents[0]].shape[0]
    blocked = dataclasses.replace(step, plate=plate, rows=rows)
    if _splits(blocked, parameters, args, kwargs):
        return blocked
    blocked = dataclasses.replace(blocked, plate=None)
    if step.family == "gaussian" and not step.discrete and not _meet(blocked, parameters, args, kwargs):
        return blocked
    return step


def common_plate(sites: Survey, latents: tuple[str, ...]) -> str | None:
    """Name the one plate that all these latents are in, and in no other; `None` if there is none."""
    every = {**sites.parameters, **sites.latents}
    plates = {every[name].plates for name in latents}
    first = next(iter(plates))
    return first[0] if len(plates) == 1 and len(first) == 1 else None


def _splits(step: ConditionalStep, parameters: Parameters, args: Any, kwargs: Any) -> bool:
    """Tell whether row n of the log joint is a matter of row n of the latents alone.

    Two random settings of all latents are mixed row by row: each row's log joint must be what it was in the
    setting that the row came from, and what belongs to no row must not hang on a latent at all.
    """

    def split(flat: Array, choices: Array) -> Split:
        values: dict[str, Any] = {}
        for name, index in zip(step.discrete, jnp.unravel_index(choices, step._sizes), strict=True):
            values[name] = jnp.asarray(step.sites.latents[name].values)[index]
        values = {**parameters, **step.unflatten(flat), **values}
        factors = log_probabilities(step.program, args, kwargs, values)
        return split_by_rows(factors, step.plate, step.rows, step.ignored)

    generator = np.random.default_rng(0)

    def setting() -> tuple[Array, Array]:
        flat = generator.uniform(0.2, 2.0, step.shape)
        return jnp.asarray(flat), jnp.asarray(generator.integers(0, step.combinations, step.rows))

    if any(depends_on(jax.make_jaxpr(lambda *both: split(*both).rest)(*setting()).jaxpr)):
        return False
    local = jax.jit(lambda *both: split(*both).rows)
    for _ in range(3):
        one, two = setting(), setting()
        mask = generator.random(step.rows) < 0.5
        mixed = np.asarray(local(jnp.where(mask[:, None], one[0], two[0]), jnp.where(mask, one[1], two[1])))
        apart = np.where(mask, local(*one), local(*two))
        size = np.max(np.abs(apart), initial=0.0, where=np.isfinite(apart))
        if not np.allclose(mixed, apart, rtol=AGREEMENT, atol=SMALL * size):
            return False
    return True


def _meet(step: ConditionalStep, parameters: Parameters, args: Any, kwargs: Any) -> bool:
    """Tell whether a quadratic log joint has cross terms between rows.

    A random sign a row: without cross terms the Hessian's product with signed unit vectors is the signed
    product.
    """

    def density(flat: Array) -> Array:
        split = step.log_joint(step.unflatten(flat), 0, parameters, args, kwargs)
        return jnp.sum(split.rows) + split.rest

    @jax.jit
    def product(direction: Array) -> Array:
        return jax.jvp(jax.grad(density), (jnp.zeros(step.shape),), (direction,))[1]

    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (step.rows, 1)))
    for unit in jnp.eye(step.shape[-1]):
        plain = product(jnp.broadcast_to(unit, step.shape))
        signed = product(signs * unit)
        if float(jnp.max(jnp.abs(signed - signs * plain))) > SMALL * float(jnp.max(jnp.abs(plain)) + 1e-300):
            return True
    return False
