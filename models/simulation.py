"""Ancestral sampling: run a program forwards and keep what it drew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers

from triptych.models.errors import InputError
from triptych.models.validation import nearest

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
    InputError : `parameters` names a site that the program does not have, or has the wrong shape.

    """
    fixed = {site: np.asarray(value) for site, value in (parameters or {}).items()}
    with jax.enable_x64(True):
        program = handlers.seed(handlers.substitute(program, data=fixed), key)
        trace = handlers.trace(program).get_trace(*args, **kwargs)
        # `numpyro.factor` is recorded as a sample site of the distribution Unit: it is a weight, not a draw.
        sites = {
            name: site
            for name, site in trace.items()
            if site["type"] == "sample" and not isinstance(site["fn"], dist.Unit)
        }
        for name, value in fixed.items():
            if name not in sites:
                raise InputError(
                    f"`parameters` has {name!r}, which is not a site of the program{nearest(name, sites)}; "
                    f"its sites are {', '.join(sites)}."
                )
            shape = sites[name]["fn"].shape()
            if value.shape != shape:
                raise InputError(f"`parameters[{name!r}]` must have shape {shape}, but has {value.shape}.")
        return {name: np.asarray(site["value"]) for name, site in sites.items()}
