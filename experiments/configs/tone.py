"""Tone perception: two lines through one cloud."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def tone(X: Any, y: Any = None, *, lines: int = 2) -> Any:
    """Mix linear regressions.

    weights ~ Dirichlet(2); (level, slope)_k ~ N(0, 3²); variance_k ~ InverseGamma(1, 0.01);
    y_n ~ N(level[line_n] + slope[line_n] X_n, variance[line_n]).

    Parameters
    ----------
    X : (N, 1) ratio by which the overtones are stretched.
    y : (N,) ratio that the musician tuned to.
    lines : number of regressions.
    """
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(lines)))
    design = jnp.stack([jnp.ones(len(X)), X[:, 0]], axis=-1)
    with numpyro.plate("lines", lines):
        coefficients = jnp.asarray(
            numpyro.sample("coefficients", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        )
        variance = jnp.asarray(numpyro.sample("variance", dist.InverseGamma(1.0, 0.01)))
    with numpyro.plate("rows", len(X)):
        line = numpyro.sample("line", dist.CategoricalProbs(weights), infer={"enumerate": "parallel"})
        mean = jnp.sum(coefficients[line] * design, axis=-1)
        return numpyro.sample("y", dist.Normal(mean, jnp.sqrt(variance[line])), obs=y)
