"""One flat vector u ∈ R^p for the parameters of an EM step, where extrapolations are taken.

    simplex             centred logits  log w_k − mean_j log w_j
    positive            log x
    unit interval       log x − log(1 − x)
    positive definite   log-Cholesky: the factor L of Σ = L Lᵀ with log L_ii on its diagonal (zeros above it)
    real                x itself

Any u is a valid θ. A θ on the edge of its support (a weight of 0, a singular matrix) has no finite u.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.family import Array, Parameters

__all__ = ["Space", "space_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Other:
    """A support without a name here, by NumPyro's change of variables; compared by identity."""

    constraint: Any

    @property
    def transform(self) -> Any:
        """The change of variables θ = T(u)."""
        from numpyro.distributions import biject_to

        return biject_to(self.constraint)


@dataclasses.dataclass(frozen=True)
class Site:
    """One site: its shape, and its support by name where it has one."""

    name: str
    shape: tuple[int, ...]
    support: str | Other

    def inner(self) -> tuple[int, ...]:
        """Give the shape in u."""
        if isinstance(self.support, str):
            return self.shape
        return tuple(self.support.transform.inverse_shape(self.shape))


@dataclasses.dataclass(frozen=True)
class Space:
    """The sites in the order of u. Hashable: a static argument of `jax.jit`."""

    sites: tuple[Site, ...]

    @property
    def size(self) -> int:
        """p, the zeros above a Cholesky factor's diagonal included."""
        return sum(int(np.prod(site.inner())) for site in self.sites)

    def flatten(self, parameters: Parameters) -> Array:
        """Give u, (p,); not finite where θ is on the edge of its support."""
        return jnp.concatenate([jnp.ravel(_outward(site, parameters[site.name])) for site in self.sites])

    def unflatten(self, u: Array) -> dict[str, Array]:
        """Give θ, site → array, from u (p,)."""
        parameters, start = {}, 0
        for site in self.sites:
            shape = site.inner()
            stop = start + int(np.prod(shape))
            parameters[site.name] = _inward(site, jnp.reshape(u[start:stop], shape))
            start = stop
        return parameters


def space_of(parameters: Mapping[str, Any], supports: Mapping[str, Any]) -> Space:
    """Lay out u for the sites with a support; what a step keeps beside them is left as it is.

    Parameters
    ----------
    parameters : site → array, one point. supports : site → NumPyro constraint.
    """
    sites = [Site(name, np.shape(parameters[name]), _named(one)) for name, one in supports.items()]
    return Space(tuple(sites))


def _named(support: Any) -> str | Other:
    from numpyro.distributions import constraints

    base = support
    while isinstance(base, constraints._IndependentConstraint):
        base = base.base_constraint
    names = {
        "real": (constraints.real, constraints.real_vector, constraints.real_matrix),
        "positive": (constraints.positive, constraints.nonnegative, constraints.softplus_positive),
        "unit_interval": (constraints.unit_interval,),
        "simplex": (constraints.simplex,),
        "positive_definite": (constraints.positive_definite,),
    }
    for name, members in names.items():
        if any(base is one for one in members):
            return name
    return Other(support)


def _outward(site: Site, x: Array) -> Array:
    if site.support == "simplex":
        logs = jnp.log(x)
        return logs - jnp.mean(logs, axis=-1, keepdims=True)
    if site.support == "positive":
        return jnp.log(x)
    if site.support == "unit_interval":
        return jnp.log(x) - jnp.log1p(-x)
    if site.support == "positive_definite":
        factor = jnp.linalg.cholesky(x)
        eye = jnp.eye(x.shape[-1], dtype=bool)
        return jnp.where(eye, jnp.log(jnp.where(eye, factor, 1.0)), factor)
    return site.support.transform.inv(x) if isinstance(site.support, Other) else x


def _inward(site: Site, u: Array) -> Array:
    if site.support == "simplex":
        return jax.nn.softmax(u, axis=-1)
    if site.support == "positive":
        return jnp.exp(u)
    if site.support == "unit_interval":
        return jax.nn.sigmoid(u)
    if site.support == "positive_definite":
        eye = jnp.eye(u.shape[-1], dtype=bool)
        factor = jnp.where(eye, jnp.exp(jnp.where(eye, u, 0.0)), jnp.tril(u))
        return factor @ jnp.swapaxes(factor, -1, -2)
    return site.support.transform(u) if isinstance(site.support, Other) else u
