"""What a sampler learns while it warms up: linear coordinates in which the posterior is round.

u = centre + L z, L a matrix (p, p), or of many coordinates their scales (p,). Masses of one in z are
the mass matrix (L Lᵀ)⁻¹ in u. Where draws of z have the covariance S = R Rᵀ, L R makes rounder ones: then
z is at R⁻¹ z, and its gradient Rᵀ times what it was.

The draws of all chains count, each around its own mean: the first windows, of a few dozen transitions, then
have some hundred draws. S is pulled towards the identity, what the coordinates so far expect, by as much as
`PRIOR_DRAWS` draws.
"""

from __future__ import annotations

import numpy as np

from triptych.inference.starts import Start

__all__ = ["composed", "first_root", "placed", "pulled", "rounder", "solved", "turning_points"]

DENSE = 50  # coordinates up to which L is a matrix
PRIOR_DRAWS = 5.0  # as many as in Stan's rule, which pulls towards a thousandth of the identity


def first_root(start: Start) -> np.ndarray:
    """Give L by Laplace's covariance at the start, or by the scales there where it is not whole."""
    if len(start.centre) <= DENSE:
        return start.whitening
    return np.linalg.norm(start.whitening, axis=1) if start.whole else np.asarray(start.scale)


def placed(root: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Give L z, (…, p)."""
    return z * root if root.ndim == 1 else z @ root.T


def solved(root: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Give L⁻¹ u, (…, p)."""
    return u / root if root.ndim == 1 else np.linalg.solve(root, u[..., None])[..., 0]


def composed(root: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Give L R."""
    return root * turn if root.ndim == 1 else root @ turn


def pulled(root: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Give Lᵀ g, (…, p), the gradient by z of what has the gradient g by u."""
    return gradient * root if root.ndim == 1 else gradient @ root


def rounder(z: np.ndarray, dense: bool) -> np.ndarray:
    """Give R of draws z (chain, n, p), a lower triangle or, not dense, scales; of one where they cannot say.

    R Rᵀ = (N S + k I) / (N + k),   N = chains · n,   S = Σ (z − its chain's mean)(…)ᵀ / (N − chains)
    """
    chains, count, size = z.shape
    number = chains * count
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        apart = (z - z.mean(axis=1, keepdims=True)).reshape(-1, size)
        squares = apart.T @ apart if dense else np.sum(apart**2, axis=0)
    if not np.all(np.isfinite(squares)):
        return np.eye(size) if dense else np.ones(size)
    share = number / (number + PRIOR_DRAWS) / max(number - chains, 1)
    rest = PRIOR_DRAWS / (number + PRIOR_DRAWS)
    if not dense:
        return np.sqrt(share * squares + rest)
    return np.linalg.cholesky(share * squares + rest * np.eye(size))


def turning_points(warmup: int, length: int) -> dict[int, slice]:
    """Give the ends of blocks after which L is found anew: transitions done → those whose draws tell.

    They are at the ends of the windows of NumPyro's warm-up, where it begins its step size anew, or at most a
    block away: none of the first 75 transitions, then 25, 50, 100 … and none of the last 50 (Stan's rule).
    """
    from numpyro.infer.hmc_util import build_adaptation_schedule

    points = {}
    for window in build_adaptation_schedule(warmup)[1:-1]:
        done = (window.end + 1) // length * length
        done += length if done <= window.start else 0
        points[done] = slice(window.start, window.end + 1)
    points.pop(warmup, None)  # too late for the step size
    return points
