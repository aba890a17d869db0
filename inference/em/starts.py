"""Where EM starts: a portfolio of recipes, because no single one wins.

k-means++ seeds (Arthur & Vassilvitskii 2007), random rows with the pooled covariance, random responsibilities
(Dirichlet(1) a row), k-means, and Ward's hierarchy on at most 2000 rows. Seeds and clusters become responsibilities,
and one M-step makes them parameters, so that every recipe obeys the model's priors.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.bernoulli import BernoulliFamily
from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, m_step
from triptych.inference.em.gaussian import GaussianFamily
from triptych.inference.em.kernel import Start
from triptych.models.errors import InputError

__all__ = ["RECIPES", "mixture_starts"]

RECIPES = ("k-means++", "random_rows", "random_responsibilities", "k-means", "ward")
WARD_ROWS = 2000


def mixture_starts(key: jax.Array, problem: MixtureProblem, number: int, init: str) -> Start:
    """Make `number` starting points, stacked, in standardised units.

    Parameters
    ----------
    init : "portfolio" (all recipes in turn, Ward's once because it is deterministic) or one of `RECIPES`.
    """
    if init == "portfolio":
        recipes = list(islice(cycle(RECIPES[:-1]), number))
        if number > len(RECIPES):
            recipes[-1] = "ward"
    elif init in RECIPES:
        recipes = [init] * number
    else:
        raise InputError(f"`init` is {init!r}: choose 'portfolio' or one of {', '.join(map(repr, RECIPES))}.")
    rows = np.asarray((problem.rows - problem.centre) * problem.inverse_scale)
    keys = jax.random.split(key, number)
    seeds = np.asarray(jax.vmap(lambda one: jax.random.randint(one, (), 0, 2**31 - 1))(keys))
    points = [_one(recipe, rows, int(seed), problem) for recipe, seed in zip(recipes, seeds, strict=True)]
    return Start(jax.tree.map(lambda *leaves: jnp.stack(leaves), *points), tuple(recipes))


def _one(recipe: str, rows: np.ndarray, seed: int, problem: MixtureProblem) -> Parameters:
    components = problem.family.components
    generator = np.random.default_rng(seed)
    if recipe == "random_rows":
        distinct = np.unique(rows[generator.permutation(len(rows))[: 50 * components]], axis=0)
        if len(distinct) >= components:
            return _around(generator.permutation(distinct)[:components], rows, problem)
        recipe = "random_responsibilities"
    if recipe == "random_responsibilities":
        table = generator.dirichlet(np.ones(components), size=len(rows))
        return _from_responsibilities(problem, jnp.asarray(table, rows.dtype))
    labels = _labels(recipe, rows, components, seed, generator)
    return _from_labels(problem, jnp.asarray(labels))


def _labels(recipe: str, rows: np.ndarray, components: int, seed: int, generator: Any) -> np.ndarray:
    """Cluster the rows by a recipe of scikit-learn's."""
    from sklearn.cluster import AgglomerativeClustering, KMeans, kmeans_plusplus

    if recipe == "k-means":
        return KMeans(components, n_init=1, random_state=seed % 2**31).fit(rows).labels_
    if recipe == "k-means++":
        centres, _ = kmeans_plusplus(rows, components, random_state=seed % 2**31)
        return _nearest(rows, centres)
    chosen = generator.choice(len(rows), min(len(rows), WARD_ROWS), replace=False)
    if len(chosen) <= components:
        return np.arange(len(rows)) % components
    labels = AgglomerativeClustering(components).fit_predict(rows[chosen])
    return _nearest(rows, np.stack([rows[chosen][labels == k].mean(axis=0) for k in range(components)]))


def _nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.argmin(np.sum(centres**2, axis=1) - 2.0 * rows @ centres.T, axis=1)


def _around(points: np.ndarray, rows: np.ndarray, problem: MixtureProblem) -> Parameters:
    """Equal components centred on given rows, as wide as K of them fill the data."""
    family = problem.family
    weights = jnp.full(family.components, 1.0 / family.components)
    if isinstance(family, BernoulliFamily):
        # Half way to the column means, so that no probability starts at 0 or 1.
        probs = np.clip(0.5 * points + 0.5 * rows.mean(axis=0), 0.01, 0.99)
        return {"weights": weights, "probs": jnp.asarray(probs, jnp.float64)}
    if not isinstance(family, GaussianFamily):
        raise InputError(f"No way to start {type(family).__name__} around rows: use 'random_responsibilities'.")
    parameters = {"weights": weights, "means": jnp.asarray(points, jnp.float64)}
    if family.known is None:
        pooled = problem.hyper.pooled  # type: ignore[attr-defined]
        each = pooled / family.components ** (2.0 / family.columns)
        one = family.covariance == "tied"
        parameters["covariances"] = each if one else jnp.stack([each] * family.components)
    return parameters


@jax.jit
def _from_labels(problem: MixtureProblem, labels: Array) -> Parameters:
    return _from_responsibilities(problem, jax.nn.one_hot(labels, problem.family.components))


@jax.jit
def _from_responsibilities(problem: MixtureProblem, table: Array) -> Parameters:
    """One M-step from responsibilities (n, K)."""
    rows = (problem.rows - problem.centre) * problem.inverse_scale
    if problem.weights is not None:
        table = table * problem.weights[:, None]
    sums = (problem.family.features(rows).T @ table.astype(rows.dtype)).astype(jnp.float64)
    return m_step(problem.family, Statistics(sums, problem.totals), problem.hyper)
