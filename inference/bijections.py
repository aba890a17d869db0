"""NumPyro's changes of variables, positive definite matrices by a shorter way to the same numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import ComposeTransform

from triptych.models.matrices import WRITTEN_OUT, lower

__all__ = ["bijection"]

MATRICES = (constraints.positive_definite, constraints.positive_semidefinite)


class PositiveDefinite(ComposeTransform):
    """Σ = L Lᵀ from u: L below its diagonal, row by row, then log L_11 … log L_DD, as NumPyro has it.

        log |det ∂Σ/∂u| = D log 2 + Σ_i (D − i + 2) log L_ii

    NumPyro scatters u into L, twice, which on a CPU is a loop each time and another one for the gradient, and
    reads the determinant off L; here few columns are written out, and the determinant is read off u.
    """

    def __call__(self, x: Any) -> jax.Array:
        """Give Σ (…, D, D) of u (…, D(D + 1)/2)."""
        size = _columns(x)
        if size > WRITTEN_OUT:
            return jnp.asarray(super().__call__(x))
        below, logs = x[..., :-size], jnp.exp(x[..., -size:])
        rows = [[*(below[..., i * (i - 1) // 2 + j] for j in range(i)), logs[..., i]] for i in range(size)]
        root = lower(rows)
        return root @ jnp.swapaxes(root, -2, -1)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> jax.Array:
        """Give log |det ∂Σ/∂u|, (…,), nats."""
        size = _columns(x)
        return jnp.asarray(x[..., -size:] @ np.arange(size + 1.0, 1.0, -1.0) + size * np.log(2.0))


def bijection(support: Any) -> Any:
    """Give the change of variables from R^p to a NumPyro constraint: NumPyro's, or a cheaper equal."""
    transform = biject_to(support)
    return PositiveDefinite(transform.parts) if any(support is each for each in MATRICES) else transform


def _columns(x: Any) -> int:
    """D, of D(D + 1)/2 coordinates."""
    return round((np.sqrt(1 + 8 * x.shape[-1]) - 1) / 2)
