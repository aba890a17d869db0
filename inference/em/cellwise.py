"""Spherical and diagonal Gaussian components of rows with missing cells: each cell counts for itself.

With m_nd = 1 where x_nd was observed, log p(x_n, z_n = k) is a sum over those cells, so the missing ones need
no E-step: the M-step is the closed form with n_kd = Σ_n r_nk m_nd in the place of n_k,

    μ_kd = (Σ r m x + κ m_d) / (n_kd + κ)
    σ²_kd = (Λ_d + Σ r m x² + κ m_d² − (n_kd + κ) μ_kd²) / (mass + n_kd),       mass = ν + 3

and spherical components pool the columns.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.gaussian import TINY, GaussianFamily, GaussianHyper

__all__ = ["CellwiseGaussianFamily"]


@dataclasses.dataclass(frozen=True)
class CellwiseGaussianFamily(GaussianFamily):
    """Components of spherical, diagonal or known covariance for rows of which cells are NaN."""

    @property
    def feature_count(self) -> int:
        """F, the length of T(x)."""
        return 1 + 3 * self.columns

    @property
    def plain(self) -> bool:
        """T(x) is made from the row."""
        return False

    def features(self, x: Array) -> Array:
        """T(x) = [1, m, m·x, m·x²]."""
        there = x.T == x.T
        filled = jnp.where(there, x.T, 0.0)
        ones = jnp.ones((1, x.shape[0]), x.dtype)
        return jnp.concatenate([ones, there.astype(x.dtype), filled, filled * filled])

    def natural(self, parameters: Parameters) -> Array:
        """η_k = [log π_k, −½ (μ²/σ² + log 2πσ²), μ/σ², −1/(2σ²)]."""
        means = parameters["means"]
        precisions, _ = self._precisions(parameters)
        log_weights = jnp.log(jnp.maximum(parameters["weights"], TINY))
        constant = 0.5 * (jnp.log(precisions / (2 * np.pi)) - precisions * means**2)
        parts = [log_weights[:, None], constant, precisions * means, -0.5 * precisions]
        return jnp.concatenate(parts, axis=1).T

    def maximise(self, statistics: Statistics, hyper: GaussianHyper) -> Parameters:
        """M-step in closed form; see the module's head."""
        counts, rest = statistics.sums[0], statistics.sums[1:].T
        cells, first, second = jnp.split(rest, 3, axis=1)
        kappa, location = hyper.mean_precision, jnp.asarray(hyper.location)
        shrunk = cells + kappa
        means = jnp.where(shrunk > 0, (first + kappa * location) / jnp.maximum(shrunk, TINY), location)
        weights = jnp.maximum(counts + hyper.concentration - 1.0, 0.0)
        parameters: dict[str, Array] = {"weights": weights / jnp.sum(weights), "means": means}
        if self.known is not None:
            return parameters
        scatter = second + kappa * location**2 - shrunk * means**2
        if self.covariance == "spherical":
            scatter, cells = jnp.sum(scatter, axis=1), jnp.sum(cells, axis=1)
            extra = 2.0 + self.columns
        else:
            extra = 3.0
        mass = hyper.degrees + jnp.where(hyper.degrees > 0, extra, 0.0) + cells
        estimate = jnp.where(mass > 0, (hyper.spread + scatter) / jnp.maximum(mass, TINY), hyper.pooled)
        parameters["covariances"] = jnp.maximum(estimate, hyper.floor * hyper.pooled)
        return parameters
