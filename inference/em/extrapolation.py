"""Formulas that jump ahead of a fixed-point iteration x ← F(x), from what it has shown of itself.

With f(x) = F(x) − x and, near the top, f(x) ≈ (I − J)(x* − x), all of them estimate (I − J)⁻¹ f: one number
for it (SQUAREM, ACX), or its action on the directions seen (Anderson). Free functions on flat vectors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from triptych.inference.em.family import Array

__all__ = ["anderson", "cube", "damped", "square", "squarem"]

INDEPENDENT = 1e-7  # of a column's length, what the newer ones must leave of it
SMALLEST = 1e-300
BISECTIONS = 40


def square(x: Array) -> tuple[Array, Array]:
    """Extrapolate squarely from x₀, x₁ = F(x₀), x₂ = F(x₁); also the step s ≥ 1.

    s = |⟨Δ², Δ⟩| / ⟨Δ², Δ²⟩,  x' = x₀ + 2 s Δ + s² Δ²    (Lepage-Saucier 2024, ACX of order 2)
    """
    first, second = x[1] - x[0], x[2] - 2 * x[1] + x[0]
    s = _ratio(second @ first, second @ second)
    return x[0] + 2 * s * first + s**2 * second, s


def cube(x: Array) -> tuple[Array, Array]:
    """Extrapolate cubically from x₀ … x₃, each F of the last; also the step s ≥ 1.

    s = |⟨Δ³, Δ²⟩| / ⟨Δ³, Δ³⟩,  x' = x₀ + 3 s Δ + 3 s² Δ² + s³ Δ³    (ACX of order 3)
    """
    first, second = x[1] - x[0], x[2] - 2 * x[1] + x[0]
    third = x[3] - 3 * x[2] + 3 * x[1] - x[0]
    s = _ratio(third @ second, third @ third)
    return x[0] + 3 * s * first + 3 * s**2 * second + s**3 * third, s


def squarem(x: Array, longest: Array) -> tuple[Array, Array]:
    """Extrapolate by SQUAREM's step S3 from x₀, x₁, x₂; also the step, between 1 and `longest`.

    a = |Δ| / |Δ²|,  x' = x₀ + 2 a Δ + a² Δ²    (Varadhan & Roland 2008)
    """
    first, second = x[1] - x[0], x[2] - 2 * x[1] + x[0]
    a = jnp.sqrt(_ratio(first @ first, second @ second))
    a = jnp.minimum(a, longest)
    return x[0] + 2 * a * first + a**2 * second, a


def _ratio(above: Array, below: Array) -> Array:
    return jnp.maximum(jnp.abs(above) / jnp.maximum(below, SMALLEST), 1.0)


def anderson(point: Array, residual: Array, points: Array, residuals: Array) -> tuple[Array, Array, Array]:
    """Anderson's step: F at the combination of the points seen whose residuals almost cancel.

    γ = argmin |f − ΔF γ|,  x' = x + f − (ΔX + ΔF) γ    (Anderson 1965; Walker & Ni 2011, type II)

    Parameters
    ----------
    point, residual : x and f(x), (p,). points, residuals : (m, p), those seen before, newest first; a row
        that is not finite is none. A column that the newer ones all but contain is left out.

    Returns
    -------
    x' (p,); how many columns were used; and the largest |Δx| of a combination with |Δf| = 1, an estimate of
    1/(1 − c), c the slowest rate of convergence among the directions seen.
    """
    there = jnp.all(jnp.isfinite(points) & jnp.isfinite(residuals), axis=1)[:, None]
    columns = jnp.where(there, residual - residuals, 0.0)
    moves = jnp.where(there, point - points, 0.0)

    def orthogonalise(index: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        basis, images = carry
        column, move = columns[index], moves[index]
        length = jnp.linalg.norm(column)
        for _ in range(2):  # twice is enough for orthogonality to rounding
            part = basis @ column
            column, move = column - part @ basis, move - part @ images
        left = jnp.linalg.norm(column)
        new = (left > INDEPENDENT * length) & (length > 0)
        scale = jnp.where(new, 1.0 / jnp.where(new, left, 1.0), 0.0)
        return basis.at[index].set(scale * column), images.at[index].set(scale * move)

    none = jnp.zeros_like(columns)
    basis, images = jax.lax.fori_loop(0, len(columns), orthogonalise, (none, none))
    gamma = basis @ residual
    proposal = point + residual - gamma @ (images + basis)
    used = jnp.sum(jnp.any(basis != 0, axis=1))
    return proposal, used, jnp.max(jnp.linalg.norm(images, axis=1))


def damped(point: Array, residual: Array, points: Array, residuals: Array, share: Array) -> Array:
    """Anderson's step with γ shrunk by a ridge to √share of its length (Henderson & Varadhan 2019, DAAREM).

    Differences are those of successive points; the rest is as in `anderson`.
    """
    points, residuals = jnp.vstack([point, points]), jnp.vstack([residual, residuals])
    columns, moves = residuals[:-1] - residuals[1:], points[:-1] - points[1:]
    there = jnp.all(jnp.isfinite(columns) & jnp.isfinite(moves), axis=1)[:, None]
    columns, moves = jnp.where(there, columns, 0.0), jnp.where(there, moves, 0.0)
    _, values, rotation = jnp.linalg.svd(columns.T, full_matrices=False)
    projected = rotation @ (columns @ residual)  # d · Uᵀf
    kept = values > 1e-14 * values[0]

    def coefficients(ridge: Array) -> Array:
        return jnp.where(kept, projected / jnp.where(kept, values**2 + ridge, 1.0), 0.0)

    target = share * jnp.sum(coefficients(jnp.zeros(())) ** 2)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        long = jnp.sum(coefficients(jnp.exp(middle)) ** 2) > target
        return jnp.where(long, middle, low), jnp.where(long, high, middle)

    top = jnp.log(jnp.maximum(values[0] ** 2, SMALLEST))
    _, ridge = jax.lax.fori_loop(0, BISECTIONS, halve, (top - 50.0, top + 20.0))
    gamma = coefficients(jnp.exp(ridge)) @ rotation
    return point + residual - gamma @ (moves + columns)
