"""The posterior of the discrete latents under a fit: at its point estimate, or averaged over its draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.arguments import checked
from triptych.inference.fit import Fit
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.precision import matching_precision
from triptych.models.errors import InputError

__all__ = ["average_posteriors", "responsibilities"]


def average_posteriors(
    m: Marginal, draws: Mapping[str, Any], *args: Any, **kwargs: Any
) -> dict[str, jax.Array]:
    """Average p(z = k | x, θ_s) over draws θ_s, without storing it for each draw.

    Parameters
    ----------
    draws : site → (S, ...).

    Returns
    -------
    Latent → (plates..., K).
    """
    first = {name: jnp.asarray(value)[0] for name, value in draws.items()}
    count = len(next(iter(draws.values())))

    def add(total: dict[str, jax.Array], draw: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], None]:
        return jax.tree.map(jnp.add, total, m.posteriors(draw, *args, **kwargs)), None

    def run(draws: dict[str, jax.Array]) -> dict[str, jax.Array]:
        shapes = jax.eval_shape(lambda p: m.posteriors(p, *args, **kwargs), first)
        zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()}
        return jax.lax.scan(add, zeros, draws)[0]

    total = jax.jit(run)({name: jnp.asarray(value) for name, value in draws.items()})
    return {name: value / count for name, value in total.items()}


def responsibilities(fit: Fit, *args: Any, **kwargs: Any) -> np.ndarray | dict[str, np.ndarray]:
    """Give the posterior of every discrete latent, p(z = k | x), for these data or new data.

    EM's is at its point estimate; that of SVI and MCMC is averaged over their posterior draws, and so is
    EM's where it integrated continuous latents out: their mean is not where the discrete ones are known.

    Returns
    -------
    (N, K) for a program with one discrete latent (plates first, support last); a dict latent → array for a
    program with several.

    Raises
    ------
    InputError : the program has no discrete latent, or cannot be run on these arguments: rows that its
        model refuses, such as NaN cells under a mixture without `missing=True`.
    """
    args, kwargs = checked(fit.model, args, kwargs, new=True)
    m = marginal(fit.model)
    with matching_precision(args, kwargs, dict(fit.parameters)):
        structure = m.structure(*args, **kwargs)
        if not structure.latents:
            raise InputError(
                "the model has no discrete latent, so there are no responsibilities: they exist for mixtures "
                "and other programs with a discrete site that is not observed."
            )
        if fit.method in ("em", "ascent") and not _integrated(fit):
            point = {name: jnp.asarray(fit.parameters[name]) for name in structure.parameters}
            answer = jax.jit(lambda p: m.posteriors(p, *args, **kwargs))(point)
        else:
            posterior = fit.data["posterior"]
            draws = {name: np.asarray(posterior[name].values) for name in structure.parameters}
            answer = average_posteriors(
                m, {name: d.reshape(-1, *d.shape[2:]) for name, d in draws.items()}, *args, **kwargs
            )
        kept = {name: np.asarray(value) for name, value in answer.items()}
    return next(iter(kept.values())) if len(kept) == 1 else kept


def _integrated(fit: Fit) -> bool:
    """Tell whether EM integrated continuous latents out, and drew them."""
    if "plan" not in fit.data.children or fit.data["posterior"].sizes.get("draw", 0) < 2:
        return False
    plan = fit.data["plan"].dataset
    latents = {
        str(site)
        for site, role in zip(plan["site"].values, plan["role"].values, strict=True)
        if role == "latent"
    }
    return bool(latents & set(fit.parameters))
