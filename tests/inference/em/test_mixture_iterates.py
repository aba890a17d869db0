"""EM of mixtures, iterate by iterate, against scikit-learn and against twenty lines of NumPy."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture

from triptych.inference.em import EM
from triptych.inference.em.algorithm import EMState
from triptych.models import BernoulliMixture, GaussianMixture

TYPES = {"spherical": "spherical", "diagonal": "diag", "full": "full", "tied": "tied"}
SHAPES = {
    "spherical": np.ones(3),
    "diagonal": np.ones((3, 2)),
    "full": np.stack([np.eye(2)] * 3),
    "tied": np.eye(2),
}


def blobs(seed: int = 0, rows: int = 300) -> np.ndarray:
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=rows)
    return generator.normal(size=(rows, 2)) + np.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]])[labels]


def precision(covariance: str, covariances: np.ndarray) -> np.ndarray:
    return np.linalg.inv(covariances) if covariance in ("full", "tied") else 1.0 / covariances


@pytest.mark.parametrize("covariance", TYPES)
def test_iterates_equal_scikit_learn(covariance: str) -> None:
    x = blobs() * np.array([1.0, 30.0]) + np.array([0.0, 500.0])
    follow_scikit_learn(covariance, x, SHAPES[covariance] * 100.0, 8)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "tied"])
def test_iterates_of_wide_rows_equal_scikit_learn(covariance: str) -> None:
    """Where all but full covariances are folded over rows as they lie."""
    columns = 70
    x = np.random.default_rng(0).normal(size=(300, columns)) * np.linspace(0.5, 2, columns) + 5.0
    x[:140] += 0.3
    shapes = {
        "spherical": np.ones(3),
        "diagonal": np.ones((3, columns)),
        "tied": np.eye(columns),
    }
    follow_scikit_learn(covariance, x, shapes[covariance] * 4.0, 3)


def follow_scikit_learn(covariance: str, x: np.ndarray, covariances: np.ndarray, last: int) -> None:
    start = {"weights": np.array([0.2, 0.3, 0.5]), "means": x[[3, 50, 120]], "covariances": covariances}
    em = EM(GaussianMixture(3, covariance), objective="mle")
    state = EMState(start)
    for steps in range(1, last + 1):
        state, _ = em.step(state, x)
        peer = SklearnMixture(
            3,
            covariance_type=TYPES[covariance],
            weights_init=start["weights"],
            means_init=start["means"],
            precisions_init=precision(covariance, start["covariances"]),
            max_iter=steps,
            tol=0.0,
            reg_covar=0.0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer.fit(x)
        np.testing.assert_allclose(state.parameters["weights"], peer.weights_, rtol=1e-8)
        np.testing.assert_allclose(state.parameters["means"], peer.means_, rtol=1e-8)
        np.testing.assert_allclose(state.parameters["covariances"], peer.covariances_, rtol=1e-8)
        _, info = em.step(state, x)
        assert info.objective == pytest.approx(peer.score(x) * len(x), rel=1e-10)


def numpy_bernoulli_em(x: np.ndarray, weights: np.ndarray, probs: np.ndarray, steps: int) -> tuple:
    for _ in range(steps):
        table = np.log(weights) + x @ np.log(probs).T + (1 - x) @ np.log1p(-probs).T
        responsibilities = np.exp(table - logsumexp(table, axis=1, keepdims=True))
        counts = responsibilities.sum(axis=0)
        weights, probs = counts / len(x), responsibilities.T @ x / counts[:, None]
    return weights, probs


def test_bernoulli_iterates_equal_numpy() -> None:
    generator = np.random.default_rng(1)
    x = (generator.random((200, 5)) < np.where(np.arange(200)[:, None] < 80, 0.2, 0.7)).astype(float)
    weights, probs = np.array([0.4, 0.6]), generator.uniform(0.2, 0.8, (2, 5))
    em, state = EM(BernoulliMixture(2), objective="mle"), EMState({"weights": weights, "probs": probs})
    for steps in range(1, 8):
        state, _ = em.step(state, x)
        expected = numpy_bernoulli_em(x, weights, probs, steps)
        np.testing.assert_allclose(state.parameters["weights"], expected[0], rtol=1e-10)
        np.testing.assert_allclose(state.parameters["probs"], expected[1], rtol=1e-10)


def test_known_variances_leave_only_means_and_weights() -> None:
    x = blobs()
    em = EM(GaussianMixture(2, scale=1.5), objective="mle")
    start = {"weights": np.array([0.5, 0.5]), "means": x[[0, 1]]}
    state, info = em.step(EMState(start), x)
    densities = np.stack([multivariate_normal(mean, 1.5**2).logpdf(x) for mean in start["means"]], axis=1)
    table = np.log(start["weights"]) + densities
    assert info.objective == pytest.approx(logsumexp(table, axis=1).sum(), rel=1e-12)
    responsibilities = np.exp(table - logsumexp(table, axis=1, keepdims=True))
    expected = responsibilities.T @ x / responsibilities.sum(axis=0)[:, None]
    np.testing.assert_allclose(state.parameters["means"], expected, rtol=1e-10)
    assert set(state.parameters) == {"weights", "means"}


@pytest.mark.parametrize("covariance", TYPES)
def test_map_step_maximises_the_expected_log_joint(covariance: str) -> None:
    """At a fixed point of MAP-EM the gradient of the program's log joint vanishes in every free direction."""
    from triptych.inference.marginal import marginal
    from triptych.inference.unconstrained import coordinates

    x = blobs()
    model = GaussianMixture(2, covariance)
    fit = EM(model, tol=1e-11, restarts=1, draws=0).run(jax.random.key(1), x)
    m = marginal(model)
    sites = m.structure(x).parameters
    space = coordinates({name: (site.shape, site.support) for name, site in sites.items()})
    density = space.density(lambda theta: m.log_density(theta, x), jacobian=False)
    gradient = jax.grad(density)(space.unconstrain(fit.parameters))
    assert np.max(np.abs(gradient)) < 1e-3
    assert fit.objective[-1] == pytest.approx(float(m.log_density(fit.parameters, x)), abs=1e-8)
