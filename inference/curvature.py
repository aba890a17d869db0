"""The Hessian of a log density, and a precision turned into standard deviations, where it has any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.status import Finding
from triptych.inference.unconstrained import Coordinates

__all__ = ["hessian", "principal_factor"]

FLAT = 1e-10  # relative curvature below which a direction counts as not identified
HESSIAN_BATCH = 32  # Hessian columns computed at a time
EDGE_PRECISION = 1e-3  # of a logit or logarithm: a standard error above 30 means "on the edge"


def hessian(function: Callable[[Any], Any], u: Any) -> jax.Array:
    """Give ∂²f/∂u∂uᵀ, (p, p), by Hessian-vector products, a batch at a time so that memory stays bounded."""
    gradient = jax.grad(function)

    def column(direction: Any) -> jax.Array:
        return jax.jvp(gradient, (u,), (direction,))[1]

    basis = jnp.eye(u.shape[0], dtype=u.dtype)
    square = jax.lax.map(column, basis, batch_size=min(HESSIAN_BATCH, max(u.shape[0], 1)))
    return 0.5 * (square + square.T)


def principal_factor(
    precision: np.ndarray, space: Coordinates
) -> tuple[np.ndarray, float, tuple[Finding, ...]]:
    """Give F with F Fᵀ = precision⁻¹ over the directions that are determined, and name the others.

    Coordinates are first scaled to unit curvature, so that "flat" does not depend on the units of the data.

    Returns
    -------
    F (p, r), log |precision| over the r directions, findings.
    """
    finite = np.all(np.isfinite(precision))
    precision = np.nan_to_num(precision, nan=0.0, posinf=0.0, neginf=0.0)
    diagonal = np.diag(precision)
    inside = np.where(space.real, diagonal > 0, diagonal > EDGE_PRECISION)
    findings: list[Finding] = []
    names = np.asarray(space.names, dtype=object)
    if not finite:
        findings.append(
            Finding(
                "LAPLACE_NOT_FINITE",
                "The Hessian at the optimum has infinite or NaN entries: standard errors are incomplete. "
                "Rescale the data's columns, or use MCMC.",
            )
        )
    if not np.all(inside):
        findings.append(
            Finding(
                "LAPLACE_EDGE",
                f"The data give no curvature at the optimum in {_listed(names[~inside])} (on the edge of its "
                "range, or without effect): held at the estimate, so it has no standard error. A prior "
                '(objective="map") or MCMC gives one.',
            )
        )
    scale = np.sqrt(np.where(inside, diagonal, 1.0))
    kept = np.flatnonzero(inside)
    values, vectors = np.linalg.eigh((precision / np.outer(scale, scale))[np.ix_(kept, kept)])
    good = values > FLAT
    if not np.all(good):
        worst = vectors[:, np.argmin(values)]
        largest = kept[np.argsort(-np.abs(worst))[:3]]
        what = "is not a maximum" if np.min(values, initial=0.0) < -FLAT else "does not determine a direction"
        findings.append(
            Finding(
                "LAPLACE_NOT_IDENTIFIED",
                f"The optimum {what}: {int(np.sum(~good))} direction(s) without curvature, mostly along "
                f"{_listed(names[largest])}. Its standard errors leave them out; use fewer components or a "
                "stronger prior.",
            )
        )
    factor = np.zeros((len(diagonal), int(np.sum(good))))
    factor[kept] = vectors[:, good] / np.sqrt(values[good]) / scale[kept, None]
    log_determinant = float(np.sum(np.log(values[good])) + 2 * np.sum(np.log(scale[kept])))
    return factor, log_determinant, tuple(findings)


def _listed(names: Sequence[str] | np.ndarray, most: int = 4) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
