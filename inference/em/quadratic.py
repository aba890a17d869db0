"""Real-valued parameters in which Q is quadratic: one Newton step is the maximum (means, least squares).

Q(x) = c + gᵀ(x − x₀) + ½ (x − x₀)ᵀ H (x − x₀). The gradient is affine, so H's columns are its derivatives
anywhere (to look at its shape, differences). H is taken as diagonal, as one block for each leading index (a
mean vector a component), or dense, whichever is the first to predict the gradient at random points.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from triptych.inference.em.closed_form import AGREEMENT, Gradient
from triptych.inference.em.family import Array
from triptych.models.matrices import cholesky, solve

__all__ = ["SHAPES", "newton", "quadratic_shape"]

SHAPES = ("diagonal", "blocks", "dense")
LARGEST_DENSE = 300
CONDITION = 1e-5  # of a Cholesky factor: the square of it is that of its matrix


def _hessian(gradient: Gradient, x: np.ndarray, shape: str) -> np.ndarray:
    """Give H: (…) diagonal, (…, D, D) one block for each leading index, or (P, P) dense; by differences."""
    base = gradient(x)
    if shape == "diagonal":
        return np.asarray(gradient(x + 1.0) - base)
    if shape == "blocks":
        units = np.eye(x.shape[-1])
        return np.stack([gradient(x + unit) - base for unit in units], axis=-1)
    units = np.eye(x.size).reshape(-1, *x.shape)
    return np.stack([np.ravel(gradient(x + unit) - base) for unit in units], axis=-1)


def newton(gradient: Gradient, x: Array, shape: str, *, together: bool = False) -> Array:
    """Give argmax Q; a direction that Q does not depend on stays where it is.

    Parameters
    ----------
    together : take H's columns at once: where Q reads no rows, that costs nothing.
    """
    x = jnp.asarray(x)
    g, along = jax.linearize(gradient, x)
    if shape == "diagonal":
        H = along(jnp.ones_like(x))
        return jnp.where(H < 0, x - g / jnp.where(H < 0, H, -1.0), x)
    many = jax.vmap if together or shape == "dense" else (lambda f: partial(jax.lax.map, f))
    if shape == "blocks":
        units = jnp.eye(x.shape[-1], dtype=x.dtype)
        columns = many(lambda unit: along(jnp.broadcast_to(unit, x.shape)))(units)
        H = jnp.moveaxis(columns, 0, -1)
        return x + _step(-H, g)
    units = jnp.eye(x.size, dtype=x.dtype)
    H = many(lambda unit: along(unit.reshape(x.shape)).ravel())(units).T
    return x - (jnp.linalg.pinv(H, hermitian=True) @ g.ravel()).reshape(x.shape)


@custom_vmap
def _step(negative: Array, g: Array) -> Array:
    """Give (−H)⁻¹ g, blocks (…, D, D) and (…, D): by Cholesky, where all are well conditioned; else pinv."""
    factor = cholesky(negative)
    diagonal = jnp.sum(jnp.abs(factor) * np.eye(factor.shape[-1], dtype=factor.dtype), axis=-1)
    fine = jnp.min(diagonal, axis=-1) > CONDITION * jnp.max(diagonal, axis=-1)  # false where it is NaN

    def quick() -> Array:
        return solve(factor, g)

    def careful() -> Array:
        return jnp.einsum("...ij,...j->...i", jnp.linalg.pinv(negative, hermitian=True), g)

    return jax.lax.cond(jnp.all(fine), quick, careful)


@_step.def_vmap
def _many_steps(size: int, batched: list[bool], negative: Array, g: Array) -> Any:
    """Keep the condition one for a whole batch of starts: `vmap` would run both of its sides."""
    whole = (
        one if held else jnp.broadcast_to(one, (size, *one.shape))
        for one, held in zip((negative, g), batched, strict=True)
    )
    return _step(*whole), True


def quadratic_shape(gradient: Gradient, x: np.ndarray, points: Sequence[np.ndarray]) -> str | None:
    """Name the first shape of H that predicts the gradient at the points; `None` if Q is not quadratic."""
    base = gradient(x)
    for shape in SHAPES:
        if (shape == "blocks" and x.ndim < 2) or (shape == "dense" and x.size > LARGEST_DENSE):
            continue
        H = _hessian(gradient, x, shape)
        worst, size = 0.0, 0.0
        for point in points:
            step = point - x
            if shape == "diagonal":
                change = H * step
            elif shape == "blocks":
                change = np.einsum("...ij,...j->...i", H, step)
            else:
                change = (H @ step.ravel()).reshape(x.shape)
            actual = gradient(point)
            size = max(size, float(np.max(np.abs(base)) + np.max(np.abs(change))) + 1e-300)
            worst = max(worst, float(np.max(np.abs(actual - base - change))))
        if worst <= AGREEMENT * size:
            return shape
    return None
