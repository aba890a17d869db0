"""Reaction times by days without sleep: a linear mixed model, each subject with an own level and slope."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def sleepstudy(X: Any, y: Any = None, *, subjects: int = 18) -> Any:
    """Random level and slope of each subject, correlated.

    fixed ~ N((250, 10), diag(100², 50²)); covariance ~ InverseWishart(4, diag(600, 35));
    noise ~ Gamma(2, 0.003), a variance (ms²); effect_s ~ N(0, covariance);
    y_n ~ N((1, days_n)·(fixed + effect[s_n]), noise).

    Parameters
    ----------
    X : (N, 2), days and the subject's number.
    y : (N,) reaction times, ms.
    subjects : how many subjects there are.
    """
    design = jnp.stack([jnp.ones(len(X)), X[:, 0]], axis=-1)
    _, subject = jnp.unique(X[:, 1], return_inverse=True, size=subjects)
    wide = dist.Normal(jnp.array([250.0, 10.0]), jnp.array([100.0, 50.0])).to_event(1)
    fixed = jnp.asarray(numpyro.sample("fixed", wide))
    covariance = numpyro.sample("covariance", dist.InverseWishart(4.0, jnp.diag(jnp.array([600.0, 35.0]))))
    noise = jnp.asarray(numpyro.sample("noise", dist.Gamma(2.0, 0.003)))
    with numpyro.plate("subjects", subjects):
        drawn = dist.MultivariateNormal(jnp.zeros(2), covariance)
        effect = jnp.asarray(numpyro.sample("effect", drawn))
    mean = jnp.sum(design * (fixed + effect[subject]), axis=-1)
    with numpyro.plate("rows", len(X)):
        return numpyro.sample("y", dist.Normal(mean, jnp.sqrt(noise)), obs=y)
