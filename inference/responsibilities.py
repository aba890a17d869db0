"""The posterior of the discrete latents under a fit: at its point estimate, or averaged over its draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from triptych.inference.arguments import checked
from triptych.inference.effort import briefly, cells
from triptych.inference.fit import Fit
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.posterior_tables import posteriors_of
from triptych.inference.precision import matching_precision
from triptych.models.errors import InputError

__all__ = ["average_posteriors", "responsibilities"]


def average_posteriors(
    m: Marginal, draws: Mapping[str, Any], *args: Any, **kwargs: Any
) -> dict[str, np.ndarray]:
    """Average p(z = k | x, θ_s) over draws θ_s, without storing it for each draw.

    Parameters
    ----------
    draws : site → (S, ...).

    Returns
    -------
    Latent → (plates..., K).
    """
    total: dict[str, np.ndarray] = {}
    count = len(next(iter(draws.values())))
    for _, tables in posteriors_of(m, draws, args, kwargs):
        sums = {name: np.sum(table, axis=0, dtype=float) for name, table in tables.items()}
        total = {name: value + total.get(name, 0.0) for name, value in sums.items()}
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
            point = {name: np.asarray(fit.parameters[name])[None] for name in structure.parameters}
            if point:
                _, tables = next(posteriors_of(m, point, args, kwargs))
                answer = {name: table[0] for name, table in tables.items()}
            else:  # nothing but discrete latents
                found = briefly(lambda: m.posteriors({}, *args, **kwargs), cells(args, kwargs))()
                answer = {name: np.asarray(table) for name, table in found.items()}
        else:
            posterior = fit.data["posterior"]
            draws = {name: np.asarray(posterior[name].values) for name in structure.parameters}
            answer = average_posteriors(
                m, {name: d.reshape(-1, *d.shape[2:]) for name, d in draws.items()}, *args, **kwargs
            )
    return next(iter(answer.values())) if len(answer) == 1 else answer


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
