"""Mixture of products of Bernoullis (latent class analysis of binary answers)."""

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
from triptych.models.distributions import BernoulliVector, draw
from triptych.models.errors import InputError
from triptych.models.simulation import simulate
from triptych.models.validation import as_float, table_shape

__all__ = ["BernoulliMixture", "BernoulliMixturePrior", "mixture_covariance", "mixture_mean"]


class BernoulliMixturePrior(NamedTuple):
    """weights ~ Dirichlet(concentration), (K,); each probability ~ Beta(a, b), `probs_concentration` (2,)."""

    concentration: np.ndarray
    probs_concentration: np.ndarray


@dataclasses.dataclass(frozen=True)
class BernoulliMixture:
    """Mixture of K products of Bernoullis: z_n ~ Categorical(π), x_nd | z_n = k ~ Bernoulli(μ_kd).

    Sites: `weights` π (K,), `probs` μ (K, D); the latent `z` (N,) and the data `x` (N, D) of 0 and 1.

    Parameters
    ----------
    components : K.
    concentration : of the Dirichlet prior on the weights, one number or K; `None`: 1 + 1/K.
    probs_concentration : (a, b) of the Beta(a, b) prior on every probability; above 1, the posterior mode
        stays off 0 and 1.

    Raises
    ------
    InputError : a hyper-parameter out of range or of the wrong shape.

    References
    ----------
    C. M. Bishop (2006), Pattern Recognition and Machine Learning, section 9.3.3.
    """

    components: int
    concentration: float | tuple[float, ...] | None = None
    probs_concentration: tuple[float, float] = (1.5, 1.5)

    def __post_init__(self) -> None:
        K = hyperparameters.whole_number("components", self.components)
        object.__setattr__(self, "components", K)
        object.__setattr__(
            self, "concentration", hyperparameters.each("concentration", self.concentration, K)
        )
        pair = hyperparameters.frozen("probs_concentration", self.probs_concentration)
        if not isinstance(pair, tuple) or np.shape(pair) != (2,) or min(pair) <= 0:
            raise InputError(f"`probs_concentration` must be two numbers above 0, (a, b), but is {pair!r}.")
        object.__setattr__(self, "probs_concentration", pair)

    def __call__(self, x: Any = None, *, rows: int = 100, columns: int = 2) -> jax.Array:
        """Run the program: draw, or condition on, `x`.

        Parameters
        ----------
        x : (N, D) data of 0 and 1, or `None` to draw it.
        rows, columns : N and D when there is no data.

        Returns
        -------
        (N, D) the data, drawn or given.
        """
        if x is not None:
            rows, columns = table_shape(x)
            x = as_float(x)
        dtype = jnp.result_type(float) if x is None else x.dtype
        prior = self.prior(x)
        a, b = jnp.asarray(prior.probs_concentration, dtype)

        weights = draw("weights", dist.Dirichlet(jnp.asarray(prior.concentration, dtype)))
        with numpyro.plate("components", self.components):
            probs = draw("probs", dist.Beta(a, b).expand([columns]).to_event(1))
        validation.same_width("probs", probs, columns)
        with numpyro.plate("rows", rows):
            z = draw("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            return draw("x", BernoulliVector(probs[z]), obs=x)

    def prior(self, x: Any = None) -> BernoulliMixturePrior:
        """Give the hyper-parameters as float64 arrays; they do not depend on the data, which have no unit."""
        del x
        K = self.components
        concentration = 1 + 1 / K if self.concentration is None else self.concentration
        return BernoulliMixturePrior(
            np.broadcast_to(np.asarray(concentration), (K,)), np.asarray(self.probs_concentration)
        )

    def fix_prior(self, x: Any = None) -> BernoulliMixture:
        """Give the model itself: its prior does not depend on the data."""
        del x
        return self

    def validate(self, x: Any, *, new: bool = False) -> tuple[np.ndarray]:
        """Check data before any work and give `(x,)`, a float array (N, D).

        Parameters
        ----------
        x : (N, D) array-like of 0 and 1 (or False and True).
        new : the rows are for a model that is fitted already, so that one row will do.

        Raises
        ------
        InputError : not a table of 0 and 1, or too few rows or distinct rows for K components.
        """
        array, names = validation.table(x)
        validation.binary(array, names)
        if not new:
            K = self.components
            validation.enough_rows(array, K, f"there are {K} components")
            validation.enough_rows(array, 2, "a mixture cannot be had from one")
            validation.distinct_rows(array, K)
        return (array,)

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
        rows, columns : N and D; `columns=None`: as many as the given `probs` have, else 2.
        parameters : site → value for `weights`, `probs`; what is left out is drawn from the prior.

        Returns
        -------
        x : (N, D), 0 and 1.
        latents : site → array: the parameters and `z` (N,).
        """
        rows = hyperparameters.whole_number("rows", rows)
        if columns is None:
            columns = np.shape(parameters["probs"])[-1] if parameters and "probs" in parameters else 2
        columns = hyperparameters.whole_number("columns", columns)
        sites = simulate(self, key, parameters=parameters, rows=rows, columns=columns)
        return sites.pop("x"), sites


def mixture_mean(weights: Any, probs: Any) -> Any:
    """Give the mean of a Bernoulli mixture, E[x] = Σ_k π_k μ_k.

    Parameters
    ----------
    weights : (..., K) π.
    probs : (..., K, D) μ.

    Returns
    -------
    (..., D)
    """
    return (weights[..., None] * probs).sum(-2)


def mixture_covariance(weights: Any, probs: Any) -> Any:
    """Give the covariance of a Bernoulli mixture, Σ_k π_k (Σ_k + μ_k μ_kᵀ) − E[x] E[x]ᵀ.

    Σ_k = diag(μ_k (1 − μ_k)): within a component the columns are independent, so that all correlation between
    them comes from the mixing (Bishop 2006, equation 9.50). It is computed as the spread of the component
    means about E[x], which is the same and cancels no digits.

    Parameters
    ----------
    weights : (..., K) π.
    probs : (..., K, D) μ.

    Returns
    -------
    (..., D, D)
    """
    away = probs - mixture_mean(weights, probs)[..., None, :]
    between = (weights[..., None] * away).swapaxes(-1, -2) @ away
    within = (weights[..., None] * probs * (1 - probs)).sum(-2)
    return between + within[..., None] * np.eye(probs.shape[-1], dtype=probs.dtype)
