"""Ancestral sampling: run a program forwards and keep what it drew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints

from triptych.models.errors import InputError
from triptych.models.hyperparameters import nearest

__all__ = ["simulate"]


def simulate(
    program: Callable[..., Any],
    key: jax.Array,
    *args: Any,
    parameters: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Draw every sample site of a program once, parents before children, in double precision.

    Parameters
    ----------
    program : a NumPyro program.
    key : random key.
    *args, **kwargs : what the program is called with; data left out is drawn, data given is kept.
    parameters : site → value, sites to hold fixed instead of drawing; the others come from their priors.

    Returns
    -------
    site → array, for every sample site: parameters, latents and data.

    Raises
    ------
    InputError : `parameters` names a site that the program does not have, or a value has the wrong shape
        or lies outside the support.
    """
    fixed = {site: np.asarray(value) for site, value in (parameters or {}).items()}

    def given(site: dict[str, Any]) -> np.ndarray | None:
        return _checked(site, fixed[site["name"]]) if site["name"] in fixed else None

    with jax.enable_x64(True):
        program = handlers.seed(handlers.substitute(program, substitute_fn=given), key)
        trace = handlers.trace(program).get_trace(*args, **kwargs)
        # `numpyro.factor` is recorded as a sample site of the distribution Unit: it is a weight, not a draw.
        sites = {
            name: np.asarray(site["value"])
            for name, site in trace.items()
            if site["type"] == "sample" and not isinstance(site["fn"], dist.Unit)
        }
    for name in fixed:
        if name not in sites:
            raise InputError(
                f"`parameters` has {name!r}, which is not a site of the program{nearest(name, sites)}; "
                f"its sites are {', '.join(sites)}."
            )
    return sites


def _checked(site: dict[str, Any], value: np.ndarray) -> np.ndarray:
    """Give a value to hold a site at, if it has the site's shape and lies in its support."""
    name, fn = site["name"], site["fn"]
    if value.shape != fn.shape():
        raise InputError(f"`parameters[{name!r}]` must have shape {fn.shape()}, but has {value.shape}.")
    support = fn.support
    if not constraints.is_dependent(support) and not np.all(support(value)):
        raise InputError(f"`parameters[{name!r}]` must lie in the support of the site, {support}.")
    return value
