"""EM's posterior: Laplace's Gaussian around the optimum, in the unconstrained space, as ArviZ's groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpyro.distributions import constraints
from scipy.special import gammaln

from triptych.inference.em.kernel import Kernel
from triptych.inference.em.regression import log_joint
from triptych.inference.em.regression_kernel import RegressionKernel
from triptych.inference.fit import Evidence
from triptych.inference.laplace import Laplace, laplace, laplace_from_density
from triptych.inference.marginal import marginal
from triptych.inference.posterior import assemble
from triptych.inference.status import Finding

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM

__all__ = ["laplace_posterior"]

HESSIAN_WORK = 5e9  # rows × parameters² beyond which a Hessian takes minutes on a laptop


def laplace_posterior(
    em: EM,
    kernel: Kernel,
    parameters: Mapping[str, np.ndarray],
    key: jax.Array,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[xr.DataTree, Evidence, tuple[Finding, ...]]:
    """Draw around the optimum, with the evidence that the same Gaussian gives.

    Returns
    -------
    The fit's data (one chain of `em.draws` draws; the optimum itself where there is no Gaussian), the evidence,
    and what does not hold.
    """
    m = marginal(kernel.model)
    size = sum(np.size(value) for value in parameters.values())
    work = kernel.count * float(size) ** 2
    point = {site: np.asarray(value)[None, None] for site, value in parameters.items()}
    if em.draws == 0:
        tree, findings = assemble(m, point, args, kwargs)
        return tree, Evidence(), findings
    if work > HESSIAN_WORK and not isinstance(kernel, RegressionKernel):
        text = (
            f"{kernel.count:.3g} rows × {size}² parameters make a Hessian of minutes: the posterior holds the "
            "optimum alone, without standard errors. Use SVI or MCMC for them, or fit fewer rows."
        )
        tree, findings = assemble(m, point, args, kwargs)
        return tree, Evidence(), (Finding("LAPLACE_SKIPPED", text), *findings)
    if isinstance(kernel, RegressionKernel):
        gaussian, samples = _regression(em, kernel, parameters, key)
    else:
        symmetry = float(gammaln(getattr(kernel.model, "components", 1) + 1))
        gaussian = laplace(m, parameters, args, kwargs, objective=em.objective, log_symmetry=symmetry)
        samples = gaussian.draws(key, em.draws)
    tree, findings = assemble(m, samples, args, kwargs)
    evidence = Evidence()
    if gaussian.log_evidence is not None:
        evidence = Evidence(log_evidence=gaussian.log_evidence, method="Laplace at EM's optimum")
    return tree, evidence, (*gaussian.findings, *findings)


def _regression(
    em: EM, kernel: RegressionKernel, parameters: Mapping[str, np.ndarray], key: jax.Array
) -> tuple[Laplace, dict[str, np.ndarray]]:
    """λ and β from Laplace on the log evidence; w and the intercept exactly, given each draw of them."""
    problem = kernel.problem

    def log_density(theta: Mapping[str, Any]) -> jax.Array:
        # The evidence at b = ȳ; integrating b over its flat prior multiplies it by √(2π/(βN)).
        value = log_joint(problem.moments, problem.hyper, theta["lambda"], theta["beta"]) + problem.constant
        flat = 0.5 * jnp.log(2 * jnp.pi / (theta["beta"] * problem.moments.rows))
        return value + (flat if kernel.intercept else 0.0)

    supports = {"lambda": constraints.positive, "beta": constraints.positive}
    gaussian = laplace_from_density(log_density, parameters, supports, objective=em.objective)
    first, second, third = jax.random.split(key, 3)
    samples = {site: np.asarray(value) for site, value in gaussian.draws(first, em.draws).items()}
    singular, projected = np.asarray(problem.moments.singular), np.asarray(problem.moments.projected)
    precision, noise = samples["lambda"][0], samples["beta"][0]
    count, columns = len(precision), len(kernel.rotation)
    total = precision[:, None] + noise[:, None] * singular**2
    wide = np.asarray(jax.random.normal(second, (count, columns), jnp.float64)) / np.sqrt(precision)[:, None]
    inside = wide @ kernel.rotation
    mean = noise[:, None] * singular * projected / total
    narrow = mean + inside * np.sqrt(precision[:, None] / total)
    # Outside the design's row space w keeps its prior; inside it is the posterior.
    samples["w"] = (wide + (narrow - inside) @ kernel.rotation.T)[None]
    if kernel.intercept:
        level = kernel.level + np.asarray(jax.random.normal(third, (count,), jnp.float64)) / np.sqrt(
            noise * float(problem.moments.rows)
        )
        samples["intercept"] = (level - samples["w"][0] @ kernel.centre)[None]
    return gaussian, {site: samples[site] for site in parameters}
