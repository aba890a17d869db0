"""From a Gaussian in the unconstrained space to the `Fit` that is kept: Laplace's, batch-and-match's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from triptych.inference.fit import Evidence, Fit
from triptych.inference.importance import from_weights, of_laplace
from triptych.inference.laplace import GaussianApproximation
from triptych.inference.marginal import Marginal
from triptych.inference.posterior import assemble, batch_size, log_likelihood_at, point_estimate
from triptych.inference.status import Finding, Status, say
from triptych.inference.svi import weights_wanted
from triptych.inference.timing import Stopwatch

__all__ = ["fit_of_gaussian", "settings_of"]


def settings_of(method: Any) -> dict[str, Any]:
    """Give the settings of a frozen method as a config writes them: its fields but the model."""
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    del values["model"]
    return values


def fit_of_gaussian(
    key: jax.Array,
    method: Any,
    m: Marginal,
    gaussian: GaussianApproximation,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    watch: Stopwatch,
    *,
    how: str,
    status: Status,
    objective: np.ndarray,
    findings: Sequence[Finding] = (),
    groups: Mapping[str, xr.Dataset] | None = None,
) -> Fit:
    """Draw from a Gaussian, weigh the draws against the marginal, and build the fit.

    Parameters
    ----------
    key : random key, of the draws.
    method : the frozen settings, with `model`, `draws` and the class variable `method`.
    m : the marginal of the program.
    gaussian : in the unconstrained space; with a `log_evidence` of its own where it is Laplace's.
    how : what it is, in the words of the ledger.
    status, objective, findings : as the fit is to have them.
    groups : more groups of the fit's data.
    """
    structure = m.structure(*args, **kwargs)
    number = max(method.draws, weights_wanted(structure))
    u = gaussian.unconstrained(key, number)[:, : method.draws]
    samples = gaussian.coordinates.natural(u)
    statistics = gaussian.sample_stats(key, number, batch_size(structure))
    weights = statistics.get("log_weight")
    kept = {name: value[:, : u.shape[1]] for name, value in statistics.items()}
    estimate = point_estimate(samples, {site: p.support for site, p in structure.parameters.items()})
    tree, more = assemble(m, samples, args, kwargs, sample_stats=kept)
    for name, group in (groups or {}).items():
        tree[name] = xr.DataTree(group)
    separate = gaussian.labels.separate
    if gaussian.log_evidence is not None:
        evidence = of_laplace(gaussian.log_evidence, weights, how, separate)
    elif weights is not None:
        evidence = from_weights(weights, how, symmetry=separate)
    else:
        evidence = Evidence(method=f"no bound: {how} does not span the space of the parameters")
    return Fit(
        method=method.method,
        model=method.model,
        status=status,
        seconds=watch.seconds,
        parameters=estimate,
        log_likelihood=log_likelihood_at(m, estimate, args, kwargs),
        objective=objective,
        data=tree,
        evidence=evidence,
        findings=tuple(say(finding) for finding in (*findings, *gaussian.findings, *more)),
        settings=settings_of(method),
    )
