"""Bayesian linear regression with unknown weight and noise precisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from triptych.models import hyperparameters, validation
from triptych.models.distributions import Flat, draw
from triptych.models.errors import InputError
from triptych.models.simulation import simulate
from triptych.models.validation import as_float, float64_unless_traced, table_shape

__all__ = ["BayesianLinearRegression", "LinearRegressionPrior"]


class LinearRegressionPrior(NamedTuple):
    """λ ~ Gamma(lambda_shape, lambda_rate), β ~ Gamma(beta_shape, beta_rate), in the units of the data.

    λ has the unit of x²/y², its rate that of y²/x²; β has the unit of 1/y², its rate that of y².
    """

    lambda_shape: Any
    lambda_rate: Any
    beta_shape: Any
    beta_rate: Any


@dataclasses.dataclass(frozen=True)
class BayesianLinearRegression:
    """Bayesian linear regression: w ~ N(0, λ⁻¹ I), y ~ N(intercept + X w, β⁻¹).

    Sites: `w` (D,), `lambda` (precision of the weights), `beta` (precision of the noise), `intercept` (flat,
    not penalised) and the data `y` (N,).

    The hyper-priors are Gamma distributions of the precisions in standardised units,
    β·Var(y) and λ·Var(y)/mean_d Var(X_d), so that changing the unit of y or of all of X changes nothing but
    units.

    Parameters
    ----------
    intercept : whether there is an intercept.
    lambda_shape, lambda_rate : of the Gamma prior on λ, standardised.
    beta_shape, beta_rate : of the Gamma prior on β, standardised.
    target_variance : Var(y) that the priors take their unit from; `None`: that of the data (1 without data).

    Raises
    ------
    InputError : a hyper-parameter out of range.

    References
    ----------
    C. M. Bishop (2006), Pattern Recognition and Machine Learning, sections 3.3 to 3.5 (λ is his α).
    """

    intercept: bool = True
    lambda_shape: float = 1.0
    lambda_rate: float = 0.01
    beta_shape: float = 1.0
    beta_rate: float = 0.01
    target_variance: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.intercept, bool | np.bool_):
            raise InputError(f"`intercept` must be true or false, but is {self.intercept!r}.")
        object.__setattr__(self, "intercept", bool(self.intercept))
        for name in ("lambda_shape", "lambda_rate", "beta_shape", "beta_rate"):
            object.__setattr__(self, name, hyperparameters.positive(name, getattr(self, name)))
        if self.target_variance is not None:
            variance = hyperparameters.positive("target_variance", self.target_variance)
            object.__setattr__(self, "target_variance", variance)

    def __call__(self, X: Any, y: Any = None) -> jax.Array:
        """Run the program: draw, or condition on, `y`.

        Parameters
        ----------
        X : (N, D) design matrix, without a column of ones.
        y : (N,) data, or `None` to draw it.

        Returns
        -------
        (N,) the data, drawn or given.
        """
        N, D = table_shape(X, "X")
        if y is not None and np.shape(y) != (N,):
            raise InputError(f"`y` must have shape ({N},), one value a row of `X`, but has {np.shape(y)}.")
        prior = self.prior(X, y)
        X = as_float(X)
        y = None if y is None else as_float(y)
        dtype = X.dtype if y is None else jnp.result_type(X, y)
        prior = LinearRegressionPrior(*(jnp.asarray(value, dtype) for value in prior))

        precision = draw("lambda", dist.Gamma(prior.lambda_shape, prior.lambda_rate))
        noise = draw("beta", dist.Gamma(prior.beta_shape, prior.beta_rate))
        w = draw("w", dist.Normal(0.0, 1 / jnp.sqrt(precision)).expand([D]).to_event(1))
        validation.same_width("w", w, D, "X")
        mean = X @ w
        if self.intercept:
            mean = mean + draw("intercept", Flat(dtype=dtype))
        with numpyro.plate("rows", N):
            return draw("y", dist.Normal(mean, 1 / jnp.sqrt(noise)), obs=y)

    def prior(self, X: Any, y: Any = None) -> LinearRegressionPrior:
        """Give the hyper-parameters in the units of the data, as float64 numbers (traced if the data are).

        Parameters
        ----------
        X : (N, D) design matrix.
        y : (N,) data, or `None`: variance 1. Not looked at where the model has a `target_variance`.
        """
        target = self.target_variance
        if target is None:
            target = 1.0 if y is None else _variance(y)
        return LinearRegressionPrior(
            np.float64(self.lambda_shape),
            self.lambda_rate * target / _variance(X).mean(),
            np.float64(self.beta_shape),
            np.float64(self.beta_rate) * target,
        )

    def fix_prior(self, X: Any, y: Any) -> BayesianLinearRegression:
        """Give the same model with the unit that its priors have for `y`, whatever `y` it is given then.

        A prior in the units of the data is another one for other data: see `GaussianMixture.fix_prior`. The
        design is conditioned on, so that the prior may go on to depend on it.
        """
        _, y = self.validate(X, y)
        return dataclasses.replace(self, target_variance=float(_variance(y)))

    def validate(self, X: Any, y: Any = None, *, new: bool = False) -> tuple[np.ndarray, ...]:
        """Check data before any work and give (X, y), or (X,), as float arrays (N, D) and (N,).

        Parameters
        ----------
        X : (N, D) array-like.
        y : (N,) array-like.
        new : the rows are for a model that is fitted already, so that one row or a constant column will do.

        Raises
        ------
        InputError : not finite numbers, lengths that differ, a single row, a constant `y`, or a constant
            column beside an intercept.
        """
        array, names = validation.table(X, "X")
        target = None if y is None else validation.vector(y, "y", len(array), "X")
        if not new:
            validation.enough_rows(array, 2, "a slope cannot be had from one", "X")
            if self.intercept:
                cure = "drop it (the model has an intercept), or give intercept=False"
                validation.varying_columns(array, names, cure, "X")
            elif not np.any(np.ptp(array, axis=0) > 0):
                raise InputError("Every column of `X` is constant: give at least one that varies.")
            if target is not None:
                validation.varying_columns(target[:, None], ["y"], "there is nothing to explain", "y")
        return (array,) if target is None else (array, target)

    def simulate(
        self,
        key: jax.Array,
        X: Any = None,
        *,
        rows: int = 100,
        columns: int | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """Draw data and the latents that made it.

        Parameters
        ----------
        key : random key.
        X : (N, D) design matrix, or `None` to draw it from a standard normal.
        rows, columns : N and D when there is no `X`; `columns=None`: as many as the given `w` has, else 2.
        parameters : site → value for `w`, `lambda`, `beta`, `intercept`; what is left out is drawn from the
            prior (the intercept, which has none, is 0).

        Returns
        -------
        (X, y) : (N, D) and (N,).
        latents : site → array.
        """
        design, draw = jax.random.split(key)
        if X is None:
            if columns is None:
                columns = len(np.atleast_1d(parameters["w"])) if parameters and "w" in parameters else 2
            shape = (
                hyperparameters.whole_number("rows", rows),
                hyperparameters.whole_number("columns", columns),
            )
            with jax.enable_x64(True):
                X = np.asarray(jax.random.normal(design, shape))
        (X,) = self.validate(X, new=True)
        sites = simulate(self, draw, X, parameters=parameters)
        return (X, sites.pop("y")), sites


def _variance(x: Any) -> Any:
    """Give the variance of each column, divisor N − 1; where it is 0, as in rows for a fitted model, 1."""
    x = float64_unless_traced(x)
    centred = x - x.mean(axis=0)
    variance = (centred * centred).sum(axis=0) / max(len(x) - 1, 1)
    return variance + (variance == 0)
