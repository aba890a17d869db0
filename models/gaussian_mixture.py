"""Mixture of Gaussians with conjugate, weak, scale-equivariant priors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer

from triptych.models import gaussian_prior as priors
from triptych.models import hyperparameters, validation
from triptych.models.distributions import CovariancePrior, GaussianVector, NormalVector, draw
from triptych.models.errors import InputError
from triptych.models.gaussian_prior import GaussianMixturePrior
from triptych.models.matrices import cholesky
from triptych.models.missing import Blocks, DiagonalNormalWithMissing, NormalWithMissing, blocks_of, moments
from triptych.models.simulation import simulate
from triptych.models.validation import as_float, float64_unless_traced, table_shape

__all__ = ["GaussianMixture", "GaussianMixturePrior"]


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
    location : centre of the prior on the means, one number or D; `None`: the column means of the data
        (0 without data).
    spread : Λ, scale of the prior on a covariance: (D, D) full and tied, (D,) diagonal, a number spherical;
        a number always stands for that multiple of the identity. `None`: the covariance of the data divided
        by K^(2/D) (its diagonal for diagonal, the mean of its diagonal for spherical; 1 without data).
    missing : whether cells of the data may be NaN: they are then integrated out, exactly, which is right if
        they are missing at random. The prior takes each column's mean and variance from its own cells.

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
    location: float | tuple[float, ...] | None = None
    spread: Any = None
    missing: bool = False

    def __post_init__(self) -> None:
        K = hyperparameters.whole_number("components", self.components)
        covariance = hyperparameters.choice("covariance", self.covariance, priors.COVARIANCES)
        if self.scale is not None:
            if covariance not in ("full", "spherical"):
                raise InputError(
                    f"`scale` fixes spherical components, but `covariance` is {covariance!r}: leave one out."
                )
            covariance = "spherical"
        settings = {
            "components": K,
            "covariance": covariance,
            "scale": hyperparameters.each("scale", self.scale, K),
            "concentration": hyperparameters.each("concentration", self.concentration, K),
            "mean_precision": hyperparameters.positive("mean_precision", self.mean_precision),
            "degrees_of_freedom": (
                None
                if self.degrees_of_freedom is None
                else hyperparameters.positive("degrees_of_freedom", self.degrees_of_freedom)
            ),
            "location": hyperparameters.frozen("location", self.location),
            "spread": hyperparameters.frozen("spread", self.spread),
        }
        if not isinstance(self.missing, bool | np.bool_):
            raise InputError(f"`missing` is {self.missing!r}: give True or False.")
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        priors.check_location(self.location)
        if self.spread is not None:
            priors.check_spread(self.spread)

    def __call__(
        self, x: Any = None, z: Any = None, *, rows: int = 100, columns: int | None = None
    ) -> jax.Array:
        """Run the program: draw, or condition on, `x`, and on the labels of some rows.

        Parameters
        ----------
        x : (N, D) data, or `None` to draw it.
        z : (N,) the components that rows are known to be of, −1 or NaN where it is not known.
        rows, columns : N and D when there is no data; `columns=None`: as many as `location` has, else 2.

        Returns
        -------
        (N, D) the data, drawn or given.
        """
        if x is not None:
            rows, columns = table_shape(x)
        prior = self.prior(x, columns=columns)
        gaps = self.missing and x is not None and not isinstance(x, Tracer)
        blocks = blocks_of(x) if gaps else None
        x = None if x is None else as_float(x)
        dtype = jnp.result_type(float) if x is None else x.dtype
        # Known numbers stay NumPy's, on which nothing has to be compiled.
        prior = GaussianMixturePrior(
            *(jnp.asarray(v, dtype) if isinstance(v, Tracer) else np.asarray(v, dtype) for v in prior)
        )

        weights = draw("weights", dist.Dirichlet(prior.concentration))
        tied = self.covariance == "tied"
        shared = self._covariances(prior) if tied else None
        with numpyro.plate("components", self.components):
            roots = self._roots(self._covariances(prior) if shared is None else shared)
            means = draw("means", self._normal(prior.location, roots / jnp.sqrt(prior.mean_precision)))
        validation.same_width("means", means, len(prior.location))
        with numpyro.plate("rows", rows):
            k = draw("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            if z is not None:
                known = jnp.asarray(z)
                numpyro.factor("labels", jnp.where((known == k) | ~(known >= 0), 0.0, -jnp.inf))
            return draw("x", self._rows(means[k], roots if tied else roots[k], blocks), obs=x)

    def prior(self, x: Any = None, *, columns: int | None = None) -> GaussianMixturePrior:
        """Give the hyper-parameters in the units of the data, as float64 arrays (traced ones if `x` is).

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
            x = float64_unless_traced(x)
            columns = x.shape[1]
        D = self._columns() if columns is None else columns
        location = priors.own_location(self.location, D)
        spread = priors.own_spread(self.spread, self.covariance, D)
        degrees_of_freedom = D + 2.0 if self.degrees_of_freedom is None else self.degrees_of_freedom
        if degrees_of_freedom <= D - 1 and self.covariance in ("full", "tied"):
            raise InputError(
                f"`degrees_of_freedom` must be above {D - 1} for matrices of {D} columns, "
                f"but is {degrees_of_freedom:g}."
            )
        if x is not None and self.location is None:
            location = moments(x)[1] if self.missing else x.mean(axis=0)
        if x is not None and self.spread is None:
            covariance = priors.incomplete_covariance(x) if self.missing else priors.data_covariance(x)
            spread = priors.as_covariance(covariance, self.covariance) / K ** (2 / D)
        concentration = 1 + 1 / K if self.concentration is None else self.concentration
        return GaussianMixturePrior(
            np.broadcast_to(concentration, (K,)),
            location,
            np.float64(self.mean_precision),
            np.float64(degrees_of_freedom),
            spread,
        )

    def fix_prior(self, x: Any, z: Any = None) -> GaussianMixture:
        """Give the same model with the prior it has for the data `x`, whatever data it is given then.

        A prior in the units of the data is another one for other data. Where data are drawn from the prior
        and fitted (simulation-based calibration), or some rows are left out, it has to stay what it is.
        """
        (x, *_) = self.validate(x, z)
        prior = self.prior(x)
        return dataclasses.replace(self, location=prior.location, spread=prior.spread)

    def validate(self, x: Any, z: Any = None, *, new: bool = False) -> tuple[np.ndarray, ...]:
        """Check data before any work and give `(x,)`, a float array (N, D), or `(x, z)` with labels.

        Parameters
        ----------
        x : (N, D) array-like.
        z : (N,) labels 0 to K − 1, −1 or NaN where there is none; they are returned as whole numbers.
        new : the rows are for a model that is fitted already, so that one row or a constant column will do.

        Raises
        ------
        InputError : not a finite table of numbers (NaN is let through if `missing`), too few rows or distinct
            rows for K components, columns for which a covariance cannot be had: constant, without a cell,
            or (full, tied) linearly dependent; labels that are no components.
        """
        cure = "drop those rows, fill the values in, or integrate NaN cells out with `missing=True`"
        array, names = validation.table(x, cure=cure, missing=self.missing)
        self.prior(None, columns=array.shape[1])
        checked = (array,) if z is None else (array, validation.labels(z, len(array), self.components))
        if new:
            return checked
        K = self.components
        if self.missing:
            validation.cells_in_every_column(array, names)
            array = array[~np.all(np.isnan(array), axis=1)]
        validation.enough_rows(array, K, f"there are {K} components")
        validation.enough_rows(array, 2, "a spread cannot be had from one")
        validation.distinct_rows(array, max(K, 1 if self.scale is not None else 2))
        if self.scale is None:
            validation.varying_columns(array, names, "drop it, or give a known `scale`")
        if self.covariance in ("full", "tied"):
            validation.independent_columns(array, names, 'drop columns, or use covariance="diagonal"')
        return checked

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
        parameters : site → value for `weights`, `means`, `covariances`; the others are drawn from the prior.

        Returns
        -------
        x : (N, D).
        latents : site → array: the parameters and `z` (N,).
        """
        rows = hyperparameters.whole_number("rows", rows)
        if columns is None and parameters and "means" in parameters:
            columns = np.shape(parameters["means"])[-1]
        if columns is not None:
            columns = hyperparameters.whole_number("columns", columns)
        sites = simulate(self, key, parameters=parameters, rows=rows, columns=columns)
        return sites.pop("x"), sites

    def _columns(self) -> int:
        """Give D when there is no data: as the hyper-parameters say, else 2."""
        given = (value for value in (self.location, self.spread) if isinstance(value, tuple))
        return len(next(given, (None, None)))

    def _covariances(self, prior: GaussianMixturePrior) -> jax.Array:
        """Draw the covariances from their prior, or give the known ones, (K,)."""
        if self.scale is not None:
            known = jnp.square(jnp.asarray(self.scale, prior.location.dtype))
            return jnp.broadcast_to(known, (self.components,))
        if self.covariance in ("full", "tied"):
            fn = CovariancePrior(prior.degrees_of_freedom, prior.spread)
        else:
            gamma = dist.InverseGamma(prior.degrees_of_freedom / 2, prior.spread / 2)
            fn = gamma.to_event(prior.spread.ndim)
        covariances = draw("covariances", fn)
        if self.covariance != "spherical":
            validation.same_width("covariances", covariances, len(prior.location))
        return covariances

    def _roots(self, covariances: jax.Array) -> jax.Array:
        """Give standard deviations, (K, 1) or (K, D), or Cholesky factors, (K, D, D) or (D, D)."""
        if self.covariance in ("full", "tied"):
            return cholesky(covariances)
        roots = jnp.sqrt(covariances)
        return roots[..., None] if self.covariance == "spherical" else roots

    def _rows(self, mean: jax.Array, root: jax.Array, blocks: Blocks | None) -> dist.Distribution:
        """Give the distribution of the data, whose cells may be missing."""
        if not self.missing:
            return self._normal(mean, root)
        if self.covariance in ("full", "tied"):
            return NormalWithMissing(mean, root, blocks)
        return DiagonalNormalWithMissing(mean, root)

    def _normal(self, mean: jax.Array, root: jax.Array) -> dist.Distribution:
        """Give N(mean, root rootᵀ) over the last axis."""
        if self.covariance in ("full", "tied"):
            return GaussianVector(mean, scale_tril=root)
        return NormalVector(mean, root)
