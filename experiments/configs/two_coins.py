"""Two weighted coins: one is chosen unseen, then flipped twice."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def two_coins(flips: Any = None, *, rows: int = 1000) -> Any:
    """Choose a coin, then flip it twice.

    weights ~ Dirichlet(2, 2); heads_k ~ Beta(2, 2);
    coin_n ~ Categorical(weights); flips_nj ~ Bernoulli(heads[coin_n]).

    Pairs of flips have two free frequencies (of one head and of two) for three parameters: the priors have
    a say, and the posterior is a curved ridge, which shows what each method can follow.

    Parameters
    ----------
    flips : (N, 2), 1 for heads, or `None` to draw them.
    rows : N, when there is no data.
    """
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 2.0])))
    with numpyro.plate("coins", 2):
        heads = jnp.asarray(numpyro.sample("heads", dist.Beta(2.0, 2.0)))
    with numpyro.plate("rows", rows if flips is None else len(flips)):
        coin = numpyro.sample("coin", dist.CategoricalProbs(weights), infer={"enumerate": "parallel"})
        flip = dist.Bernoulli(heads[coin][..., None] * jnp.ones(2)).to_event(1)
        return numpyro.sample("flips", flip, obs=flips)
