"""The curvature at EM's optimum as groups of the fit's data, and what does not hold there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from triptych.inference.em.information import Information, information
from triptych.inference.status import Finding

__all__ = ["curvature_groups", "dataset"]

STATIONARY = 1e-3  # nats a Newton step may still gain: 1/22 of a standard error
AGREEMENT = 1e-3  # relative, between the two routes to the information


def curvature_groups(
    kernel: Any, parameters: Mapping[str, Any], converged: bool
) -> tuple[dict[str, xr.Dataset], tuple[Finding, ...]]:
    """Measure the information at an optimum, where the E-step is exact.

    Parameters
    ----------
    kernel : the bound problem. parameters : the optimum, in the units of its step.
    converged : whether the climb said that it had arrived.

    Returns
    -------
    The groups `standard_errors` (site → array) and `information` (gradient at the optimum and fractions of
    missing information, by direction), and what does not hold.
    """
    problem = kernel.problem
    if not getattr(kernel, "exact", True) or not (hasattr(problem, "expected") or hasattr(problem, "expect")):
        return {}, ()
    point = {site: np.asarray(parameters[site]) for site in kernel.supports}
    found = information(problem, point, kernel.supports)
    errors = dataset(kernel.natural_errors(found.standard_errors))
    ledger = xr.Dataset(
        {
            "gradient": ("coordinate", found.gradient),
            "missing": ("direction", found.missing),
            "gain": found.gain,
            "disagreement": found.disagreement,
        },
        coords={"coordinate": list(found.names)},
    )
    precise = kernel.epsilon < 1e-10
    return {"standard_errors": errors, "information": ledger}, _findings(found, converged, precise)


def dataset(values: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Give site → array as a data set, with the posterior's names of dimensions."""
    return xr.Dataset(
        {
            site: ([f"{site}_dim_{axis}" for axis in range(np.ndim(value))], value)
            for site, value in values.items()
        }
    )


def _findings(found: Information, converged: bool, precise: bool) -> tuple[Finding, ...]:
    findings = []
    if converged and found.gain > STATIONARY:
        steepest = found.names[int(np.argmax(np.abs(found.gradient)))]
        text = (
            f"The gradient at the answer is not near zero: a Newton step would still gain {found.gain:.2g} "
            f"nats, most of the slope along {steepest}. Lower `tol`, or choose `m_step='auto'` if you set it."
        )
        findings.append(Finding("NOT_STATIONARY", text))
    if found.disagreement > AGREEMENT * (1.0 if precise else 100.0):
        text = (
            f"Two routes to the observed information differ by {found.disagreement:.1%} along a random "
            "direction: the standard errors are not to be trusted. Give the data in float64, or rescale its "
            "columns."
        )
        findings.append(Finding("INFORMATION_DISAGREES", text))
    return tuple(findings)
