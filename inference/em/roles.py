"""Who is who in a program: which sites are latents, which are parameters, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from triptych.inference.em.family import Array
from triptych.inference.plan import depends_on
from triptych.inference.survey import Survey
from triptych.models.errors import InputError

__all__ = ["Roles", "roles_of"]


class Roles(NamedTuple):
    """The continuous sites taken as latents, the ones maximised, and the reason for each site."""

    latents: tuple[str, ...]
    parameters: tuple[str, ...]
    reasons: Mapping[str, str]


def roles_of(
    program: Callable[..., Any], sites: Survey, args: Any, kwargs: Any, chosen: tuple[str, ...] | None
) -> Roles:
    """Decide which continuous sites are latents.

    With `chosen` those; discrete sites always are. Without it: in a program with discrete latents none; else
    every site whose prior hangs on another site (w ~ N(0, λ⁻¹), a random effect, a factor score): its parents
    are the parameters.

    Raises
    ------
    InputError : a site that was chosen does not exist, or nothing is left to maximise.
    """
    names = tuple(sites.parameters)
    if chosen is not None:
        unknown = [name for name in chosen if name not in names and name not in sites.latents]
        if unknown:
            raise InputError(
                f"`latents` names {unknown[0]!r}, but the program's sites are {', '.join(names)}."
            )
        latents = tuple(name for name in names if name in chosen)
        reasons = dict.fromkeys(latents, "chosen")
    elif sites.latents:
        latents, reasons = (), {}
    else:
        parents = _parents(program, sites, args, kwargs)
        latents = tuple(name for name in names if parents[name])
        reasons = {name: f"its prior hangs on {', '.join(parents[name])}" for name in latents}
    parameters = tuple(name for name in names if name not in latents)
    if not parameters:
        raise InputError(
            "Nothing is left to maximise: every continuous site is a latent. "
            "Name fewer in `latents`, or use MCMC."
        )
    return Roles(latents, parameters, {**dict.fromkeys(parameters, "no site above it"), **reasons})


def _parents(
    program: Callable[..., Any], sites: Survey, args: Any, kwargs: Any
) -> dict[str, tuple[str, ...]]:
    """Site → the other sites that its own log density is computed from."""
    from triptych.inference.enumeration import run_enumerated

    names = tuple(sites.parameters)

    def densities(values: tuple[Array, ...]) -> list[Array]:
        given = dict(zip(names, values, strict=True))
        factors = run_enumerated(program, args, kwargs, sites, given).factors
        return [jnp.sum(factors[name].table) for name in names]

    shapes = tuple(jax.ShapeDtypeStruct(sites.parameters[name].shape, jnp.float64) for name in names)
    reached = depends_on(jax.make_jaxpr(densities)(shapes).jaxpr)
    return {
        name: tuple(names[index] for index in sorted(positions) if names[index] != name)
        for name, positions in zip(names, reached, strict=True)
    }
