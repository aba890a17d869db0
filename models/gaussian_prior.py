"""The conjugate prior of a Gaussian mixture, scaled by the data it is for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from triptych.models.errors import InputError
from triptych.models.missing import moments

__all__ = [
    "COVARIANCES",
    "GaussianMixturePrior",
    "as_covariance",
    "check_location",
    "check_spread",
    "data_covariance",
    "incomplete_covariance",
    "own_location",
    "own_spread",
]

COVARIANCES = ("spherical", "diagonal", "full", "tied")


class GaussianMixturePrior(NamedTuple):
    """The hyper-parameters of a Gaussian mixture in the units of the data.

    weights ~ Dirichlet(concentration); μ_k | Σ_k ~ N(location, Σ_k / mean_precision);
    Σ ~ InverseWishart(degrees_of_freedom, spread) for full and tied covariances,
    σ² ~ InverseGamma(degrees_of_freedom / 2, spread / 2) for diagonal and spherical ones.
    When the scale is known, `degrees_of_freedom` and `spread` are not used.

    Attributes
    ----------
    concentration : (K,).
    location : (D,), units of the data.
    mean_precision : how many rows the prior on a mean is worth.
    degrees_of_freedom : ν.
    spread : (D, D) full and tied, (D,) diagonal, () spherical; units of the data squared.
    """

    concentration: Any
    location: Any
    mean_precision: Any
    degrees_of_freedom: Any
    spread: Any


def data_covariance(x: Any) -> Any:
    """Give the covariance (D, D) of the rows of `x` (N, D) about their mean, divisor N − 1.

    A constant column, which only rows for a fitted model may have, counts as variance 1: the prior then
    plays no part, but its density must exist. NumPy in, NumPy out; a traced `x` gives a traced answer.
    """
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / max(len(x) - 1, 1)
    eye = np.eye(x.shape[1], dtype=covariance.dtype)
    return covariance + eye * (covariance.diagonal() == 0)


def incomplete_covariance(x: Any, weights: Any = None) -> Any:
    """Give what `data_covariance` gives, for rows of which some cells are NaN: see `missing.moments`.

    A column of which fewer than two cells were observed counts as variance 1, like a constant one.
    """
    count, _, _, covariance = moments(x, weights)
    correction = (count / (count - 1).clip(1)) ** 0.5
    covariance = covariance * correction[:, None] * correction
    eye = np.eye(x.shape[1], dtype=covariance.dtype)
    return covariance + eye * (covariance.diagonal() == 0)


def as_covariance(matrix: Any, covariance: str) -> Any:
    """Reduce a covariance matrix (D, D) to what the kind of covariance can hold."""
    if covariance == "spherical":
        return matrix.diagonal().mean()
    return matrix.diagonal() if covariance == "diagonal" else matrix


def own_location(location: Any, columns: int) -> np.ndarray:
    """Give the `location` of a model's fields, 0 if there is none, as (D,).

    Raises
    ------
    InputError : it has another number of columns.
    """
    centre = np.asarray(0.0 if location is None else location)
    if centre.ndim == 1 and len(centre) != columns:
        raise InputError(f"`location` has {len(centre)} numbers for {columns} columns: give one a column.")
    return np.broadcast_to(centre, (columns,))


def own_spread(spread: Any, covariance: str, columns: int) -> np.ndarray:
    """Give the `spread` of a model's fields, 1 if there is none, in the shape of the kind of covariance.

    Raises
    ------
    InputError : it has another shape.
    """
    matrix = np.asarray(1.0 if spread is None else spread)
    shape = {"spherical": (), "diagonal": (columns,)}.get(covariance, (columns, columns))
    if matrix.ndim == 0:
        return matrix * (np.eye(columns) if len(shape) == 2 else np.ones(shape))
    if matrix.shape != shape:
        raise InputError(
            f"`spread` must be a number or have shape {shape} for {covariance} covariances of "
            f"{columns} columns, but has shape {matrix.shape}."
        )
    return matrix


def check_spread(spread: Any) -> None:
    """Check that `spread` is positive, or a positive definite matrix."""
    matrix = np.asarray(spread)
    if matrix.ndim == 2:
        symmetric = matrix.shape[0] == matrix.shape[1] and np.allclose(matrix, matrix.T)
        fine = bool(symmetric) and np.linalg.eigvalsh(matrix)[0] > 0
    else:
        fine = matrix.ndim < 2 and np.all(matrix > 0)
    if not fine:
        raise InputError(
            "`spread` must be a positive number, one a column, or a positive definite matrix, "
            f"but is {matrix.tolist()}."
        )


def check_location(location: Any) -> None:
    """Check that `location` is a number or one a column."""
    if np.ndim(location) > 1:
        raise InputError(f"`location` must be a number or one a column, but is {location!r}.")
