"""Words of documents that mix topics: latent Dirichlet allocation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def topics(
    word: Any = None, *, rows: int = 1200, length: int = 40, topics: int = 3, vocabulary: int = 12
) -> Any:
    """Latent Dirichlet allocation (Blei, Ng & Jordan 2003).

    topic_k ~ Dirichlet(1.1) over the words; share_d ~ Dirichlet(0.5) over the topics; for the n-th word of
    document d, z_n ~ Categorical(share_d) and word_n ~ Categorical(topic[z_n]).

    Parameters
    ----------
    word : (N,) or (N, 1) words as numbers 0, 1, …, document after document, or `None` to draw them.
    rows : N, when there is no data.
    length : words of each document.
    topics, vocabulary : number of topics, K, and of words, V.
    """
    word = None if word is None else jnp.ravel(jnp.asarray(word)).astype(int)
    rows = rows if word is None else len(word)
    document = jnp.arange(rows) // length
    with numpyro.plate("topics", topics):
        topic = jnp.asarray(numpyro.sample("topic", dist.Dirichlet(jnp.full(vocabulary, 1.1))))
    with numpyro.plate("documents", -(-rows // length)):
        share = jnp.asarray(numpyro.sample("share", dist.Dirichlet(jnp.full(topics, 0.5))))
    with numpyro.plate("words", rows):
        z = numpyro.sample("z", dist.CategoricalProbs(share[document]), infer={"enumerate": "parallel"})
        return numpyro.sample("word", dist.CategoricalProbs(topic[z]), obs=word)
