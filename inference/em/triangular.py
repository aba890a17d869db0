"""The triangular factor of a tall matrix, in whose few rows all is that least squares needs of the many.

Z = Q R; RᵀR = ZᵀZ. Two Cholesky factorisations (CholeskyQR2: Yamamoto, Nakatsukasa, Yanagisawa & Fukaya 2015,
sections 2 and 3) are matrix products all through, several times as fast as Householder's reflections on rows
that do not fit the cache:

    R₁ᵀR₁ = ZᵀZ,   Q₁ = Z R₁⁻¹,   R₂ᵀR₂ = Q₁ᵀQ₁,   R = R₂ R₁

Where Z is far from singular Q₁ is all but orthogonal, whatever R₁ lost, and R is as accurate as by
reflections. Elsewhere reflections it is.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import get_lapack_funcs, solve_triangular

__all__ = ["triangular_factor"]

SMALLEST_RECIPROCAL = 1e-4  # 1/condition of Z with columns of length 1; below it the inverse costs digits
BLOCK_NUMBERS = 2**17  # numbers of Z read at a time: 1 MiB
TALL = 8  # rows a column below which reflections are as fast


def triangular_factor(Z: np.ndarray) -> np.ndarray:
    """Give the upper triangular R (min(N, P), P) of Z (N, P) = Q R, up to the signs of its rows."""
    rows, columns = Z.shape
    lengths = np.sqrt(np.einsum("np,np->p", Z, Z))
    if rows >= TALL * columns and np.all(lengths > 0) and np.all(np.isfinite(lengths)):
        factor = _by_cholesky(Z, lengths)
        if factor is not None:
            return factor
    return np.asarray(np.linalg.qr(Z, mode="r"))


def _by_cholesky(Z: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """R by two Cholesky factorisations; `None` where Z, its columns of length 1, is too near singular."""
    try:
        first = np.linalg.cholesky((Z.T @ Z) / np.outer(lengths, lengths)).T
        condition, invert = get_lapack_funcs(("trcon", "trtri"), (first,))
        reciprocal, _ = condition(first)
        if not reciprocal > SMALLEST_RECIPROCAL:
            return None
        inverse = invert(first)[0] / lengths[:, None]
        step = max(1, BLOCK_NUMBERS // len(lengths))
        gram = np.zeros_like(first)
        for start in range(0, len(Z), step):
            rotated = Z[start : start + step] @ inverse
            gram += rotated.T @ rotated
        # R₂ (R₁⁻¹)⁻¹: undone is what was done to Z, to the last digit.
        second = np.linalg.cholesky(gram).T
        return np.asarray(solve_triangular(inverse, second.T, trans=1).T)
    except np.linalg.LinAlgError:
        return None
