"""Laplace's approximation: a Gaussian at the mode, in the unconstrained space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.batches import in_batches
from triptych.inference.curvature import hessian, principal_factor
from triptych.inference.effort import cells, normals
from triptych.inference.precision import double_precision
from triptych.inference.status import Finding
from triptych.inference.symmetry import NO_LABELS, Relabellings
from triptych.inference.target import Target, target, target_of, unconstrained
from triptych.inference.unconstrained import Coordinates, coordinates

__all__ = ["GaussianApproximation", "hessian", "laplace", "laplace_from_density"]

LARGEST_HESSIAN = 2000  # coordinates; a dense Hessian beyond takes minutes and gigabytes
ROUNDS = 4  # of whitening and climbing, before the mode counts as not found
CLOSE = 1e-6  # nats between a mode and the top of the parabola fitted there


@dataclasses.dataclass(frozen=True)
class GaussianApproximation:
    """The Gaussian N(mode, F Fᵀ) in u-space that stands for a posterior.

    Attributes
    ----------
    coordinates : the change of variables.
    mode : (p,), the unconstrained mode (objective "map") or estimate ("mle").
    factor : F, (p, r); directions that the data do not determine are left out (r < p). `None` where the
        Hessian was not computed.
    log_density : log density at the mode, nats.
    log_evidence : log p(x) ≈ log p(x, u*) + p/2 log 2π − ½ log |H| + log G, nats, G the number of
        relabellings; `None` for "mle".
    findings : what does not hold.
    density : log density of u that was approximated.
    labels : the relabellings that leave it as it is; the Gaussian stands for all of them.
    numbers : how many the density reads.
    """

    coordinates: Coordinates
    mode: np.ndarray
    factor: np.ndarray | None
    log_density: float
    log_evidence: float | None
    findings: tuple[Finding, ...]
    density: Callable[[Any], jax.Array]
    labels: Relabellings = NO_LABELS
    numbers: int = 0

    @property
    def covariance(self) -> np.ndarray | None:
        """F Fᵀ, (p, p), in u-space."""
        return None if self.factor is None else self.factor @ self.factor.T

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The mode carried back: site → array."""
        with double_precision():
            return jax.tree.map(np.asarray, self.coordinates.constrain(jnp.asarray(self.mode)))

    def unconstrained(self, key: jax.Array, count: int) -> np.ndarray:
        """Draw u from the Gaussian, (1, count, p); the mode alone where there is no covariance."""
        if self.factor is None:
            return self.mode[None, None]
        with double_precision():
            noise = normals(key, (count, self.factor.shape[1]))
        return (self.mode + noise @ self.factor.T)[None]

    def draws(self, key: jax.Array, count: int) -> dict[str, np.ndarray]:
        """Draw θ: site → (1, count, …)."""
        with double_precision():
            return self.coordinates.natural(self.unconstrained(key, count))

    def sample_stats(self, key: jax.Array, count: int, batch: int = 64) -> dict[str, np.ndarray]:
        """Give `lp` (log density of u) and `log_weight` (lp − log q) of the same draws, (1, count), nats.

        q is the Gaussian with its labels exchanged; there are no weights where it does not span the space.
        """
        u = self.unconstrained(key, count)
        with double_precision():
            lp = in_batches(self.density, u[0], batch, numbers=self.numbers)[None]
            if self.factor is None or self.factor.shape[1] < len(self.mode):
                return {"lp": lp}
            mode, inverse = self.mode, np.linalg.inv(self.factor)
            constant = -0.5 * len(self.mode) * np.log(2 * np.pi) - np.linalg.slogdet(self.factor)[1]

            def log_q(points: np.ndarray) -> np.ndarray:
                return constant - 0.5 * np.sum(((points - mode) @ inverse.T) ** 2, axis=1)

            log_density = self.labels.exchanged_at(self.coordinates, log_q, u[0])
            return {"lp": lp, "log_weight": lp - log_density[None]}


