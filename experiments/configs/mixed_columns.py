"""Customers by four columns of different kinds: a length, a yes or no, a colour and a count."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def mixed_columns(
    spent: Any = None, member: Any = None, colour: Any = None, visits: Any = None, *, rows: int = 400
) -> Any:
    """Mix two groups whose columns are independent given the group g_n.

    weights ~ Dirichlet(2, 2); spent_n ~ N(mean[g_n], sd[g_n]²); member_n ~ Bernoulli(share[g_n]);
    colour_n ~ Categorical(colours[g_n]); visits_n ~ Poisson(rate[g_n]).

    Parameters
    ----------
    spent, member, colour, visits : (N,) each, or `None` to draw them.
    rows : N, when there is no data.
    """
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 2.0])))
    with numpyro.plate("groups", 2):
        mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0.0, 10.0)))
        variance = jnp.asarray(numpyro.sample("variance", dist.InverseGamma(2.0, 2.0)))
        share = jnp.asarray(numpyro.sample("share", dist.Beta(2.0, 2.0)))
        colours = jnp.asarray(numpyro.sample("colours", dist.Dirichlet(2.0 * jnp.ones(3))))
        rate = jnp.asarray(numpyro.sample("rate", dist.Gamma(2.0, 0.2)))
    colour = None if colour is None else jnp.asarray(colour).astype(int)
    with numpyro.plate("rows", rows if spent is None else len(spent)):
        g = numpyro.sample("group", dist.CategoricalProbs(weights), infer={"enumerate": "parallel"})
        numpyro.sample("spent", dist.Normal(mean[g], jnp.sqrt(variance[g])), obs=spent)
        numpyro.sample("member", dist.BernoulliProbs(share[g]), obs=member)
        numpyro.sample("colour", dist.CategoricalProbs(colours[g]), obs=colour)
        numpyro.sample("visits", dist.Poisson(rate[g]), obs=visits)
