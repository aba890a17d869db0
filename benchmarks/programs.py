"""Mixtures as the documentation of NumPyro and of PyMC writes them; nothing of triptych is imported here."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


class Prior(NamedTuple):
    """The numbers of the prior of `triptych.GaussianMixture`, full covariances."""

    concentration: Any
    degrees_of_freedom: Any
    spread: Any
    mean_precision: Any
    location: Any


def diagonal_program(x: Any, components: int) -> None:
    """Declare a diagonal mixture, its labels enumerated."""
    columns = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        means = numpyro.sample("means", dist.Normal(0.0, 10.0).expand([columns]).to_event(1))
        variances = numpyro.sample("variances", dist.InverseGamma(2.0, 1.0).expand([columns]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(means[z], jnp.sqrt(variances[z])).to_event(1), obs=x)


def full_sites(prior: Prior, components: int) -> tuple[Any, Any, Any]:
    """Sample weights, means and full covariances."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(prior.concentration)))
    with numpyro.plate("components", components):
        fn = dist.InverseWishart(prior.degrees_of_freedom, scale_matrix=jnp.asarray(prior.spread))
        covariances = numpyro.sample("covariances", fn)
        spread = covariances / prior.mean_precision
        means = numpyro.sample("means", dist.MultivariateNormal(jnp.asarray(prior.location), spread))
    return weights, means, covariances


def full_program(x: Any, prior: Prior, components: int) -> None:
    """Declare a mixture of full covariances, its labels enumerated, with the priors of ours."""
    weights, means, covariances = full_sites(prior, components)
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.MultivariateNormal(means[z], covariances[z]), obs=x)


def summed_program(x: Any, prior: Prior, components: int) -> None:
    """Declare the same with NumPyro's mixture distribution: autoguides do not work with enumeration."""
    weights, means, covariances = full_sites(prior, components)
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.MultivariateNormal(means, covariances))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", mixture, obs=x)


def pymc_program(x: np.ndarray, components: int) -> Any:
    """Declare a mixture of full covariances as PyMC's documentation writes it, with its usual priors."""
    import pymc as pm

    with pm.Model() as program:
        weights = pm.Dirichlet("weights", np.ones(components) * 1.5)
        means = pm.Normal("means", x.mean(0), 3 * x.std(0), shape=(components, x.shape[1]))
        parts = []
        for k in range(components):
            factor, _, _ = pm.LKJCholeskyCov(
                f"factor{k}", n=x.shape[1], eta=1.0, sd_dist=pm.HalfNormal.dist(x.std(0), shape=x.shape[1])
            )
            parts.append(pm.MvNormal.dist(means[k], chol=factor))
        pm.Mixture("x", w=weights, comp_dists=parts, observed=x)
    return program