def laplace(
    m: Any,
    parameters: Mapping[str, Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    objective: str = "map",
    labels: Relabellings = NO_LABELS,
    sample_weight: np.ndarray | None = None,
) -> GaussianApproximation:
    """Approximate the posterior of a program's marginal by a Gaussian around an optimum.

    Parameters
    ----------
    m : the marginal.
    parameters : site → value to start from: EM's optimum.
    args, kwargs : what the program is called with.
    objective : "map": the mode of log p(x, θ) + log |det ∂θ/∂u|, found from `parameters`;
        "mle": the observed information of log p(x|θ) at `parameters`, priors ignored.
    labels : the relabellings that leave p(x, θ) as it is; their number is counted in the evidence.
    sample_weight : (N,) how many rows each row counts for.
    """
    kwargs = kwargs or {}
    structure = m.structure(*args, **kwargs)
    supports = {site: parameter.support for site, parameter in structure.parameters.items()}
    if objective == "map" and sample_weight is None:
        with double_precision():
            return _around(target(m, args, kwargs), parameters, objective, labels)

    def log_joint(theta: Any) -> jax.Array:
        return m.log_density(theta, *args, **kwargs) + of_rows(
            theta, (1.0 if sample_weight is None else sample_weight) - 1.0
        )

    def log_likelihood(theta: Any) -> jax.Array:
        return of_rows(theta, 1.0 if sample_weight is None else sample_weight)

    def of_rows(theta: Any, weights: Any) -> jax.Array:
        rows = m.log_likelihood(theta, *args, **kwargs)
        return sum((jnp.sum(weights * row) for row in jax.tree.leaves(rows)), start=jnp.zeros(()))

    density = log_likelihood if objective == "mle" else log_joint
    numbers = cells(args, kwargs)
    return laplace_from_density(
        density, parameters, supports, objective=objective, labels=labels, numbers=numbers
    )


def laplace_from_density(
    log_density: Callable[[dict[str, Any]], Any],
    parameters: Mapping[str, Any],
    supports: Mapping[str, Any],
    *,
    objective: str = "map",
    labels: Relabellings = NO_LABELS,
    numbers: int = 0,
) -> GaussianApproximation:
    """Approximate any log density of named parameters; `laplace` says what the arguments are.

    Parameters
    ----------
    log_density : dict site → array ↦ scalar, nats: the log joint ("map") or the log likelihood ("mle"),
        in the natural parameters; the log-Jacobian is added here.
    parameters : site → start.
    supports : site → NumPyro constraint.
    numbers : how many the density reads.
    """
    with double_precision():
        space = coordinates({site: (np.shape(parameters[site]), one) for site, one in supports.items()})
        goal = target_of(space, log_density, numbers, jacobian=objective == "map")
        return _around(goal, parameters, objective, labels)


def _around(
    goal: Target, parameters: Mapping[str, Any], objective: str, labels: Relabellings
) -> GaussianApproximation:
    """Climb from a point to the mode ("map"), or stay ("mle"), and measure the curvature there."""
    space = goal.space
    start = {site: np.asarray(parameters[site], dtype=float) for site in space.sites}
    u = np.asarray(unconstrained(space)(start))
    if space.size > LARGEST_HESSIAN:
        finding = Finding(
            "LAPLACE_SKIPPED",
            f"{space.size} coordinates are too many for a dense Hessian (limit {LARGEST_HESSIAN}): "
            "no standard errors. Use SVI or MCMC for them.",
        )
        value = float(goal.value_and_grad(jnp.asarray(u))[0])
        return GaussianApproximation(
            space, u, None, value, None, (finding,), goal.density, numbers=goal.numbers
        )
    found = True
    if objective == "map":
        u, precision, found = find_mode(goal.value_and_grad, goal.curvature, u)
    else:
        precision = np.asarray(goal.curvature(jnp.asarray(u)))
    value = float(goal.value_and_grad(jnp.asarray(u))[0])
    factor, log_determinant, findings = principal_factor(precision, space)
    if not found:
        findings += (
            Finding(
                "LAPLACE_NO_MODE",
                "The mode in the unconstrained space was not reached from the optimum, so the Laplace draws "
                "are centred on a point of the slope. Trust MCMC here.",
            ),
        )
    log_evidence = None
    if objective == "map" and factor.shape[1] == space.size and np.isfinite(value):
        log_evidence = value + 0.5 * space.size * np.log(2 * np.pi) - 0.5 * log_determinant
        log_evidence += labels.log_count
    return GaussianApproximation(
        space, u, factor, value, log_evidence, findings, goal.density, labels, goal.numbers
    )


def find_mode(
    value_and_grad: Callable[[Any], Any], curvature: Callable[[Any], Any], start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Climb to the mode: L-BFGS in coordinates whitened by the Hessian, a few rounds of it.

    In whitened coordinates the first step is Newton's, and the gradient's length is the standard distance
    to the mode, so one tolerance fits every data scale. Two Hessians are enough when the start is good.

    Returns
    -------
    The mode (p,), −Hessian there (p, p), and whether it is one: within `CLOSE` nats of the parabola's top.
    """
    u = np.asarray(start, dtype=float)
    precision = np.asarray(curvature(u))
    for _ in range(ROUNDS):
        whitening = _whitening(precision)
        u = climb(value_and_grad, u, whitening)
        precision = np.asarray(curvature(u))
        gradient = np.asarray(value_and_grad(u)[1])
        step = _whitening(precision).T @ gradient
        if 0.5 * float(step @ step) < CLOSE:
            return u, precision, True
    return u, precision, False


def climb(
    value_and_grad: Callable[[Any], Any], start: np.ndarray, whitening: np.ndarray, *, steps: int = 500
) -> np.ndarray:
    """Maximise by L-BFGS over z, u = start + W z; points without a finite density are stepped back from."""
    from scipy.optimize import minimize

    best = (-np.inf, start)

    def negative(z: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        u = start + whitening @ z
        value, gradient = value_and_grad(u)
        value, gradient = float(value), np.asarray(gradient, dtype=float)
        if not (np.isfinite(value) and np.all(np.isfinite(gradient))):
            return 1e25, np.zeros_like(z)
        if value > best[0]:
            best = (value, u)
        return -value, -(whitening.T @ gradient)

    options = {"maxiter": steps, "maxfun": 3 * steps, "maxcor": 30, "gtol": 1e-6, "ftol": 1e-15}
    minimize(negative, np.zeros(whitening.shape[1]), jac=True, method="L-BFGS-B", options=options)
    return best[1]


def _whitening(precision: np.ndarray) -> np.ndarray:
    """Give W with W Wᵀ ≈ precision⁻¹, negative curvature mirrored and flat directions given unit steps."""
    precision = np.nan_to_num(precision, nan=0.0, posinf=0.0, neginf=0.0)
    scale = np.sqrt(np.abs(np.diag(precision)))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(precision / np.outer(scale, scale))
    return vectors / np.sqrt(np.maximum(np.abs(values), 1e-6)) / scale[:, None]
