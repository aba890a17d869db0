"""Mixture of Gaussians with conjugate, weak, scale-equivariant priors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from triptych.models import validation
from triptych.models.errors import InputError
from triptych.models.simulation import simulate
from triptych.models.validation import as_float, table_shape

__all__ = ["COVARIANCES", "GaussianMixture", "GaussianMixturePrior"]

COVARIANCES = ("spherical", "diagonal", "full", "tied")


class GaussianMixturePrior(NamedTuple):
    """The hyper-parameters of a Gaussian mixture in the units of the data.

    weights ~ Dirichlet(concentration); μ_k | Σ_k ~ N(location, Σ_k / mean_precision);
    Σ ~ InverseWishart(degrees_of_freedom, spread) for full and tied covariances,
    σ² ~ InverseGamma(degrees_of_freedom / 2, spread / 2) for diagonal and spherical ones.
    When the scale is known, `degrees_of_freedom` and `spread` are not used.

    Attributes
    ----------
    concentration : (K,).
    location : (D,), units of the data.
    mean_precision : how many rows the prior on a mean is worth.
    degrees_of_freedom : ν.
    spread : (D, D) full and tied, (D,) diagonal, () spherical; units of the data squared.

    """

    concentration: Any
    location: Any
    mean_precision: Any
    degrees_of_freedom: Any
    spread: Any


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """Mixture of K Gaussians: z_n ~ Categorical(π), x_n | z_n = k ~ N(μ_k, Σ_k).

    Sites: `weights` π (K,), `means` μ (K, D), `covariances` Σ: (K,) spherical variances, (K, D) diagonal
    variances, (K, D, D) full or (D, D) tied; the latent `z` (N,) and the data `x` (N, D).

    The priors are those of Fraley & Raftery (2007): worth little, and in the units of the data, so that
    fitting 1000·x gives 1000 times the means and 1000² times the covariances.

    Parameters
    ----------
    components : K.
    covariance : "spherical", "diagonal", "full" or "tied".
    scale : known standard deviation, one number or one a component; then there is no site `covariances`,
        the components are spherical, and `covariance` is left out.
    concentration : of the Dirichlet prior on the weights, one number or K; `None`: 1 + 1/K.
    mean_precision : rows that the prior on a mean is worth, κ.
    degrees_of_freedom : ν of the prior on a covariance; `None`: D + 2.
    location : (D,), centre of the prior on the means; `None`: the column means of the data (0 without data).
    spread : Λ, scale of the prior on a covariance: (D, D) full and tied, (D,) diagonal, a number for
        spherical; a number always stands for that multiple of the identity. `None`: the covariance of the data
        divided by K^(2/D) (its diagonal for diagonal, the mean of its diagonal for spherical; 1 without data).

    Raises
    ------
    InputError : a hyper-parameter out of range or of the wrong shape.

    References
    ----------
    C. Fraley and A. E. Raftery (2007), Bayesian regularization for normal mixture estimation and model-based
    clustering, Journal of Classification 24, 155–181.

    """

    components: int
    covariance: str = "full"
    scale: float | tuple[float, ...] | None = None
    concentration: float | tuple[float, ...] | None = None
    mean_precision: float = 0.01
    degrees_of_freedom: float | None = None
    location: tuple[float, ...] | None = None
    spread: Any = None

    def __post_init__(self) -> None:
        K = validation.whole_number("components", self.components)
        covariance = validation.choice("covariance", self.covariance, COVARIANCES)
        if self.scale is not None:
            if covariance not in ("full", "spherical"):
                raise InputError(
                    f"`scale` fixes spherical components, but `covariance` is {covariance!r}: leave one out."
                )
            covariance = "spherical"
        settings = {
            "components": K,
            "covariance": covariance,
            "scale": validation.each("scale", self.scale, K),
            "concentration": validation.each("concentration", self.concentration, K),
            "mean_precision": validation.positive("mean_precision", self.mean_precision),
            "degrees_of_freedom": (
                None
                if self.degrees_of_freedom is None
                else validation.positive("degrees_of_freedom", self.degrees_of_freedom)
            ),
            "location": validation.frozen("location", self.location),
            "spread": validation.frozen("spread", self.spread),
        }
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        if self.location is not None and np.ndim(self.location) != 1:
            raise InputError(f"`location` must have one number a column, but is {self.location!r}.")
        if self.spread is not None:
            _check_spread(np.asarray(self.spread))

    def __call__(self, x: Any = None, *, rows: int = 100, columns: int | None = None) -> jax.Array:
        """Run the program: draw, or condition on, `x`.

        Parameters
        ----------
        x : (N, D) data, or `None` to draw it.
        rows, columns : N and D when there is no data; `columns=None`: as many as `location` has, else 2.

        Returns
        -------
        (N, D) the data, drawn or given.

        """
        if x is not None:
            rows, columns = table_shape(x)
        prior = self.prior(x, columns=columns)
        x = None if x is None else as_float(x)
        dtype = jnp.result_type(float) if x is None else x.dtype
        prior = GaussianMixturePrior(*(jnp.asarray(value, dtype) for value in prior))

        weights = numpyro.sample("weights", dist.Dirichlet(prior.concentration))
        tied = self.covariance == "tied"
        shared = self._covariances(prior) if tied else None
        with numpyro.plate("components", self.components):
            roots = self._roots(self._covariances(prior) if shared is None else shared)
            means = numpyro.sample(
                "means", self._normal(prior.location, roots / jnp.sqrt(prior.mean_precision))
            )
        if means.shape[-1] != len(prior.location):
            raise InputError(
                f"`x` has {len(prior.location)} columns, but `means` has {means.shape[-1]}: "
                "give the columns that the model was fitted to."
            )
        with numpyro.plate("rows", rows):
            z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            return numpyro.sample("x", self._normal(means[z], roots if tied else roots[z]), obs=x)

    def prior(self, x: Any = None, *, columns: int | None = None) -> GaussianMixturePrior:
        """Give the hyper-parameters in the units of the data, as float64 NumPy arrays (JAX's if `x` is traced).

        Parameters
        ----------
        x : (N, D) data that sets the scale, or `None`: location 0, spread 1.
        columns : D, when there is no data.

        Raises
        ------
        InputError : `location` or `spread` has another number of columns than the data.

        """
        K = self.components
        if x is not None:
            x = x if isinstance(x, jax.core.Tracer) else np.asarray(x, np.float64)
            columns = x.shape[1]
        D = self._columns() if columns is None else columns
        location = np.zeros(D) if self.location is None else np.asarray(self.location)
        spread = self._own_spread(D)
        degrees_of_freedom = D + 2.0 if self.degrees_of_freedom is None else self.degrees_of_freedom
        if location.shape != (D,):
            raise InputError(f"`location` has {len(location)} numbers for {D} columns: give one a column.")
        if degrees_of_freedom <= D - 1 and self.covariance in ("full", "tied"):
            raise InputError(
                f"`degrees_of_freedom` must be above D − 1 = {D - 1} for {D} columns, but is {degrees_of_freedom:g}."
            )
        if x is not None and self.location is None:
            location = x.mean(axis=0)
        if x is not None and self.spread is None:
            spread = _shape_of(data_covariance(x), self.covariance) / K ** (2 / D)
        return GaussianMixturePrior(
            np.broadcast_to(1 + 1 / K if self.concentration is None else self.concentration, (K,)),
            location,
            np.asarray(self.mean_precision),
            np.asarray(degrees_of_freedom),
            spread,
        )

    def validate(self, x: Any, *, new: bool = False) -> np.ndarray:
        """Check data before any work and give it as a float array (N, D).

        Parameters
        ----------
        x : (N, D) array-like.
        new : the rows are for a model that is fitted already, so that one row or a constant column will do.

        Raises
        ------
        InputError : not a finite table of numbers, too few rows or distinct rows for K components, or columns
            for which a covariance cannot be had: constant, or (full, tied) linearly dependent.

        """
        array, names = validation.table(x)
        self.prior(None, columns=array.shape[1])
        if new:
            return array
        K = self.components
        validation.enough_rows(array, K, f"there are {K} components")
        validation.enough_rows(array, 2, "a spread cannot be had from one")
        validation.distinct_rows(array, max(K, 1 if self.scale is not None else 2))
        if self.scale is None:
            validation.varying_columns(array, names, "drop it, or give a known `scale`")
        if self.covariance in ("full", "tied"):
            validation.independent_columns(array, names, 'drop columns, or use covariance="diagonal"')
        return array

    def simulate(
        self,
        key: jax.Array,
        rows: int = 100,
        columns: int | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Draw data and the latents that made it.

        Parameters
        ----------
        key : random key.
        rows, columns : N and D; `columns=None`: as many as the given means or `location` have, else 2.
        parameters : site → value for `weights`, `means`, `covariances`; what is left out is drawn from the prior.

        Returns
        -------
        x : (N, D).
        latents : site → array: the parameters and `z` (N,).

        """
        rows = validation.whole_number("rows", rows)
        if columns is None and parameters and "means" in parameters:
            columns = np.shape(parameters["means"])[-1]
        if columns is not None:
            columns = validation.whole_number("columns", columns)
        sites = simulate(self, key, parameters=parameters, rows=rows, columns=columns)
        return sites.pop("x"), sites

    def _columns(self) -> int:
        """Give D when there is no data: as the hyper-parameters say, else 2."""
        if self.location is not None:
            return len(self.location)
        return len(self.spread) if isinstance(self.spread, tuple) else 2

    def _own_spread(self, columns: int) -> np.ndarray:
        """Give the `spread` of the fields, 1 if there is none, in the shape of the kind of covariance."""
        spread = np.asarray(1.0 if self.spread is None else self.spread)
        shape = {"spherical": (), "diagonal": (columns,)}.get(self.covariance, (columns, columns))
        if spread.ndim == 0:
            return spread * (np.eye(columns) if len(shape) == 2 else np.ones(shape))
        if spread.shape != shape:
            raise InputError(
                f"`spread` must be a number or have shape {shape} for {self.covariance} covariances of "
                f"{columns} columns, but has shape {spread.shape}."
            )
        return spread

    def _covariances(self, prior: GaussianMixturePrior) -> jax.Array:
        """Draw the covariances from their prior, or give the known ones, (K,)."""
        if self.scale is not None:
            known = jnp.square(jnp.asarray(self.scale, prior.location.dtype))
            return jnp.broadcast_to(known, (self.components,))
        if self.covariance in ("full", "tied"):
            wishart = dist.InverseWishart(prior.degrees_of_freedom, scale_matrix=prior.spread)
            return numpyro.sample("covariances", wishart)
        gamma = dist.InverseGamma(prior.degrees_of_freedom / 2, prior.spread / 2)
        return numpyro.sample("covariances", gamma.to_event(prior.spread.ndim))

    def _roots(self, covariances: jax.Array) -> jax.Array:
        """Give standard deviations, (K, 1) or (K, D), or Cholesky factors, (K, D, D) or (D, D)."""
        if self.covariance in ("full", "tied"):
            return jnp.linalg.cholesky(covariances)
        roots = jnp.sqrt(covariances)
        return roots[..., None] if self.covariance == "spherical" else roots

    def _normal(self, mean: jax.Array, root: jax.Array) -> dist.Distribution:
        """Give N(mean, root rootᵀ) over the last axis."""
        if self.covariance in ("full", "tied"):
            return dist.MultivariateNormal(mean, scale_tril=root)
        return dist.Normal(mean, root).to_event(1)


def data_covariance(x: Any) -> Any:
    """Give the covariance (D, D) of the rows of `x` (N, D) about their mean, divisor N − 1.

    A constant column, which only rows for a fitted model may have, counts as variance 1: the prior then
    plays no part, but its density must exist.
    """
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / max(len(x) - 1, 1)
    eye = np.eye(x.shape[1], dtype=covariance.dtype)
    return covariance + eye * (covariance.diagonal() == 0)


def _shape_of(matrix: Any, covariance: str) -> Any:
    """Reduce a covariance matrix (D, D) to what the kind of covariance can hold."""
    if covariance == "spherical":
        return matrix.diagonal().mean()
    return matrix.diagonal() if covariance == "diagonal" else matrix


def _check_spread(spread: np.ndarray) -> None:
    """Check that `spread` is positive (definite)."""
    square = spread.ndim == 2 and spread.shape[0] == spread.shape[1]
    fine = (
        square and np.array_equal(spread, spread.T) and np.linalg.eigvalsh(spread)[0] > 0
        if spread.ndim == 2
        else spread.ndim < 2 and np.all(spread > 0)
    )
    if not fine:
        raise InputError(
            f"`spread` must be positive numbers or a positive definite matrix, but is {spread.tolist()}."
        )
