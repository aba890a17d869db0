"""The space without constraints, where Laplace, SVI and MCMC work: one flat vector u for all of θ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.precision import double_precision

__all__ = ["Coordinates", "Supports", "coordinates", "element_names"]

# Where a coordinate of an estimate on the edge of its support is put: logit(1e-13) is about −30.
EDGE = 30.0


@dataclasses.dataclass(frozen=True)
class Coordinates:
    """A change of variables θ = T(u) between a program's parameters and u ∈ R^p.

    Attributes
    ----------
    sites : names, in the order of the flat vector.
    supports : NumPyro constraint of each.
    shapes : unconstrained shape of each.
    """

    sites: tuple[str, ...]
    supports: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """How many coordinates, p."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(int(np.prod(shape)) for shape in self.shapes)

    @property
    def names(self) -> tuple[str, ...]:
        """The p coordinates' names: the site, with its unconstrained index."""
        return tuple(
            name
            for site, shape in zip(self.sites, self.shapes, strict=True)
            for name in element_names(site, shape)
        )

    @property
    def real(self) -> np.ndarray:
        """Which coordinates are the parameters themselves, not logarithms or logits of them: (p,)."""
        from numpyro.distributions.transforms import IdentityTransform, IndependentTransform

        from triptych.inference.bijections import bijection

        def identity(support: Any) -> bool:
            transform = bijection(support)
            while isinstance(transform, IndependentTransform):
                transform = transform.base_transform
            return isinstance(transform, IdentityTransform)

        return np.repeat([identity(support) for support in self.supports], self._sizes).astype(bool)

    def constrain(self, u: Any) -> dict[str, jax.Array]:
        """Give θ = T(u), site → array, for one u (p,)."""
        return {site: transform(x) for site, transform, x in self._pieces(u)}

    def log_jacobian(self, u: Any) -> jax.Array:
        """Give log |det ∂T/∂u|, a scalar in nats, for one u (p,)."""
        total = jnp.zeros((), jnp.result_type(float))
        for _, transform, x in self._pieces(u):
            total += jnp.sum(transform.log_abs_det_jacobian(x, transform(x)))
        return total

    def unconstrain(self, parameters: Mapping[str, Any]) -> jax.Array:
        """Give u = T⁻¹(θ), (p,); a value on the edge of its support lands at a finite ±30."""
        from triptych.inference.bijections import bijection

        flat = [
            jnp.ravel(bijection(support).inv(jnp.asarray(parameters[site])))
            for site, support in zip(self.sites, self.supports, strict=True)
        ]
        u = jnp.concatenate(flat) if flat else jnp.zeros(0)
        edge = jnp.clip(jnp.nan_to_num(u, nan=0.0, posinf=EDGE, neginf=-EDGE), -EDGE, EDGE)
        return jnp.where(jnp.asarray(self.real), u, edge)

    def _pieces(self, u: Any) -> list[tuple[str, Any, jax.Array]]:
        from triptych.inference.bijections import bijection

        pieces, start = [], 0
        for site, support, shape, size in zip(
            self.sites, self.supports, self.shapes, self._sizes, strict=True
        ):
            pieces.append((site, bijection(support), jnp.reshape(u[start : start + size], shape)))
            start += size
        return pieces

    def natural(self, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Carry draws (chain, draw, p) back to θ: site → (chain, draw, …)."""
        from triptych.inference.batches import in_batches

        chains, count, _ = samples.shape
        flat = in_batches(self.constrain, samples.reshape(chains * count, -1))
        return {site: values.reshape(chains, count, *values.shape[1:]) for site, values in flat.items()}

    def density(
        self, log_density: Callable[[Any], Any], *, jacobian: bool = True
    ) -> Callable[[Any], jax.Array]:
        """Give log p as a function of u: log_density(T(u)), with the log-Jacobian unless told not to."""

        def of_u(u: Any) -> jax.Array:
            value = log_density(self.constrain(u))
            return value + self.log_jacobian(u) if jacobian else value

        return of_u


@dataclasses.dataclass(frozen=True, eq=False)
class Supports:
    """Site and NumPyro constraint of each parameter: a static argument of `jax.jit`, as no constraint is.

    Two are equal where they have the same sites with the very same constraints.
    """

    sites: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, supports: Mapping[str, Any]) -> Supports:
        """Take them from site → constraint."""
        return cls(tuple(supports.items()))

    def space(self, parameters: Mapping[str, Any]) -> Coordinates:
        """Lay out the unconstrained space of parameters, site → array (which may be traced)."""
        return coordinates({site: (np.shape(parameters[site]), support) for site, support in self.sites})

    @property
    def _identity(self) -> tuple[tuple[str, int], ...]:
        return tuple((site, id(support)) for site, support in self.sites)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Supports) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def coordinates(parameters: Mapping[str, tuple[tuple[int, ...], Any]]) -> Coordinates:
    """Lay out the unconstrained space of parameters given as name → (shape, support)."""
    from triptych.inference.bijections import bijection

    with double_precision():
        shapes = tuple(
            tuple(bijection(support).inverse_shape(tuple(shape))) for shape, support in parameters.values()
        )
    return Coordinates(tuple(parameters), tuple(support for _, support in parameters.values()), shapes)


def element_names(site: str, shape: tuple[int, ...]) -> list[str]:
    """Name every element of a site: `means[1,0]`; a scalar is just `beta`."""
    if not shape:
        return [site]
    return [f"{site}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]
