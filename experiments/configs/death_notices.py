"""Death notices in The Times: days of two kinds, each with its own rate."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def death_notices(deaths: Any = None, *, rows: int = 1096, kinds: int = 2) -> Any:
    """Mix Poissons: weights ~ Dirichlet(1); rate_k ~ Gamma(1, 0.1); deaths_n ~ Poisson(rate[kind_n]).

    Parameters
    ----------
    deaths : (N, 1) counts, or `None` to draw them.
    rows : N, when there is no data.
    kinds : number of kinds of day.
    """
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(kinds)))
    with numpyro.plate("kinds", kinds):
        rate = jnp.asarray(numpyro.sample("rate", dist.Gamma(1.0, 0.1)))
    with numpyro.plate("rows", rows if deaths is None else len(deaths)):
        kind = numpyro.sample("kind", dist.CategoricalProbs(weights), infer={"enumerate": "parallel"})
        fn = dist.Poisson(rate[kind][..., None]).to_event(1)
        return numpyro.sample("deaths", fn, obs=deaths)
