"""Pathologists' ratings with a trait behind each slide: logistic, its posterior without closed form."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def carcinoma_trait(x: Any = None, *, rows: int = 118, columns: int = 7) -> Any:
    """Rasch model: trait_n ~ N(0, 1); logit P(x_nd = 1) = spread trait_n − threshold_d.

    spread ~ HalfNormal(5); threshold_d ~ N(0, 5²). (With trait_n ~ N(0, spread²) instead, the joint density
    of traits and spread has no bound as both go to 0, which is where SVI would start.)

    Parameters
    ----------
    x : (N, D) of 0 and 1, or `None` to draw them.
    rows, columns : N and D, when there is no data.
    """
    rows, columns = (rows, columns) if x is None else x.shape
    spread = jnp.asarray(numpyro.sample("spread", dist.HalfNormal(5.0)))
    threshold = jnp.asarray(numpyro.sample("threshold", dist.Normal(0.0, 5.0).expand([columns]).to_event(1)))
    with numpyro.plate("rows", rows):
        trait = jnp.asarray(numpyro.sample("trait", dist.Normal()))
        fn = dist.BernoulliLogits(spread * trait[..., None] - threshold).to_event(1)
        return numpyro.sample("x", fn, obs=x)
