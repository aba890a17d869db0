"""Units of a Gaussian mixture: the moments that rows are standardised by, and the prior in those units."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from triptych.inference.em.gaussian import GaussianFamily
from triptych.models.gaussian_mixture import GaussianMixture

__all__ = ["complete_moments", "covariance_factor", "known_variances", "prior_powers", "weighted_prior"]


def complete_moments(
    rows: np.ndarray, weights: np.ndarray | None
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Give Σw, and columns' means, standard deviations and covariance (divisor Σw), in float64."""
    if weights is None:
        count, centre = float(len(rows)), np.asarray(np.mean(rows, axis=0, dtype=np.float64))
        weighted = centred = rows - centre  # one matrix with its own transpose: BLAS does half the work
    else:
        weight = weights.astype(np.float64)[:, None]
        count = float(np.sum(weight))
        centre = np.sum(rows * weight, axis=0) / count
        centred = rows - centre
        weighted = centred * weight
    covariance = weighted.T @ centred / count
    return count, centre, np.sqrt(np.diagonal(covariance)), covariance


def weighted_prior(model: GaussianMixture, centre: np.ndarray, covariance: np.ndarray, cells: Any) -> Any:
    """Let the prior's data-scaled numbers come from the weighted data, as if rows were repeated.

    `cells` is how many rows there are, or how many cells in each column.
    """
    correction = np.sqrt(cells / np.maximum(cells - 1.0, 1.0)) * np.ones(len(centre))
    covariance = covariance * np.outer(correction, correction) / model.components ** (2 / len(centre))
    spread: Any = covariance
    if model.covariance == "spherical":
        spread = float(np.mean(np.diagonal(covariance)))
    elif model.covariance == "diagonal":
        spread = np.diagonal(covariance)
    return dataclasses.replace(
        model,
        location=tuple(centre) if model.location is None else model.location,
        spread=np.asarray(spread).tolist() if model.spread is None else model.spread,
    )


def known_variances(scale: Any, unit: float, components: int) -> tuple[float, ...]:
    """Give the K known variances in units of `unit`²."""
    return tuple(float(value) for value in (np.broadcast_to(scale, components) / unit) ** 2)


def prior_powers(family: GaussianFamily) -> float:
    """Count the powers of Π_d scale_d by which the prior's density changes with the units of the data.

    K for the means; D + 1 for a symmetric matrix, 2 for a vector of variances, 2/D for one common variance.
    """
    K = family.components
    if family.known is not None:
        return K
    each = {"spherical": 2 / family.columns, "diagonal": 2.0}.get(family.covariance, family.columns + 1.0)
    return K + each * (1 if family.covariance == "tied" else K)


def covariance_factor(covariance: str, scale: np.ndarray) -> Any:
    """Give what covariances of this shape are multiplied by when column d is multiplied by scale_d."""
    if covariance == "spherical":
        return scale[0] ** 2
    return scale**2 if covariance == "diagonal" else np.outer(scale, scale)
