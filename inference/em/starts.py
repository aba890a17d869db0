"""Where EM starts: a portfolio of recipes, because no single one wins.

k-means++ seeds (Arthur & Vassilvitskii 2007), random rows with the pooled covariance, random responsibilities
(Dirichlet(1) a row), k-means, and Ward's hierarchy on at most 2000 rows. Seeds and clusters become
responsibilities, and one M-step makes them parameters, so that every recipe obeys the model's priors.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.effort import by_work, cells
from triptych.inference.em.bernoulli import BernoulliFamily
from triptych.inference.em.family import Array, Parameters, Statistics
from triptych.inference.em.fold import MixtureProblem, m_step
from triptych.inference.em.gaussian import GaussianFamily
from triptych.inference.em.incomplete import IncompleteProblem, filled
from triptych.inference.em.kernel import Start
from triptych.inference.em.transposed_rows import standardised
from triptych.models.errors import InputError

__all__ = ["RECIPES", "generator", "mixture_starts", "seeds"]

RECIPES = ("k-means++", "random_rows", "random_responsibilities", "k-means", "ward")
WARD_ROWS = 2000


def mixture_starts(
    key: jax.Array, problem: MixtureProblem | IncompleteProblem, number: int, init: str
) -> Start:
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
    held = jax.tree.map(np.asarray, (problem.rows, problem.centre, problem.inverse_scale))
    rows = filled(np.ascontiguousarray(standardised(*held)))
    labels = None if problem.labels is None else np.asarray(problem.labels)
    random = generator(key)
    points: list[Any] = [None] * number
    tables = np.empty((number, len(rows), problem.family.components), rows.dtype)
    seeded = np.flatnonzero([recipe == "k-means++" for recipe in recipes])
    tables[seeded] = np.eye(problem.family.components)[
        _nearest(rows, seeds(rows, problem.family.components, len(seeded), random))
    ]
    for index, recipe in enumerate(recipes):
        if recipe == "random_rows":
            points[index] = _around(rows, problem, labels, random)
        if recipe != "k-means++":
            tables[index] = _table(recipe, rows, problem.family.components, random)
        if labels is not None:
            tables[index] = _agreeing(tables[index], labels)
    found = _from_responsibilities(problem, jnp.asarray(tables), work=cells(problem) * number)
    stacked = {name: np.array(value) for name, value in found.items()}
    for index, point in enumerate(points):
        for name, value in (point or {}).items():
            stacked[name][index] = value
    return Start(stacked, tuple(recipes))


def generator(key: jax.Array) -> np.random.Generator:
    """Make NumPy's generator from a JAX key, without compiling anything."""
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return np.random.default_rng(np.asarray(data).ravel())


def _table(recipe: str, rows: np.ndarray, components: int, random: np.random.Generator) -> np.ndarray:
    """Responsibilities (n, K): random, or certain where the recipe is a clustering."""
    if recipe in ("random_responsibilities", "random_rows"):
        return random.dirichlet(np.ones(components), size=len(rows))
    return np.eye(components)[_labels(recipe, rows, components, random)]


def _labels(recipe: str, rows: np.ndarray, components: int, random: np.random.Generator) -> np.ndarray:
    """Cluster the rows by a recipe of scikit-learn's."""
    from sklearn.cluster import AgglomerativeClustering, KMeans

    seed = int(random.integers(2**31))
    if recipe == "k-means":
        # One k-means++ start: scikit-learn's own number for `init="k-means++"`.
        return np.asarray(KMeans(components, random_state=seed).fit(rows).labels_)
    chosen = random.choice(len(rows), min(len(rows), WARD_ROWS), replace=False)
    if len(chosen) <= components:
        return np.arange(len(rows)) % components
    labels = AgglomerativeClustering(components).fit_predict(rows[chosen])
    return _nearest(rows, np.stack([rows[chosen][labels == k].mean(axis=0) for k in range(components)]))


