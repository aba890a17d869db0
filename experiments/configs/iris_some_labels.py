"""Irises of which only some are named: a mixture whose labels are partly observed."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def iris_some_labels(X: Any, y: Any, *, every: int = 10, classes: int = 3) -> Any:
    """Semi-supervised mixture of Gaussians with one covariance.

    weights ~ Dirichlet(2); mean_kd ~ N(4, 4²); covariance ~ InverseWishart(D + 2, 0.1 I);
    z_n ~ Categorical(weights), known where the label is not −1; X_n ~ N(mean[z_n], covariance).

    Parameters
    ----------
    X : (N, D) measurements.
    y : (N,) labels 0, 1, …; −1 is unknown.
    every : only one label of so many is shown, the others are hidden; 1 shows all.
    classes : number of labels, K.
    """
    rows, columns = X.shape
    label = jnp.where(jnp.arange(rows) % every == 0, y, -1)
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(classes)))
    with numpyro.plate("classes", classes):
        means = jnp.asarray(numpyro.sample("means", dist.Normal(4.0, 4.0).expand([columns]).to_event(1)))
    covariance = numpyro.sample("covariance", dist.InverseWishart(columns + 2.0, 0.1 * jnp.eye(columns)))
    with numpyro.plate("rows", rows):
        z = numpyro.sample("z", dist.CategoricalProbs(weights), infer={"enumerate": "parallel"})
        numpyro.factor("label", jnp.where((label < 0) | (label == z), 0.0, -jnp.inf))
        return numpyro.sample("X", dist.MultivariateNormal(means[z], covariance), obs=X)
