"""Bayesian linear regression by the textbook's three ways: EM, alternating fixed point, gradient ascent.

y ~ N(b + Xw, β⁻¹ I), w ~ N(0, λ⁻¹ I). One thin singular value decomposition of the centred design,
X = U S Vᵀ, makes every iteration O(D): with c = Uᵀ(y − b), s the singular values and R = |y − b − U c|² the
log evidence is

    log p(y | λ, β, b) = ½ [(N − r) log β − β R − Σ_i (log v_i + c_i²/v_i) − N log 2π],   v_i = 1/β + s_i²/λ,

the posterior of w has mean coordinates m_i = β s_i c_i/(λ + β s_i²) and variances 1/(λ + β s_i²).
(Bishop 2006, sections 3.5 and 9.3.4; MacKay 1992.) The intercept is maximised with centred columns: b = ȳ.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.triangular import triangular_factor

__all__ = [
    "Moments",
    "RegressionProblem",
    "decompose",
    "evidence",
    "expectations",
    "step_by_em",
    "step_by_fixed_point",
    "step_by_gradient",
]

HALVINGS = 30  # of the step of the gradient ascent
CAP = 1e12  # largest λ and β in standardised units: w = 0, or a perfect fit


class Moments(NamedTuple):
    """All that the evidence needs of the data: s (r,), c (r,), R, N (Σ of weights), D."""

    singular: Array
    projected: Array
    residual: Array
    rows: Array
    columns: Array


class RegressionHyper(NamedTuple):
    """Gamma priors on λ and β as shape − 1 and rate (all 0: maximum likelihood), and the largest values."""

    lambda_shape: Array
    lambda_rate: Array
    beta_shape: Array
    beta_rate: Array
    lambda_cap: Array
    beta_cap: Array


def decompose(X: np.ndarray, y: np.ndarray) -> tuple[Moments, np.ndarray]:
    """Decompose centred (and row-weighted) data: moments, and V (D, r) that leads back to w.

    By the triangular factor of [X y] = Q R first, in whose D + 1 rows all of it is (Golub & Van Loan 2013,
    section 5.4.2): a fraction of the work of decomposing N rows, at the same accuracy.
    """
    factor = triangular_factor(np.column_stack([X, y]))
    U, singular, Vt = np.linalg.svd(factor[:, :-1], full_matrices=False)
    keep = singular > singular[0] * max(X.shape) * np.finfo(np.float64).eps
    U, singular, Vt = U[:, keep], singular[keep], Vt[keep]
    projected = U.T @ factor[:, -1]
    residual = float(np.sum((factor[:, -1] - U @ projected) ** 2))
    return Moments(
        singular, projected, np.asarray(residual), np.asarray(float(len(y))), np.asarray(X.shape[1])
    ), Vt.T


def evidence(moments: Moments, precision: Array, noise: Array) -> Array:
    """Log p(y | λ, β, b) in nats; `precision` is λ, `noise` is β."""
    rank = moments.singular.shape[0]
    variances = 1.0 / noise + moments.singular**2 / precision
    return 0.5 * (
        (moments.rows - rank) * jnp.log(noise)
        - noise * moments.residual
        - jnp.sum(jnp.log(variances) + moments.projected**2 / variances)
        - moments.rows * jnp.log(2 * jnp.pi)
    )


def expectations(moments: Moments, precision: Array, noise: Array) -> tuple[Array, Array, Array, Array]:
    """Give |μ|², tr Σ, |y − b − Xμ|² and tr(XΣXᵀ) under p(w | y, λ, β)."""
    singular, projected = moments.singular, moments.projected
    total = precision + noise * singular**2
    mean = noise * singular * projected / total
    null = (moments.columns - singular.shape[0]) / precision  # directions the design says nothing about
    misfit = moments.residual + jnp.sum((projected - singular * mean) ** 2)
    return jnp.sum(mean**2), jnp.sum(1.0 / total) + null, misfit, jnp.sum(singular**2 / total)


def step_by_em(
    moments: Moments, hyper: RegressionHyper, precision: Array, noise: Array
) -> tuple[Array, Array]:
    """EM with w latent: λ = D/(|μ|² + tr Σ), β = N/(|y − b − Xμ|² + tr(XΣXᵀ)), the priors' counts added."""
    square, trace, misfit, spread = expectations(moments, precision, noise)
    return _capped(
        hyper,
        (moments.columns + 2 * hyper.lambda_shape) / (square + trace + 2 * hyper.lambda_rate),
        (moments.rows + 2 * hyper.beta_shape) / (misfit + spread + 2 * hyper.beta_rate),
    )