def seeds(rows: np.ndarray, components: int, number: int, random: np.random.Generator) -> np.ndarray:
    """Draw k-means++ seeds (Arthur & Vassilvitskii 2007), `number` sets at once: (number, K, D).

    Each next seed is a row drawn with probability ∝ d²(x, nearest seed); of 2 + ⌊log K⌋ such rows the one
    that lowers Σ d² most is kept, as scikit-learn does (whose function makes one set a call, most of it
    checks).
    """
    trials = 2 + int(np.log(components))
    lengths = np.einsum("nd,nd->n", rows, rows)
    chosen = random.integers(len(rows), size=(number, 1))
    nearest = np.full((number, 1, len(rows)), np.inf)
    kept = []
    for _ in range(components):
        distances = lengths[chosen][..., None] - 2.0 * rows[chosen] @ rows.T + lengths
        candidates = np.minimum(nearest, np.maximum(distances, 0.0))
        best = np.argmin(candidates.sum(axis=2), axis=1)[:, None]
        kept.append(np.take_along_axis(chosen, best, axis=1))
        nearest = np.take_along_axis(candidates, best[..., None], axis=1)
        heights = np.cumsum(nearest, axis=2)
        drawn = heights[:, :, -1] * random.random((number, trials))
        chosen = np.minimum(np.sum(heights <= drawn[..., None], axis=2), len(rows) - 1)
    return rows[np.concatenate(kept, axis=1)]


def _nearest(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Give the number of the nearest of K centres (…, K, D) to each row, (…, N)."""
    heights = np.sum(centres**2, axis=-1)[..., None] - 2.0 * centres @ rows.T
    return np.argmin(heights, axis=-2)


def _agreeing(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Renumber a clustering, (n, K), to agree with the labels (−1: none), and let them overrule it."""
    from scipy.optimize import linear_sum_assignment

    known = np.flatnonzero(labels >= 0)
    identity = np.eye(table.shape[1])
    _, cluster = linear_sum_assignment(-identity[labels[known]].T @ table[known])
    table = table[:, cluster]
    table[known] = identity[labels[known]]
    return table


def _around(
    rows: np.ndarray,
    problem: MixtureProblem | IncompleteProblem,
    labels: np.ndarray | None,
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Equal components centred on K distinct rows drawn at random, as wide as K of them fill the data."""
    family = problem.family
    drawn = rows[random.permutation(len(rows))[: 50 * family.components]]
    points = random.permutation(np.unique(drawn, axis=0))[: family.components]
    if len(points) < family.components:
        return {}  # rows repeated so often that the draw missed some: random table instead
    weights = np.full(family.components, 1.0 / family.components)
    if isinstance(family, BernoulliFamily):
        # Half way to the column means, so that no probability starts at 0 or 1.
        return {"weights": weights, "probs": np.clip(0.5 * points + 0.5 * rows.mean(axis=0), 0.01, 0.99)}
    if not isinstance(family, GaussianFamily):
        return {}
    for k in [] if labels is None else np.unique(labels[labels >= 0]):
        points[k] = rows[labels == k].mean(axis=0)
    parameters = {"weights": weights, "means": points}
    if family.known is None:
        pooled = np.asarray(problem.hyper.pooled)  # type: ignore[attr-defined]
        parameters["covariances"] = pooled / family.components ** (2.0 / family.columns)
    return parameters


@by_work
def _from_responsibilities(problem: MixtureProblem | IncompleteProblem, tables: Array) -> Parameters:
    """One M-step from each table of responsibilities (S, n, K)."""
    family: Any = problem.family
    rows = standardised(problem.rows, problem.centre, problem.inverse_scale)
    features = family.features(rows)
    totals = family.totals(rows, problem.weights) if problem.totals is None else problem.totals

    def one(table: Array) -> Parameters:
        weighted = table if problem.weights is None else table * problem.weights[:, None]
        sums = (features @ weighted).astype(jnp.float64)
        return m_step(family, Statistics(sums, totals), problem.hyper)

    return jax.lax.map(one, tables)
