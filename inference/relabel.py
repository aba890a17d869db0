"""A fit brought to the labels of another: one permutation a group of labels, for estimate and draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from triptych.inference.arguments import recall
from triptych.inference.fit import Fit
from triptych.inference.labels import (
    CLOSE,
    Exchangeable,
    align,
    exchangeable,
    permute,
    permute_draws,
    responsibility_rows,
)
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.posterior import draws, variable
from triptych.inference.precision import double_precision
from triptych.models.errors import InputError

__all__ = ["Groups", "groups_of", "relabelled", "to_reference"]


@dataclasses.dataclass(frozen=True)
class Groups:
    """The labels of a program that may be permuted, with what is needed to align them."""

    m: Marginal
    groups: tuple[Exchangeable, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def groups_of(fit: Fit) -> Groups | str:
    """Find the exchangeable labels of a fit's program, or say why they cannot be found."""
    call = recall(fit.data)
    if call is None:
        return "labels not aligned: what the program was called with could not be kept in the fit."
    args, kwargs = call
    m = marginal(fit.model)
    try:
        return Groups(m, exchangeable(m, fit.parameters, *args, **kwargs), args, kwargs)
    except InputError as error:
        return f"labels not aligned: {error}"


def to_reference(fit: Fit, reference: Fit, groups: Groups) -> tuple[Fit, tuple[str, ...]]:
    """Give a fit the labels of the reference, by assignment on responsibilities at the point estimates.

    Parameters
    ----------
    groups : `groups_of(reference)`.

    Returns
    -------
    The fit relabelled, and what is to be known: labels that could as well be others, or no alignment at all.
    """
    notes: list[str] = []
    with double_precision():
        for group in groups.groups:
            if any(
                np.shape(fit.parameters.get(site, ())) != np.shape(reference.parameters[site])
                for site in group.axes
            ):
                sites = ", ".join(group.axes)
                notes.append(
                    f"labels of {group.latent} not aligned: it does not have {sites} as the reference has."
                )
                continue
            permutation, margin = _assign(fit, reference, groups, group)
            fit = relabelled(fit, group, permutation)
            if margin < CLOSE:
                notes.append(
                    f"the labels of {group.latent} could as well be others (the second-best assignment is "
                    f"only {margin:.2f} nats worse): read its components' rows with care."
                )
    return fit, tuple(notes)


def _assign(
    fit: Fit, reference: Fit, groups: Groups, group: Exchangeable
) -> tuple[Sequence[int] | np.ndarray, float]:
    if set(reference.parameters) <= set(fit.parameters):
        rows = responsibility_rows(groups.m, group, *groups.args, **groups.kwargs)
        sites = list(reference.parameters)
    else:  # a method without some site: its responsibilities cannot be had, its parameters can be compared
        rows, sites = None, list(group.axes)
    pivot = {site: np.asarray(reference.parameters[site]) for site in sites}
    found = align(
        {site: np.asarray(fit.parameters[site])[None] for site in sites}, group, rows, pivot, iterations=1
    )
    return found.permutations[0], float(found.margins[0])


def relabelled(fit: Fit, group: Exchangeable, permutation: Any) -> Fit:
    """Relabel a fit's estimate and all its draws by one permutation."""
    permutation = np.asarray(permutation)
    if np.array_equal(permutation, np.arange(group.size)):
        return fit
    samples = draws(fit)
    chains, count = next(iter(samples.values())).shape[:2]
    flat = {site: values.reshape(chains * count, *values.shape[2:]) for site, values in samples.items()}
    moved = permute_draws(flat, group, np.tile(permutation, (chains * count, 1)))
    posterior = fit.data["posterior"].to_dataset()
    names = {variable(site): site for site in samples}
    posterior = posterior.assign(
        {
            name: posterior[name].copy(data=moved[site].reshape(samples[site].shape))
            for name, site in names.items()
            if site in group.axes
        }
    )
    data = fit.data.copy()
    data["posterior"] = xr.DataTree(posterior)
    parameters = permute(
        {site: np.asarray(value) for site, value in fit.parameters.items()}, group, permutation
    )
    return dataclasses.replace(fit, parameters=parameters, data=data)
