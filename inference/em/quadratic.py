"""Real-valued parameters in which Q is quadratic: one Newton step is the maximum (means, least squares).

Q(x) = c + gᵀ(x − x₀) + ½ (x − x₀)ᵀ H (x − x₀). The gradient is affine, so H's columns are differences of
gradients. H is taken as diagonal, as one block for each leading index (a mean vector a component), or dense,
whichever is the first to predict the gradient at random points.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from triptych.inference.em.closed_form import AGREEMENT, Gradient
from triptych.inference.em.family import Array

__all__ = ["SHAPES", "newton", "quadratic_shape"]

SHAPES = ("diagonal", "blocks", "dense")
LARGEST_DENSE = 300


def _hessian(gradient: Gradient, x: Array, shape: str) -> Array:
    """Give H: (…) diagonal, (…, D, D) one block for each leading index, or (P, P) dense."""
    x = jnp.asarray(x)
    base = gradient(x)
    if shape == "diagonal":
        return gradient(x + 1.0) - base
    if shape == "blocks":
        columns = [gradient(x.at[..., i].add(1.0)) - base for i in range(x.shape[-1])]
        return jnp.stack(columns, axis=-1)
    flat = jax.vmap(lambda e: (gradient(x + e.reshape(x.shape)) - base).ravel())(
        jnp.eye(x.size, dtype=x.dtype)
    )
    return flat.T


def newton(gradient: Gradient, x: Array, shape: str) -> Array:
    """Give argmax Q; a direction that Q does not depend on stays where it is."""
    g, H = gradient(x), _hessian(gradient, x, shape)
    if shape == "diagonal":
        return jnp.where(H < 0, x - g / jnp.where(H < 0, H, -1.0), x)
    if shape == "blocks":
        return x - jnp.einsum("...ij,...j->...i", jnp.linalg.pinv(H, hermitian=True), g)
    return x - (jnp.linalg.pinv(H, hermitian=True) @ g.ravel()).reshape(x.shape)


def quadratic_shape(gradient: Gradient, x: Array, points: list[Array]) -> str | None:
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
                change = jnp.einsum("...ij,...j->...i", H, step)
            else:
                change = (H @ step.ravel()).reshape(x.shape)
            actual = gradient(point)
            size = max(size, float(jnp.max(jnp.abs(base)) + jnp.max(jnp.abs(change))) + 1e-300)
            worst = max(worst, float(jnp.max(jnp.abs(actual - base - change))))
        if worst <= AGREEMENT * size:
            return shape
    return None
