"""The E-step of continuous latents in which the log joint is quadratic: p(u | x, θ) is Gaussian, exactly.

With h = ∇_u log p(x, u | θ) and P = −∇²_u log p(x, u | θ) at u = 0,

    p(u | x, θ) = N(P⁻¹h, P⁻¹),    log p(x | θ) = log p(x, m | θ) + ½ D log 2π − ½ log|P|,  m = P⁻¹h,

and the expectation of a function quadratic in u is its mean over the 2D points m ± √D L e_i, L Lᵀ = P⁻¹
(third-degree cubature): the completions that the M-step climbs. The degree is proved from the program's jaxpr
(`degree.py`). Latents of one plate with no cross terms between its rows keep one D × D block a row, at cost
N D³.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.degree import degree_in
from triptych.inference.em.family import Array, Parameters
from triptych.inference.survey import Survey
from triptych.models.errors import InputError

__all__ = ["Completions", "GaussianStep", "gaussian_step"]

LARGEST_DENSE = 1000  # coordinates of latents that all meet: a Hessian and its factor in memory
SMALL = 1e-9  # relative size below which a cross term between rows counts as none


class Completions(NamedTuple):
    """Points u⁽ˢ⁾ that stand for a posterior: `values` site → (S, …), `weights` (S,), summing to one."""

    values: Mapping[str, Array]
    weights: Array


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianStep:
    """Exact E-step over Gaussian latents; compared by identity, so that it can be static in `jax.jit`.

    `rows` is the length of the plate whose rows do not meet, or 0 where all coordinates are one block.
    """

    program: Callable[..., Any]
    sites: Survey
    latents: tuple[str, ...]
    ignored: frozenset[str]
    rows: int

    def log_joint(
        self, latents: Mapping[str, Array], parameters: Parameters, args: Any, kwargs: Any
    ) -> Array:
        """Log p(x, u, θ) in nats, what is ignored left out."""
        from triptych.inference.enumeration import run_enumerated

        values = {**parameters, **latents}
        factors = run_enumerated(self.program, args, kwargs, self.sites, values).factors
        tables = (jnp.sum(f.table) for name, f in factors.items() if name not in self.ignored)
        return sum(tables, start=jnp.zeros(()))

    def infer(self, parameters: Parameters, args: Any, kwargs: Any) -> tuple[Completions, Array]:
        """E-step: the cubature points of p(u | x, θ), and log p(x | θ) plus the priors kept (nats)."""

        def density(flat: Array) -> Array:
            return self.log_joint(self.unflatten(flat), parameters, args, kwargs)

        zero = jnp.zeros(self.shape)
        gradient = jax.grad(density)
        columns = jax.vmap(lambda e: jax.jvp(gradient, (zero,), (jnp.broadcast_to(e, self.shape),))[1])(
            jnp.eye(self.shape[-1])
        )
        precision = -jnp.moveaxis(columns, 0, -1)  # (N, D, D), or (D, D)
        factor = jnp.linalg.cholesky(precision)
        mean = jax.scipy.linalg.cho_solve((factor, True), gradient(zero)[..., None])[..., 0]
        identity = jnp.broadcast_to(jnp.eye(self.shape[-1]), precision.shape)
        half = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)  # its transpose is L
        size = self.shape[-1]
        steps = np.sqrt(size) * jnp.moveaxis(half, -2, 0)  # row i of half is column i of L
        points = jnp.concatenate([mean + steps, mean - steps])
        log_det = 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)))
        value = density(mean) + 0.5 * (np.prod(self.shape) * np.log(2 * np.pi) - log_det)
        weights = jnp.full(2 * size, 0.5 / size)
        return Completions(jax.vmap(self.unflatten)(points), weights), value

    def expected(self, parameters: Parameters, posterior: Completions, args: Any, kwargs: Any) -> Array:
        """Q(θ'): the mean of the log joint over the completions (nats)."""

        def one(values: Mapping[str, Array]) -> Array:
            return self.log_joint(values, parameters, args, kwargs)

        return jnp.sum(posterior.weights * jax.vmap(one)(posterior.values))

    def draw(self, key: jax.Array, posterior: Completions) -> dict[str, Array]:
        """One draw of the latents: the mean plus Gaussian noise along the axes that the completions mark."""
        size = self.shape[-1]
        noise = jax.random.normal(key, self.shape)

        def move(points: Array) -> Array:
            mean = jnp.mean(points, axis=0)
            axes = (points[:size] - mean) / np.sqrt(size)
            if not self.rows:
                return mean + jnp.tensordot(noise, axes, axes=1)
            expanded = jnp.moveaxis(noise, 1, 0).reshape(size, self.rows, *(1,) * (mean.ndim - 1))
            return mean + jnp.sum(expanded * axes, axis=0)

        return {name: move(points) for name, points in posterior.values.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the flat latents: (D,), or (N, D) where rows do not meet."""
        total = sum(int(np.prod(self.sites.parameters[name].shape)) for name in self.latents)
        return (self.rows, total // self.rows) if self.rows else (total,)

    def unflatten(self, flat: Array) -> dict[str, Array]:
        """Split the flat latents into sites."""
        values, start = {}, 0
        for name in self.latents:
            shape = self.sites.parameters[name].shape
            size = int(np.prod(shape)) // (self.rows or 1)
            values[name] = flat[..., start : start + size].reshape(shape)
            start += size
        return values


def gaussian_step(
    program: Callable[..., Any],
    sites: Survey,
    latents: tuple[str, ...],
    parameters: Parameters,
    args: Any,
    kwargs: Any,
    ignored: frozenset[str],
) -> GaussianStep:
    """Prove that the log joint is quadratic in the latents, and find whether their rows meet.

    Raises
    ------
    InputError : it is not (the primitive that breaks it is named), or the latents are too many for one block.
    """
    step = GaussianStep(program, sites, latents, ignored, 0)
    start = {name: jnp.zeros(sites.parameters[name].shape) for name in latents}
    certificate = degree_in(lambda u: step.log_joint(u, parameters, args, kwargs), start)
    named = ", ".join(f"'{name}'" for name in latents)
    if certificate.degree > 2:
        found = certificate.culprit or f"a product of degree {certificate.degree:.0f}"
        raise InputError(
            f"the latent {named} is not Gaussian given the rest: the log joint is not quadratic in it "
            f"({found}). Leave it out of `latents` (it is then maximised), or fit the program by SVI or MCMC."
        )
    rows = _independent_rows(step, parameters, args, kwargs)
    if rows:
        return dataclasses.replace(step, rows=rows)
    if step.shape[0] > LARGEST_DENSE:
        raise InputError(
            f"the latents {named} have {step.shape[0]} coordinates that meet: above {LARGEST_DENSE} one "
            "exact Gaussian is too large. Put independent ones in a plate of their own."
        )
    return step


def _independent_rows(step: GaussianStep, parameters: Parameters, args: Any, kwargs: Any) -> int:
    """Give the length of a plate that all latents share and whose rows have no cross terms, else 0.

    A random sign a row: without cross terms the Hessian's product with signed unit vectors is the signed
    product.
    """
    plates = [step.sites.parameters[name].plates for name in step.latents]
    if any(not one or one != plates[0] for one in plates) or len(plates[0]) != 1:
        return 0
    rows = step.sites.parameters[step.latents[0]].shape[0]
    blocked = dataclasses.replace(step, rows=rows)

    def density(flat: Array) -> Array:
        return blocked.log_joint(blocked.unflatten(flat), parameters, args, kwargs)

    @jax.jit
    def product(direction: Array) -> Array:
        return jax.jvp(jax.grad(density), (jnp.zeros(blocked.shape),), (direction,))[1]

    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (rows, 1)))
    for unit in jnp.eye(blocked.shape[-1]):
        plain = product(jnp.broadcast_to(unit, blocked.shape))
        signed = product(signs * unit)
        if float(jnp.max(jnp.abs(signed - signs * plain))) > SMALL * float(jnp.max(jnp.abs(plain)) + 1e-300):
            return 0
    return rows
