"""Voters by their answers about two candidates: latent classes, some questions left unanswered."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def election(answers: Any, *, classes: int = 3, levels: int = 4) -> Any:
    """Latent class analysis of polytomous items; a missing answer says nothing about the class.

    weights ~ Dirichlet(2); probs_kj ~ Dirichlet(1.5); class_n ~ Categorical(weights);
    answer_nj ~ Categorical(probs[class_n, j]) where it was given.

    Parameters
    ----------
    answers : (N, J) coded 1, …, levels; NaN where there is none.
    classes : number of latent classes, K.
    levels : number of answers to choose from.
    """
    rows, items = answers.shape
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(classes)))
    with numpyro.plate("classes", classes):
        prior = dist.Dirichlet(1.5 * jnp.ones((items, levels))).to_event(1)
        probs = jnp.asarray(numpyro.sample("probs", prior))
    given = ~jnp.isnan(answers)
    codes = jnp.where(given, answers - 1, 0).astype(int)
    with numpyro.plate("rows", rows):
        z = numpyro.sample("class", dist.CategoricalProbs(weights), infer={"enumerate": "parallel"})
        fn = dist.CategoricalProbs(probs[z]).mask(given).to_event(1)
        return numpyro.sample("answers", fn, obs=codes)
