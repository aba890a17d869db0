"""The variational E-step: a Gaussian guide for latents whose posterior has no closed form.

With u the continuous latents in unconstrained space (discrete ones summed out exactly), q(u) = N(m, L Lᵀ) and
nodes ε⁽ˢ⁾ that stay the same throughout the run,

    ELBO(q, θ) = mean_s [log p(x, u⁽ˢ⁾, θ) + log|∂T/∂u|] + ½ D (1 + log 2π) + log|L|,   u⁽ˢ⁾ = m + L ε⁽ˢ⁾.

The E-step climbs it over (m, L) from where the last one ended, the M-step over θ: the bound never falls (Neal
& Hinton 1998). It is a bound: what is maximised is log p(x, θ) − KL(q ‖ p(u | x, θ)), not log p(x, θ).
The nodes are a Latin hypercube of normal quantiles with mean 0 and, in each row, covariance I: a Gaussian
posterior is met exactly by the "full" family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from triptych.inference.em.e_steps import Bound, check_range, continuous
from triptych.inference.em.expected import Joint, Weights
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.proof import common_plate
from triptych.inference.em.quasi_newton import descend
from triptych.inference.laplace import GaussianApproximation
from triptych.inference.survey import Survey
from triptych.inference.unconstrained import Coordinates, coordinates
from triptych.models.errors import InputError

__all__ = ["Guide", "Variational", "VariationalStep", "latin_hypercube"]

LOCATION, SCALE = "_guide_location", "_guide_scale"  # where the guide is kept between steps, beside θ


class Guide(NamedTuple):
    """A posterior: nodes `values` site → (S, …), their discrete `weights`, and the guide that made them."""

    values: Mapping[str, Array]
    weights: Weights
    location: Array  # (R, D)
    scale: Array  # (R, D) log L_ii, then in the full family (R, D(D − 1)/2) what stands below it


@dataclasses.dataclass(frozen=True)
class Variational:
    """Choose the variational E-step.

    Parameters
    ----------
    draws : nodes S. family : "full", one covariance for each row of the latents' plate (all of them where
        they have none), or "mean_field". steps : quasi-Newton steps an E-step takes.

    Raises
    ------
    InputError : a setting out of range.
    """

    draws: int = 32
    family: str = "full"
    steps: int = 8

    def __post_init__(self) -> None:
        check_range("draws", self.draws, 2)
        check_range("steps", self.steps, 1)
        if self.family not in ("full", "mean_field"):
            raise InputError(f"`family` is {self.family!r}: choose 'full' or 'mean_field'.")

    def make(self, bound: Bound) -> VariationalStep:
        """Lay out the guide.

        Raises
        ------
        InputError : there is no continuous latent, or too few draws for a full covariance.
        """
        space, joint = continuous(bound, "variational")
        plate = common_plate(bound.sites, bound.latents)
        rows = bound.sites.parameters[bound.latents[0]].shape[0] if plate else 1
        width = space.size // rows
        if self.family == "full" and self.draws <= width:
            raise InputError(
                f"a full covariance of {width} coordinates needs more than {width} draws: raise `draws`, or "
                "choose family='mean_field'."
            )
        nodes = latin_hypercube(self.draws, rows, width, whiten=self.family == "full")
        return VariationalStep(joint, space, rows, nodes, self.family == "full", self.steps)


@dataclasses.dataclass(frozen=True, eq=False)
class VariationalStep:
    """The variational E-step of a program; the guide travels among the parameters, from step to step."""

    joint: Joint
    space: Coordinates
    rows: int
    nodes: np.ndarray  # (S, R, D)
    full: bool
    steps: int

    @property
    def sites(self) -> Survey:
        """The program's sites."""
        return self.joint.sites

    @property
    def width(self) -> int:
        """Coordinates a row, D."""
        return self.nodes.shape[-1]

    def begin(self) -> dict[str, Array]:
        """Give the guide to start from: N(0, 0.1² I) in unconstrained space."""
        below = self.width * (self.width - 1) // 2 if self.full else 0
        scale = np.append(np.full(self.width, np.log(0.1)), np.zeros(below))
        return {
            LOCATION: jnp.zeros((self.rows, self.width)),
            SCALE: jnp.broadcast_to(scale, (self.rows, len(scale))),
        }

    def carry(self, posterior: Guide) -> dict[str, Array]:
        """Give the guide for the next step."""
        return {LOCATION: posterior.location, SCALE: posterior.scale}

    def at(self, parameters: Parameters) -> Guide:
        """Give the guide that travels with θ, as it is; without nodes."""
        return Guide({}, {}, parameters[LOCATION], parameters[SCALE])

    def bound(
        self, guide: tuple[Array, Array], nodes: Array, parameters: Parameters, args: Any, kwargs: Any
    ) -> Array:
        """ELBO(q, θ) at each node (S,), nats."""
        location, scale = guide

        def one(node: Array) -> Array:
            u = self._place(location, scale, node)
            values = {**parameters, **self.space.constrain(u)}
            return self.joint.log_density(values, args, kwargs) + self.space.log_jacobian(u)

        log_det = jnp.sum(scale[:, : self.width])
        return jax.vmap(one)(nodes) + log_det + 0.5 * self.space.size * (1.0 + np.log(2.0 * np.pi))

    def infer(
        self, parameters: Parameters, args: Any, kwargs: Any, sharpness: Any = 1.0
    ) -> tuple[Guide, Array]:
        """Climb the ELBO over the guide; give the nodes of the new one, and the ELBO there."""
        theta = {name: value for name, value in parameters.items() if name not in (LOCATION, SCALE)}
        start = (parameters[LOCATION], parameters[SCALE])
        nodes = jnp.asarray(self.nodes)

        def loss(guide: tuple[Array, Array]) -> Array:
            return -self.log_density({**theta, LOCATION: guide[0], SCALE: guide[1]}, args, kwargs)

        location, scale = guide = descend(loss, start, self.steps)
        flat = jax.vmap(lambda node: self._place(location, scale, node))(nodes)
        values = jax.vmap(self.space.constrain)(flat)
        weights, _ = jax.vmap(lambda point: self.joint.infer({**theta, **point}, args, kwargs, sharpness))(
            values
        )
        return Guide(values, weights, location, scale), -loss(guide)

    def expected(self, parameters: Parameters, posterior: Guide, args: Any, kwargs: Any) -> Array:
        """Q(θ'): the mean over the nodes of the log joint expected under the discrete posteriors (nats)."""

        def one(values: Mapping[str, Array], weights: Weights) -> Array:
            return self.joint.expected({**parameters, **values}, weights, args, kwargs)

        return jnp.mean(jax.vmap(one)(posterior.values, posterior.weights))

    def noise(self, key: jax.Array, scale: Any, parameters: Parameters, args: Any, kwargs: Any) -> Guide:
        """Nodes of a guide at a random place."""
        start = self.begin()
        location = 0.3 * scale * jax.random.normal(key, start[LOCATION].shape)
        return self.infer({**parameters, **start, LOCATION: location}, args, kwargs)[0]

    def log_density(self, parameters: Parameters, args: Any, kwargs: Any) -> Array:
        """ELBO(q, θ) at the guide that travels with θ, nats."""
        theta = {name: value for name, value in parameters.items() if name not in (LOCATION, SCALE)}
        guide = (parameters[LOCATION], parameters[SCALE])
        return jnp.mean(self.bound(guide, jnp.asarray(self.nodes), theta, args, kwargs))

    def means(self, posterior: Guide) -> dict[str, Array]:
        """Posterior mean of each continuous latent under the guide."""
        return {name: jnp.mean(value, axis=0) for name, value in posterior.values.items()}

    def draw(self, key: jax.Array, posterior: Guide) -> dict[str, Array]:
        """One draw of the continuous latents from the guide."""
        node = jax.random.normal(key, (self.rows, self.width))
        return dict(self.space.constrain(self._place(posterior.location, posterior.scale, node)))

    def _place(self, location: Array, scale: Array, node: Array) -> Array:
        """Give u = m + L ε as the flat vector that the program's sites are cut from."""
        u = location + jnp.exp(scale[:, : self.width]) * node
        if self.full:
            row, column = np.tril_indices(self.width, -1)
            u = jnp.asarray(u).at[:, row].add(scale[:, self.width :] * node[:, column])
        pieces, start = [], 0
        for shape in self.space.shapes:
            size = int(np.prod(shape)) // self.rows
            pieces.append(u[:, start : start + size].ravel())
            start += size
        return jnp.concatenate(pieces)


