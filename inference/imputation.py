"""Missing cells filled in, with their uncertainty: mean and spread of p(x_mis | x_obs) under a fit."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.arguments import recall
from triptych.inference.em.incomplete import Conditionals, conditionals
from triptych.inference.fit import Fit
from triptych.inference.marginal import marginal
from triptych.inference.posterior import draws as draws_of
from triptych.inference.precision import double_precision
from triptych.models.errors import InputError
from triptych.models.gaussian_mixture import GaussianMixture
from triptych.models.missing import Blocks, blocks_of, moments

__all__ = ["Imputation", "impute"]


class Imputation(NamedTuple):
    """What the missing cells of a table would have been; an observed cell is itself, without spread.

    Attributes
    ----------
    mean : (N, D), E[x | what was observed].
    sd : (N, D), the standard deviation of each cell given what was observed; 0 where it was.
    draws : (S, N, D), whole tables drawn given what was observed; None unless asked for.
    """

    mean: np.ndarray
    sd: np.ndarray
    draws: np.ndarray | None = None


def impute(
    fit: Fit, x: Any = None, z: Any = None, *, draws: int = 0, key: jax.Array | None = None
) -> Imputation:
    """Fill the missing cells of a table in, under a fitted Gaussian mixture.

    With r_k = p(z = k | x_obs, θ), x̂_k = E[x | x_obs, k, θ] and C_k = Cov[x | x_obs, k, θ],

        mean = E Σ_k r_k x̂_k,     sd² = E Σ_k r_k (x̂_k² + diag C_k) − mean²

    where E is over the posterior draws of SVI and MCMC, so that sd holds the uncertainty of component,
    regression and parameters (the law of total variance); EM's is at its point estimate, without the last.

    Parameters
    ----------
    fit : of a `GaussianMixture`; it need not have seen a missing cell itself.
    x : (N, D) rows, NaN where a cell is missing; `None`: those of the fit.
    z : (N,) labels of rows, −1 or NaN where there is none.
    draws : tables to draw; for multiple imputation, each from another posterior draw.
    key : random key, needed for `draws`.

    Raises
    ------
    InputError : the fit is of another program, or the rows are not what its model can take.
    """
    model = fit.model
    if not isinstance(model, GaussianMixture):
        name = getattr(model, "__name__", type(model).__name__)
        raise InputError(f"Cells are imputed under a fitted GaussianMixture, and this fit is of {name}.")
    if draws and key is None:
        raise InputError("`draws` needs a random `key`: impute(fit, draws=100, key=jax.random.key(0)).")
    if x is None:
        called = recall(fit.data)
        if called is None:
            raise InputError("The fit did not keep its data: give `x`.")
        given = inspect.signature(model).bind(*called[0], **called[1]).arguments
        x, z = given["x"], given.get("z")
    model = dataclasses.replace(model, missing=True)
    args = model.validate(x, z, new=True)
    with double_precision():
        rows = np.asarray(args[0], np.float64)
        if rows.shape[1] != fit.parameters["means"].shape[1]:
            raise InputError(
                f"`x` has {rows.shape[1]} columns, and the model was fitted to "
                f"{fit.parameters['means'].shape[1]}: give the same columns."
            )
        if fit.method in ("em", "ascent"):
            thetas = {site: np.asarray(value)[None] for site, value in fit.parameters.items()}
        else:
            thetas = {site: value.reshape(-1, *value.shape[2:]) for site, value in draws_of(fit).items()}
        return _impute(model, thetas, (rows, *args[1:]), draws, key)


def _impute(
    model: GaussianMixture, thetas: Mapping[str, np.ndarray], args: tuple[Any, ...], draws: int, key: Any
) -> Imputation:
    x = args[0]
    gaps = np.isnan(x)
    centre = moments(x)[1]
    blocks, m = blocks_of(x), marginal(model)

    def posterior(theta: Mapping[str, Any]) -> jax.Array:
        return m.posteriors(theta, *args)["z"]

    see = _seen(model, blocks, x - centre, centre, posterior)

    def add(total: Any, theta: Mapping[str, Any]) -> tuple[Any, None]:
        responsibilities, guess, given = see(theta)
        weight = jnp.swapaxes(responsibilities, 1, 2)[..., None]
        spread = jnp.diagonal(given.covariance, axis1=-2, axis2=-1)[:, :, None, :]
        first = jnp.sum(weight * guess, axis=1)
        second = jnp.sum(weight * (guess**2 + spread), axis=1)
        return (total[0] + first, total[1] + second), None

    count = len(next(iter(thetas.values())))
    zero = jnp.zeros((*blocks.rows.shape, x.shape[1]))
    sums, _ = jax.jit(lambda every: jax.lax.scan(add, (zero, zero), every))(_device(thetas))
    first, second = (np.asarray(leaf).reshape(-1, x.shape[1])[blocks.place] / count for leaf in sums)
    mean = np.where(gaps, first + centre, x)
    sd = np.where(gaps, np.sqrt(np.maximum(second - first**2, 0.0)), 0.0)
    if not draws:
        return Imputation(mean, sd)

    def one(item: tuple[jax.Array, Mapping[str, Any]]) -> jax.Array:
        which, noise = jax.random.split(item[0])
        responsibilities, guess, given = see(item[1])
        k = jax.random.categorical(which, jnp.log(responsibilities))  # (M, B)
        there = jnp.asarray(blocks.patterns, float)
        factor = jnp.linalg.cholesky(given.covariance + jnp.eye(x.shape[1]) * there[:, None, None, :])
        factor = jnp.broadcast_to(factor, (*guess.shape[:2], *factor.shape[-2:]))
        block = jnp.arange(len(k))[:, None]
        node = jax.random.normal(noise, (*k.shape, x.shape[1])) * (1 - there)[:, None, :]
        place = guess[block, k, jnp.arange(k.shape[1])]
        return place + jnp.squeeze(factor[block, k] @ node[..., None], -1)

    chosen = {site: value[np.arange(draws) * count // draws] for site, value in thetas.items()}
    keys = jax.random.split(key, draws)
    tables = np.asarray(jax.jit(lambda items: jax.lax.map(one, items))((keys, _device(chosen))))
    tables = tables.reshape(draws, -1, x.shape[1])[:, blocks.place] + centre
    return Imputation(mean, sd, np.where(gaps, tables, x))


def _device(thetas: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    return {site: jnp.asarray(value, float) for site, value in thetas.items()}


def _seen(
    model: GaussianMixture,
    blocks: Blocks,
    centred: np.ndarray,
    centre: np.ndarray,
    posterior: Callable[[Mapping[str, Any]], jax.Array],
) -> Callable[[Mapping[str, Any]], tuple[jax.Array, jax.Array, Conditionals]]:
    """Give the function θ → responsibilities (M, B, K), x̂ − centre (M, K, B, D) and C, by blocks of rows."""
    there = blocks.patterns.astype(float)
    rows = np.nan_to_num(centred)[blocks.rows] * there[:, None, :]

    def see(theta: Mapping[str, Any]) -> tuple[jax.Array, jax.Array, Conditionals]:
        given = conditionals(_matrices(model, theta), jnp.asarray(there))
        means = jnp.asarray(theta["means"]) - centre
        offset = means - jnp.squeeze(given.regression @ means[:, :, None], -1)
        guess = offset[:, :, None, :] + rows[:, None] @ jnp.swapaxes(given.regression, -2, -1)
        return posterior(theta)[blocks.rows], guess, given

    return see


def _matrices(model: GaussianMixture, theta: Mapping[str, Any]) -> jax.Array:
    """Give the covariances as matrices, (K, D, D) or, tied, (1, D, D)."""
    K, D = jnp.shape(theta["means"])
    if model.scale is not None:
        value = jnp.broadcast_to(jnp.asarray(model.scale, float) ** 2, (K,))
    else:
        value = jnp.asarray(theta["covariances"])
    if model.covariance in ("full", "tied"):
        return value.reshape(-1, D, D)
    return jnp.broadcast_to(value.reshape(K, -1), (K, D))[:, :, None] * jnp.eye(D)