def step_by_fixed_point(
    moments: Moments, hyper: RegressionHyper, precision: Array, noise: Array
) -> tuple[Array, Array]:
    """MacKay's re-estimation: λ = γ/|μ|², β = (N − γ)/|y − b − Xμ|².

    γ = Σ β s²/(λ + β s²) counts the well-determined weights. The step can overshoot; where the evidence would
    fall, the EM step is taken instead.
    """
    square, _, misfit, _ = expectations(moments, precision, noise)
    gamma = jnp.sum(noise * moments.singular**2 / (precision + noise * moments.singular**2))
    proposal = _capped(
        hyper,
        (gamma + 2 * hyper.lambda_shape) / (square + 2 * hyper.lambda_rate),
        (moments.rows - gamma + 2 * hyper.beta_shape) / (misfit + 2 * hyper.beta_rate),
    )
    safe = step_by_em(moments, hyper, precision, noise)
    better = log_joint(moments, hyper, *proposal) >= log_joint(moments, hyper, precision, noise)
    return jnp.where(better, proposal[0], safe[0]), jnp.where(better, proposal[1], safe[1])


def step_by_gradient(
    moments: Moments, hyper: RegressionHyper, precision: Array, noise: Array
) -> tuple[Array, Array]:
    """Gradient ascent on the log evidence in (log λ, log β), by the curvature, halved until it rises."""
    start = jnp.log(jnp.stack([precision, noise]))

    def objective(u: Array) -> Array:
        return log_joint(moments, hyper, *_capped(hyper, jnp.exp(u[0]), jnp.exp(u[1])))

    gradient, curvature = jax.grad(objective)(start), jax.hessian(objective)(start)
    values, vectors = jnp.linalg.eigh(-curvature)
    # |curvature|: uphill in every direction, also where the surface is not concave.
    damped = jnp.maximum(jnp.abs(values), 1e-6 * jnp.max(jnp.abs(values)) + 1e-12)
    direction = vectors @ ((vectors.T @ gradient) / damped)
    direction = direction * jnp.minimum(1.0, 4.0 / jnp.maximum(jnp.max(jnp.abs(direction)), 1e-300))
    points = start + 0.5 ** jnp.arange(HALVINGS)[:, None] * direction
    values = jax.vmap(objective)(points)
    best = jnp.argmax(values)
    arrived = jnp.where(values[best] > objective(start), points[best], start)
    return _capped(hyper, jnp.exp(arrived[0]), jnp.exp(arrived[1]))


def log_joint(moments: Moments, hyper: RegressionHyper, precision: Array, noise: Array) -> Array:
    """Log evidence plus what the Gamma priors add, up to their constants, nats."""
    prior = hyper.lambda_shape * jnp.log(precision) - hyper.lambda_rate * precision
    prior += hyper.beta_shape * jnp.log(noise) - hyper.beta_rate * noise
    return evidence(moments, precision, noise) + prior


def _capped(hyper: RegressionHyper, precision: Array, noise: Array) -> tuple[Array, Array]:
    return jnp.minimum(precision, hyper.lambda_cap), jnp.minimum(noise, hyper.beta_cap)


STEPS = {"em": step_by_em, "fixed_point": step_by_fixed_point, "gradient": step_by_gradient}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["moments", "hyper", "constant"],
    meta_fields=["update"],
)
@dataclasses.dataclass(frozen=True)
class RegressionProblem:
    """A regression bound to its data; `update` is a key of `STEPS`, `constant` completes the priors, nats."""

    moments: Moments
    hyper: RegressionHyper
    constant: Array
    update: str

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, tuple[()]]:
        """One step of the way chosen: θ → (θ', log joint at θ in nats)."""
        precision, noise = parameters["lambda"], parameters["beta"]
        objective = log_joint(self.moments, self.hyper, precision, noise) + self.constant
        precision, noise = STEPS[self.update](self.moments, self.hyper, precision, noise)
        return {"lambda": precision, "beta": noise}, objective, ()

    def admit(self, parameters: Parameters) -> Parameters:
        """Bring a proposal within the bounds that a step keeps."""
        precision, noise = _capped(self.hyper, parameters["lambda"], parameters["beta"])
        return {"lambda": precision, "beta": noise}

    def infer(self, parameters: Parameters) -> tuple[tuple[Array, Array], Array]:
        """E-step: E[wᵀw] and E|y − b − Xw|² at θ, and the log joint there in nats."""
        precision, noise = parameters["lambda"], parameters["beta"]
        square, trace, misfit, spread = expectations(self.moments, precision, noise)
        objective = log_joint(self.moments, self.hyper, precision, noise) + self.constant
        return (square + trace, misfit + spread), objective

    def expected(self, parameters: Parameters, posterior: tuple[Array, Array]) -> Array:
        """Q(θ') = (D/2 + a) log λ − (E[wᵀw]/2 + b) λ and the same of β, nats up to a constant."""
        hyper, moments = self.hyper, self.moments
        squares = zip(
            (parameters["lambda"], parameters["beta"]),
            (moments.columns / 2 + hyper.lambda_shape, moments.rows / 2 + hyper.beta_shape),
            (posterior[0] / 2 + hyper.lambda_rate, posterior[1] / 2 + hyper.beta_rate),
            strict=True,
        )
        return jnp.asarray(sum(shape * jnp.log(value) - rate * value for value, shape, rate in squares))