def profile(
    gaussian: GaussianApproximation, sites: tuple[str, ...]
) -> tuple[GaussianApproximation, Callable[[np.ndarray], dict[str, np.ndarray]]]:
    """Take the guide out of a Gaussian over (θ, guide): what is left is that of the profile max_q ELBO(q, θ).

    Its covariance is the block of θ; the guide follows θ as q(θ) ≈ q̂ + Σ_qθ Σ_θθ⁻¹ (θ − θ̂).

    Returns
    -------
    The Gaussian of θ, and the guides (S, …) that go with draws (S, p) of θ in unconstrained space.
    """
    space = gaussian.coordinates
    supports = dict(zip(space.sites, space.supports, strict=True))
    shapes = {name: np.shape(value) for name, value in gaussian.parameters.items()}
    inner = coordinates({name: (shapes[name], supports[name]) for name in sites})
    size, covariance = inner.size, np.asarray(gaussian.covariance)
    values, vectors = np.linalg.eigh(covariance[:size, :size])
    good = values > np.finfo(float).eps * size * values[-1]
    slope = covariance[size:, :size] @ (vectors[:, good] / values[good]) @ vectors[:, good].T
    log_evidence = None
    if gaussian.log_evidence is not None and np.all(good):
        log_evidence = gaussian.log_density + 0.5 * (size * np.log(2 * np.pi) + np.sum(np.log(values)))
    factor = vectors[:, good] * np.sqrt(values[good])
    mode = gaussian.mode

    def density(u: Any) -> jax.Array:
        """ELBO at θ, with the guide that follows it."""
        return gaussian.density(jnp.concatenate([u, mode[size:] + slope @ (u - mode[:size])]))

    reduced = GaussianApproximation(
        inner, mode[:size], factor, gaussian.log_density, log_evidence, gaussian.findings, density
    )

    def follow(draws: np.ndarray) -> dict[str, np.ndarray]:
        flat = mode[size:] + (draws - mode[:size]) @ slope.T
        cut = int(np.prod(shapes[LOCATION]))
        parts = {LOCATION: flat[:, :cut], SCALE: flat[:, cut:]}
        return {name: value.reshape(-1, *shapes[name]) for name, value in parts.items()}

    return reduced, follow


def latin_hypercube(draws: int, rows: int, width: int, *, whiten: bool) -> np.ndarray:
    """Lay S nodes for N(0, I) in each of R rows, (S, R, D): shuffled quantiles of each coordinate.

    Each coordinate has mean 0 and variance 1 over the nodes; with `whiten` each row's covariance is I.
    """
    generator = np.random.default_rng(draws)  # where the integrand is looked at, not what is answered
    quantiles = norm.ppf((np.arange(draws) + 0.5) / draws)
    nodes = np.stack([generator.permutation(quantiles) for _ in range(rows * width)], axis=1)
    nodes = (nodes - nodes.mean(axis=0)) / nodes.std(axis=0)
    nodes = nodes.reshape(draws, rows, width)
    if not whiten:
        return nodes
    covariance = np.einsum("srd,sre->rde", nodes, nodes) / draws
    inverse = np.linalg.inv(np.linalg.cholesky(covariance))
    return np.einsum("rde,sre->srd", inverse, nodes)
