"""EM's posterior: Laplace's Gaussian around the optimum, in the unconstrained space, as ArviZ's groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import xarray as xr

from triptych.inference.arguments import record_sample
from triptych.inference.em.kernel import Kernel
from triptych.inference.fit import Evidence
from triptych.inference.importance import of_laplace
from triptych.inference.laplace import GaussianApproximation, laplace
from triptych.inference.marginal import marginal
from triptych.inference.posterior import batch_size, build, prepared
from triptych.inference.rows import Rows
from triptych.inference.status import Finding
from triptych.inference.symmetry import NO_LABELS, labels_of

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM

__all__ = ["around_marginal", "laplace_posterior"]

HESSIAN_WORK = 5e9  # rows × parameters² beyond which a Hessian takes minutes on a laptop


def laplace_posterior(
    em: EM,
    kernel: Kernel,
    parameters: Mapping[str, np.ndarray],
    key: jax.Array,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Callable[[], xr.DataTree], Evidence, tuple[Finding, ...]]:
    """Draw around the optimum, with the evidence that the same Gaussian gives.

    Returns
    -------
    What makes the fit's data (one chain of `em.draws` draws; the optimum itself where there is no Gaussian),
    the evidence, and what does not hold.
    """
    m = marginal(kernel.model)
    size = sum(np.size(value) for value in parameters.values())
    point = {site: np.asarray(value)[None, None] for site, value in parameters.items()}
    if args and isinstance(args[0], Rows):
        text = (
            "The rows are read in blocks: the posterior holds the optimum alone, without standard errors and "
            "pointwise log-likelihoods. Fit rows in memory for them."
        )
        constant, attrs = record_sample(kernel.model, kernel.small.args[0])  # type: ignore[attr-defined]
        tree = partial(build, point, constant_data=constant, attrs=attrs)
        return tree, Evidence(), (Finding("LAPLACE_SKIPPED", text),) if em.draws else ()
    seen = getattr(kernel, "observed", None)
    if em.draws == 0 or not getattr(kernel, "has_posterior", True):
        tree, findings = prepared(m, point, args, kwargs, likelihoods=em.draws > 0, observed_data=seen)
        return tree, Evidence(), findings
    if kernel.hessian_work > HESSIAN_WORK:
        text = (
            f"{kernel.count:.3g} rows × {size}² parameters make a Hessian of minutes: the posterior holds "
            "the optimum alone, without standard errors. Use SVI or MCMC for them, or fit fewer rows."
        )
        tree, findings = prepared(m, point, args, kwargs, observed_data=seen)
        return tree, Evidence(), (Finding("LAPLACE_SKIPPED", text), *findings)
    gaussian, samples = kernel.approximate(parameters, em.objective, key, em.draws)
    statistics = None
    if em.objective == "map" and gaussian.log_evidence is not None:
        statistics = gaussian.sample_stats(key, em.draws, batch_size(m.structure(*args, **kwargs)))
    tree, findings = prepared(
        m,
        {site: samples[site] for site in parameters},
        args,
        kwargs,
        sample_stats=statistics,
        observed_data=seen,
    )
    evidence = Evidence()
    if gaussian.log_evidence is not None:
        weights = (statistics or {}).get("log_weight")
        how = "Laplace at EM's optimum"
        evidence = of_laplace(gaussian.log_evidence, weights, how, gaussian.labels.separate)
    return tree, evidence, (*gaussian.findings, *findings)


def around_marginal(
    model: Callable[..., Any],
    parameters: Mapping[str, np.ndarray],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    objective: str,
    key: jax.Array,
    draws: int,
    sample_weight: Any = None,
) -> tuple[GaussianApproximation, dict[str, np.ndarray]]:
    """Laplace on the marginal of a program, its relabelled copies counted in the evidence.

    `sample_weight` (N,) is how many rows each row counts for.
    """
    m = marginal(model)
    labels = labels_of(m, parameters, args, kwargs) if objective == "map" else NO_LABELS
    gaussian = laplace(
        m,
        parameters,
        args,
        kwargs,
        objective=objective,
        labels=labels,
        sample_weight=None if sample_weight is None else np.asarray(sample_weight, np.float64),
    )
    return gaussian, gaussian.draws(key, draws)
