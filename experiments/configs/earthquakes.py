"""Major earthquakes a year: a hidden Markov chain of quiet and busy years, each with its own Poisson rate."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def earthquakes(count: Any = None, *, rows: int = 107, states: int = 3, stationary: bool = False) -> Any:
    """Draw z_1 ~ initial, z_t ~ transition[z_{t−1}], count_t ~ Poisson(rate[z_t]).

    initial and each row of transition ~ Dirichlet(2); rate_k ~ Gamma(2, 0.1).

    Parameters
    ----------
    count : (T, 1) counts, or `None` to draw them.
    rows : T, when there is no data.
    states : number of states, K.
    stationary : whether the chain begins in its stationary distribution, instead of one of its own.
    """
    with numpyro.plate("states", states):
        transition = jnp.asarray(numpyro.sample("transition", dist.Dirichlet(jnp.full(states, 2.0))))
        rate = jnp.asarray(numpyro.sample("rate", dist.Gamma(2.0, 0.1)))
    if stationary:
        # π (I − Γ + 1) = 1 for every irreducible chain.
        balance = jnp.eye(states) - transition + 1.0
        initial = jnp.linalg.solve(balance.T, jnp.ones(states))
    else:
        initial = jnp.asarray(numpyro.sample("initial", dist.Dirichlet(jnp.full(states, 2.0))))
    after = jnp.concatenate([transition, initial[None]])  # the last row stands for "before the first year"

    def year(before: Any, seen: Any) -> Any:
        state = jnp.asarray(numpyro.sample("state", dist.CategoricalProbs(after[before])))
        fn = dist.Poisson(rate[state][..., None]).to_event(1)
        return state, numpyro.sample("count", fn, obs=seen)

    return scan(year, states, count, length=rows if count is None else len(count))[1]
