"""What a NumPyro program is made of, read off the program: its parameters, discrete latents and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from triptych.inference.survey import Latent, Parameter, survey
from triptych.inference.tracing import Program

__all__ = ["LARGEST_TABLE", "Latent", "Parameter", "Program", "Structure", "describe"]

LARGEST_TABLE = 10**8  # entries of the largest table that a sum over latents may need


@dataclasses.dataclass(frozen=True)
class Structure:
    """A program's parts.

    Attributes
    ----------
    parameters : continuous unobserved site → shape, support and the latents its prior hangs on.
    latents : discrete latent → plates, their sizes, and its K support values.
    observed : data site → shape.
    units : name in the pointwise log-likelihood → the data sites it joins (several when they share a latent).
    """

    parameters: Mapping[str, Parameter]
    latents: Mapping[str, Latent]
    observed: Mapping[str, tuple[int, ...]]
    units: Mapping[str, tuple[str, ...]]


def describe(program: Program, *args: Any, **kwargs: Any) -> Structure:
    """Read a program's parameters, discrete latents, data sites and units of likelihood, without running it.

    Raises
    ------
    InputError : the program fails, or a discrete latent cannot be summed out; the text names the site.
    """
    sites = survey(program, args, kwargs)
    if not sites.latents:
        return Structure(sites.parameters, {}, sites.observed, {name: (name,) for name in sites.observed})
    from triptych.inference.plan import analyse

    plan = analyse(program, args, kwargs, sites, LARGEST_TABLE)
    parameters = {
        name: site._replace(hangs_on=plan.absorbed.get(name, ())) for name, site in sites.parameters.items()
    }
    return Structure(parameters, sites.latents, sites.observed, plan.units)
