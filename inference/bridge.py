"""Bridge sampling: the log evidence from draws of the posterior and draws of a proposal fitted to them.

With posterior draws θ, proposal draws ξ ~ g, l = log p(x, ·) − log g(·) and s₁ + s₂ = 1 their shares,

    Z = mean_ξ [ e^l / (s₁ e^l + s₂ Z) ] / mean_θ [ 1 / (s₁ e^l + s₂ Z) ]                (iterated)

is the estimator of least error among all bridges (Meng & Wong 1996, Statistica Sinica 6, 831–860; Gronau et
al. 2017, Journal of Mathematical Psychology 81, 80–97). The proposal must not see the draws that it is used
on (Overstall & Forster 2010), so it is fitted on one half of the chains' draws and used on the other, and the
other way round.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import gammaln

__all__ = ["Bridge", "Student", "bridge", "effective_size", "fit_student", "halves"]

DEGREES = 8.0  # of freedom: heavier tails than a posterior's, so that weights stay bounded
TOLERANCE = 1e-10  # nats between two iterations
ITERATIONS = 1000


class Bridge(NamedTuple):
    """log Z in nats, its standard error, and whether the iteration came to rest."""

    nats: float
    standard_error: float
    converged: bool


@dataclasses.dataclass(frozen=True)
class Student:
    """A multivariate Student t around draws: location (p,), lower-triangular factor L (p, p) of its scale."""

    location: np.ndarray
    factor: np.ndarray
    degrees: float = DEGREES

    @property
    def constant(self) -> float:
        """Log of the normalising factor of the density, nats."""
        p, nu = len(self.location), self.degrees
        log_volume = float(np.sum(np.log(np.diag(self.factor))))
        return float(gammaln((nu + p) / 2) - gammaln(nu / 2) - 0.5 * p * np.log(nu * np.pi)) - log_volume

    def sample(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Draw (count, p)."""
        noise = random.standard_normal((count, len(self.location)))
        stretch = np.sqrt(self.degrees / random.chisquare(self.degrees, size=(count, 1)))
        return self.location + (noise * stretch) @ self.factor.T

    @property
    def inverse(self) -> np.ndarray:
        """L⁻¹, (p, p)."""
        return solve_triangular(self.factor, np.eye(len(self.location)), lower=True)

    def log_density(self, u: np.ndarray) -> np.ndarray:
        """Log density at u (n, p), nats: (n,)."""
        white = (u - self.location) @ self.inverse.T
        p, nu = len(self.location), self.degrees
        return self.constant - 0.5 * (nu + p) * np.log1p(np.sum(white**2, axis=1) / nu)


def fit_student(u: np.ndarray, degrees: float = DEGREES) -> Student:
    """Fit a Student t to draws (n, p) by their mean and covariance.

    The scale is the covariance itself, not ν−2 over ν of it: a proposal a little too wide costs little, one
    too narrow costs the tails.

    Raises
    ------
    numpy.linalg.LinAlgError : the draws do not span the space.
    """
    covariance = np.atleast_2d(np.cov(u, rowvar=False))
    sd = np.sqrt(np.diag(covariance))
    if not np.all(sd > 0):
        raise np.linalg.LinAlgError("a coordinate never moves")
    factor = np.linalg.cholesky(covariance / np.outer(sd, sd)) * sd[:, None]
    return Student(np.mean(u, axis=0), factor, degrees)


def bridge(posterior: np.ndarray, proposal: np.ndarray) -> Bridge:
    """Give log Z from log ratios l = log p(x, ·) − log g(·).

    The relative error is that of Frühwirth-Schnatter (2004, Econometrics Journal 7, 143–167): the proposal's
    draws are independent, the posterior's count as many as their effective sample size.

    Parameters
    ----------
    posterior : l at posterior draws, (chain, draw), nats.
    proposal : l at proposal draws, (n,), nats; −inf where the density is 0.
    """
    first = np.ravel(posterior)
    if not (np.all(np.isfinite(first)) and not np.any(np.isnan(proposal)) and np.any(np.isfinite(proposal))):
        return Bridge(float("nan"), float("nan"), False)
    size = effective_size(posterior)
    share = np.log(size / (size + len(proposal)))
    other = np.log(len(proposal) / (size + len(proposal)))
    nats, converged = float(np.median(first)), False
    for _ in range(ITERATIONS):
        top = _log_mean(proposal - np.logaddexp(share + proposal, other + nats))
        bottom = _log_mean(-np.logaddexp(share + first, other + nats))
        moved, nats = abs(top - bottom - nats), top - bottom
        if moved < TOLERANCE:
            converged = True
            break
    # The two terms of the ratio, p / (s₁ p + s₂ g) under g and g / (s₁ p + s₂ g) under p, with p normalised.
    above = np.exp(proposal - nats - np.logaddexp(share + proposal - nats, other))
    below = np.exp(-np.logaddexp(share + posterior - nats, other))
    error = np.var(above) / np.mean(above) ** 2 / len(above)
    error += np.var(below) / np.mean(below) ** 2 / effective_size(below)
    return Bridge(nats, float(np.sqrt(error)), converged)


def effective_size(values: np.ndarray) -> float:
    """Effective number of draws for the mean of values (chain, draw), at most their number."""
    from arviz_stats.base import array_stats

    if values.shape[1] < 4 or np.ptp(values) == 0:
        return float(values.size)
    size = float(np.asarray(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean")))
    return min(max(size, 1.0), float(values.size)) if np.isfinite(size) else float(values.size)


def halves(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split every chain of (chain, draw, …) into its first and its second half."""
    middle = draws.shape[1] // 2
    return draws[:, :middle], draws[:, middle:]


def _log_mean(values: np.ndarray) -> float:
    highest = np.max(values)
    return float(highest + np.log(np.mean(np.exp(values - highest))))
