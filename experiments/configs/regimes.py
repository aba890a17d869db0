"""Daily changes of a price: a calm and a turbulent regime, a hidden Markov chain with Gaussian emissions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def regimes(change: Any = None, *, rows: int = 400, states: int = 2) -> Any:
    """Draw z_1 uniformly, z_t ~ transition[z_{t−1}], change_t ~ N(mean[z_t], variance[z_t]).

    Each row of transition ~ Dirichlet(2); mean_k ~ N(0, 10²); variance_k ~ InverseGamma(2, 1).

    Parameters
    ----------
    change : (T,) or (T, 1) changes, or `None` to draw them.
    rows : T, when there is no data.
    states : number of regimes, K.
    """
    with numpyro.plate("regimes", states):
        transition = jnp.asarray(numpyro.sample("transition", dist.Dirichlet(jnp.full(states, 2.0))))
        mean = jnp.asarray(numpyro.sample("mean", dist.Normal(0.0, 10.0)))
        variance = jnp.asarray(numpyro.sample("variance", dist.InverseGamma(2.0, 1.0)))
    after = jnp.concatenate([transition, jnp.full((1, states), 1.0 / states)])
    change = None if change is None else jnp.reshape(change, -1)

    def day(before: Any, seen: Any) -> Any:
        regime = jnp.asarray(numpyro.sample("regime", dist.CategoricalProbs(after[before])))
        fn = dist.Normal(mean[regime], jnp.sqrt(variance[regime]))
        return regime, numpyro.sample("change", fn, obs=seen)

    return scan(day, states, change, length=rows if change is None else len(change))[1]
