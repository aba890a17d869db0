"""From Monte Carlo EM to the `Fit` that is kept, its Monte Carlo error said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from triptych.inference.curvature import principal_factor
from triptych.inference.em.derived import DerivedKernel
from triptych.inference.em.information import fractions, natural_errors
from triptych.inference.em.monte_carlo import MonteCarlo
from triptych.inference.em.stochastic import Outcome, conditional_draws, log_ratios, stochastic_em
from triptych.inference.em.uncertainty import dataset
from triptych.inference.fit import Evidence, Fit
from triptych.inference.marginal import marginal
from triptych.inference.posterior import assemble
from triptych.inference.status import Finding, Status, say
from triptych.inference.timing import Stopwatch

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM

__all__ = ["stochastic_fit"]

PROPOSALS = 4000  # draws for the height of the likelihood
BETWEEN = 5  # steps of the walker between two draws of θ


def stochastic_fit(
    em: EM,
    kernel: DerivedKernel,
    settings: MonteCarlo,
    key: jax.Array,
    start: Mapping[str, Any] | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    watch: Stopwatch,
) -> Fit:
    """Run Monte Carlo EM and assemble its fit: θ̂ with its two errors, draws around it, its height."""
    first, second, third = jax.random.split(key, 3)
    outcome = stochastic_em(kernel.problem, settings, first, start)
    theta = {name: np.asarray(value) for name, value in outcome.parameters.items()}
    factor, _, more = principal_factor(outcome.precision, outcome.space)
    findings = [say(finding) for finding in [*more, *_findings(outcome, settings)]]
    samples = _draws(kernel, outcome, factor, third, em.draws)
    natural = theta | outcome.means
    tree, others = assemble(marginal(em.model), {site: samples[site] for site in natural}, args, kwargs)
    for name, values in (
        ("standard_errors", natural_errors(outcome.space, theta, factor)),
        ("monte_carlo_errors", natural_errors(outcome.space, theta, np.diag(outcome.error))),
    ):
        tree[name] = xr.DataTree(dataset(values))
    complete = outcome.precision + outcome.missing
    tree["information"] = xr.Dataset(
        {"missing": ("direction", fractions(complete, outcome.missing, outcome.space))}
    )
    height, error = _height(kernel, outcome, second)
    converged = outcome.relative <= settings.tol
    return Fit(
        method="em",
        model=em.model,
        status=Status.CONVERGED if converged else Status.STEP_LIMIT,
        seconds=watch.seconds,
        parameters=natural,
        log_likelihood=height,
        objective=outcome.trace - outcome.trace[-1] + height,
        data=tree,
        evidence=Evidence(standard_error=error, method="log p(x | θ̂) by importance sampling of the latents"),
        findings=(*findings, *(say(finding) for finding in others)),
        settings=em.settings,
    )


def _findings(outcome: Outcome, settings: MonteCarlo) -> list[Finding]:
    if outcome.relative <= settings.tol:
        return []
    known = np.isfinite(outcome.relative)
    size = f"is {outcome.relative:.2g} of its standard error" if known else "has no standard error beside it"
    text = (
        f"The Monte Carlo error of the answer {size}, and should be below {settings.tol:g} of one: raise "
        "`rounds` or `draws` of MonteCarlo, or use an exact E-step if there is one."
    )
    return [Finding("MONTE_CARLO_ERROR", text)]


def _draws(
    kernel: DerivedKernel, outcome: Outcome, factor: np.ndarray, key: jax.Array, number: int
) -> dict[str, np.ndarray]:
    """Draw θ from the Gaussian of the observed information, the latents from p(u | x, θ): (1, draws, …)."""
    if number == 0:
        point = {**outcome.parameters, **outcome.means}
        return {site: np.asarray(value)[None, None] for site, value in point.items()}
    noise = np.asarray(jax.random.normal(key, (number, factor.shape[1])))
    place = np.asarray(outcome.space.unconstrain(outcome.parameters))
    theta = outcome.space.natural((place + noise @ factor.T)[None])
    flat = {site: jnp.asarray(value[0]) for site, value in theta.items()}
    latents = conditional_draws(kernel.problem, outcome.chains, flat, BETWEEN)
    return {**theta, **{site: np.asarray(value)[None] for site, value in latents.items()}}


def _height(kernel: DerivedKernel, outcome: Outcome, key: jax.Array) -> tuple[float, float]:
    """Estimate log p(x | θ̂), priors left out, and its standard error (nats).

    Importance sampling from the Gaussian with the mean and covariance of the latents' draws.
    """
    weights = np.asarray(log_ratios(kernel.problem, outcome.parameters, outcome.latents, key, PROPOSALS))
    highest = float(np.max(weights))
    relative = np.exp(weights - highest)
    mean = float(np.mean(relative))
    error = float(np.std(relative) / np.sqrt(len(weights)) / mean)
    return highest + float(np.log(mean)), error
