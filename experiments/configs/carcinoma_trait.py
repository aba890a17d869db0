"""Pathologists' ratings with a trait behind each slide: logistic, its posterior without closed form."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def carcinoma_trait(x: Any = None, *, rows: int = 118, columns: int = 7, centred: bool = False) -> Any:
    """Rasch model: trait_n ~ N(0, 1); logit P(x_nd = 1) = spread trait_n − threshold_d.

    spread ~ HalfNormal(5); threshold_d ~ N(0, 5²).

    Parameters
    ----------
    x : (N, D) of 0 and 1, or `None` to draw them.
    rows, columns : N and D, when there is no data.
    centred : write the trait as N(0, spread²) instead: the same marginal, and Monte Carlo EM learns the
        spread faster; but the joint density has no bound as spread and traits go to 0, where SVI starts.
    """
    rows, columns = (rows, columns) if x is None else x.shape
    spread = jnp.asarray(numpyro.sample("spread", dist.HalfNormal(5.0)))
    threshold = jnp.asarray(numpyro.sample("threshold", dist.Normal(0.0, 5.0).expand([columns]).to_event(1)))
    with numpyro.plate("rows", rows):
        trait = jnp.asarray(numpyro.sample("trait", dist.Normal(0.0, spread if centred else 1.0)))
        logit = (trait if centred else spread * trait)[..., None] - threshold
        fn = dist.BernoulliLogits(logit).to_event(1)
        return numpyro.sample("x", fn, obs=x)
