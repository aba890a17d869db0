"""Velocities of galaxies in clusters with heavy tails: a mixture of t, each row with a scale of its own."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def galaxies_heavy(x: Any = None, *, rows: int = 82, components: int = 3) -> Any:
    """Mixture of t distributions written by its latent precisions (Peel & McLachlan 2000).

    weights ~ Dirichlet(2); mean_k ~ N(0, 2²); variance_k ~ InverseGamma(2, 0.05); freedom ~ Gamma(4, 0.5);
    z_n ~ Categorical(weights); precision_n ~ Gamma(freedom / 2, freedom / 2);
    x_n ~ N(mean[z_n], variance[z_n] / precision_n).

    Parameters
    ----------
    x : (N, 1) in standard units, or `None` to draw them.
    rows : N, when there is no data.
    components : K.
    """
    rows = rows if x is None else len(x)
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(components, 2.0)))
    freedom = jnp.asarray(numpyro.sample("freedom", dist.Gamma(4.0, 0.5)))
    with numpyro.plate("components", components):
        mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0.0, 2.0)))
        variance = jnp.asarray(numpyro.sample("variance", dist.InverseGamma(2.0, 0.05)))
    with numpyro.plate("rows", rows):
        z = numpyro.sample("z", dist.CategoricalProbs(weights), infer={"enumerate": "parallel"})
        precision = jnp.asarray(numpyro.sample("precision", dist.Gamma(0.5 * freedom, 0.5 * freedom)))
        fn = dist.Normal(mean[z], jnp.sqrt(variance[z] / precision))
        return numpyro.sample("x", fn, obs=None if x is None else jnp.ravel(x))
