"""Counts with too many zeros: some rows cannot count at all."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def zero_inflated(counts: Any = None, *, rows: int = 500) -> Any:
    """Inflate the zeros of a Poisson.

    never ~ Beta(1, 1); rate ~ Gamma(1, 0.1); empty_n ~ Bernoulli(never); counts_n ~ Poisson(0 or rate).

    Parameters
    ----------
    counts : (N,), or `None` to draw them.
    rows : N, when there is no data.
    """
    never = numpyro.sample("never", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Gamma(1.0, 0.1))
    with numpyro.plate("rows", rows if counts is None else len(counts)):
        empty = numpyro.sample("empty", dist.BernoulliProbs(never), infer={"enumerate": "parallel"})
        # A rate of 1e-30 stands for 0, whose logarithm has no gradient.
        fn = dist.Poisson(jnp.where(empty == 1, 1e-30, rate))
        return numpyro.sample("counts", fn, obs=counts)
