"""Seven answers of thirty departments: a few unseen factors behind them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def attitude(x: Any = None, *, rows: int = 30, columns: int = 7, factors: int = 1, own: bool = True) -> Any:
    """Factor analysis; with one noise for all columns, probabilistic principal components.

    loadings_dk ~ N(1, 1), which says that a factor raises all answers and settles its sign;
    noise_d ~ InverseGamma(2, 0.5), a variance; score_n ~ N(0, I); x_n ~ N(loadings score_n, diag(noise)).

    Parameters
    ----------
    x : (N, D) in standard units, or `None` to draw them.
    rows, columns : N and D, when there is no data.
    factors : K.
    own : whether each column has a noise of its own (factor analysis).
    """
    rows, columns = (rows, columns) if x is None else x.shape
    prior = dist.Normal(1.0, 1.0).expand([columns, factors]).to_event(2)
    loadings = jnp.asarray(numpyro.sample("loadings", prior))
    spread = dist.InverseGamma(2.0, 0.5).expand([columns]).to_event(1) if own else dist.InverseGamma(2.0, 0.5)
    noise = jnp.asarray(numpyro.sample("noise", spread))
    with numpyro.plate("rows", rows):
        score = jnp.asarray(numpyro.sample("score", dist.Normal().expand([factors]).to_event(1)))
        return numpyro.sample("x", dist.Normal(score @ loadings.T, jnp.sqrt(noise)).to_event(1), obs=x)
