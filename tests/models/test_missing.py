"""Missing cells and known labels in a Gaussian mixture, against scipy on the cells that are there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from triptych.inference.marginal import marginal
from triptych.models import GaussianMixture, InputError
from triptych.models.gaussian_prior import COVARIANCES, incomplete_covariance
from triptych.models.matrices import inverse
from triptych.models.missing import blocks_of, moments

K, D, N = 2, 3, 30


def gappy(seed: int = 0, rows: int = N, columns: int = D, share: float = 0.3) -> np.ndarray:
    """Rows with gaps at random; row 0 has no cell at all and row 1 every one."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, columns)) @ generator.normal(size=(columns, columns)) + 3.0
    x[generator.random(x.shape) < share] = np.nan
    x[0], x[1] = np.nan, generator.normal(size=columns)
    return x


def point(covariance: str, seed: int = 0) -> dict[str, jax.Array]:
    generator = np.random.default_rng(seed)
    factors = generator.normal(size=(K, D, D))
    full = factors @ np.swapaxes(factors, 1, 2) + 0.3 * np.eye(D)
    each = {
        "spherical": full[:, 0, 0],
        "diagonal": np.diagonal(full, axis1=1, axis2=2),
        "full": full,
        "tied": full[0],
    }
    means = generator.normal(size=(K, D))
    found = {"weights": np.array([0.3, 0.7]), "means": means, "covariances": each[covariance]}
    return {name: jnp.asarray(value) for name, value in found.items()}


def matrices(covariance: str, parameters: dict[str, jax.Array]) -> Any:
    value = parameters["covariances"]
    if covariance == "full":
        return value
    if covariance == "tied":
        return np.stack([value] * K)
    return np.stack([np.eye(D) * v for v in value])


def by_scipy(x: np.ndarray, parameters: dict[str, jax.Array], covariances: Any) -> np.ndarray:
    """log π_k + log p(observed cells | k), (N, K), row by row."""
    table = np.tile(np.log(parameters["weights"]), (len(x), 1))
    for n, row in enumerate(x):
        there = ~np.isnan(row)
        for k in range(K) if there.any() else ():
            normal = multivariate_normal(parameters["means"][k, there], covariances[k][np.ix_(there, there)])
            table[n, k] += normal.logpdf(row[there])
    return table


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_marginal_is_scipys_on_the_observed_cells(covariance: str) -> None:
    x, parameters = gappy(), point(covariance)
    table = by_scipy(x, parameters, matrices(covariance, parameters))
    m = marginal(GaussianMixture(K, covariance, missing=True))
    rows = m.log_likelihood(parameters, x)["x"]
    np.testing.assert_allclose(rows, logsumexp(table, axis=1), rtol=1e-11, atol=1e-12)
    posterior = m.posteriors(parameters, x)["z"]
    np.testing.assert_allclose(posterior, np.exp(table - logsumexp(table, axis=1, keepdims=True)), atol=1e-11)
    np.testing.assert_allclose(posterior[0], parameters["weights"])  # a row without a cell tells nothing
    gradient = jax.grad(lambda p: m.log_density(p, x))(parameters)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient.values())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_labels_restrict_the_sum(covariance: str) -> None:
    x, parameters = gappy(), point(covariance)
    z = np.full(N, -1.0)
    z[:8], z[8:10] = [0, 1] * 4, np.nan
    table = by_scipy(x, parameters, matrices(covariance, parameters))
    expected = np.asarray(logsumexp(table, axis=1))
    expected[:8] = table[np.arange(8), z[:8].astype(int)]
    m = marginal(GaussianMixture(K, covariance, missing=True))
    (rows,) = m.log_likelihood(parameters, x, z).values()
    np.testing.assert_allclose(rows, expected, rtol=1e-11)
    np.testing.assert_array_equal(m.posteriors(parameters, x, z)["z"][:8], np.eye(2)[z[:8].astype(int)])
    gradient = jax.grad(lambda p: m.log_density(p, x, z))(parameters)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient.values())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_without_a_gap_it_is_the_same_program(covariance: str) -> None:
    x, parameters = np.random.default_rng(3).normal(size=(N, D)), point(covariance)
    whole, gaps = GaussianMixture(K, covariance), GaussianMixture(K, covariance, missing=True)
    for one, other in zip(whole.prior(x), gaps.prior(x), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12)
    expected = marginal(whole).log_density(parameters, x)
    assert marginal(gaps).log_density(parameters, x) == pytest.approx(float(expected), rel=1e-12)
    # A traced x, whose pattern is not known while the program is traced, gives the same.
    x = gappy()
    traced = jax.jit(lambda x: marginal(gaps).log_density(parameters, x))(x)
    assert float(traced) == pytest.approx(float(marginal(gaps).log_density(parameters, x)), rel=1e-11)


def test_blocks_hold_every_row_once_beside_its_like() -> None:
    for seed, rows in ((0, 1), (1, 7), (2, 300)):
        x = gappy(seed, rows + 2)
        blocks = blocks_of(x)
        np.testing.assert_array_equal(blocks.rows.ravel()[blocks.place], np.arange(len(x)))
        assert np.sum(blocks.rows >= 0) == len(x)
        for pattern, members in zip(blocks.patterns, blocks.rows, strict=True):
            assert np.all(~np.isnan(x[members[members >= 0]]) == pattern)


def test_moments_are_each_columns_own() -> None:
    x = gappy(4, 50)
    count, mean, deviation, covariance = moments(x)
    np.testing.assert_array_equal(count, np.sum(~np.isnan(x), axis=0))
    np.testing.assert_allclose(mean, np.nanmean(x, axis=0))
    np.testing.assert_allclose(deviation, np.nanstd(x, axis=0))
    np.testing.assert_allclose(np.diagonal(incomplete_covariance(x)), np.nanvar(x, axis=0, ddof=1))
    assert np.linalg.eigvalsh(covariance)[0] > 0
    np.testing.assert_allclose(incomplete_covariance(1000 * x), 1e6 * incomplete_covariance(x))
    weight = np.random.default_rng(0).integers(1, 4, len(x))
    for one, other in zip(moments(x, weight), moments(np.repeat(x, weight, axis=0)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_small_matrices_are_inverted_and_differentiated(size: int) -> None:
    factor = np.random.default_rng(size).normal(size=(5, size, size))
    matrices = jnp.asarray(factor @ np.swapaxes(factor, 1, 2) + 0.1 * np.eye(size))
    inverted, log_det = inverse(matrices)
    np.testing.assert_allclose(inverted, np.linalg.inv(matrices), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(log_det, -np.linalg.slogdet(matrices)[1], rtol=1e-10)
    change = jnp.asarray(factor + np.swapaxes(factor, 1, 2))

    def by_peer(m: Any) -> Any:
        return jnp.linalg.inv(m), -jnp.linalg.slogdet(m)[1]

    for one, other in zip(*(jax.jvp(f, (matrices,), (change,))[1] for f in (inverse, by_peer)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8 * float(jnp.max(jnp.abs(other))))
    assert bool(jnp.all(jnp.isnan(inverse(-matrices)[1])))


def test_wrong_input_is_refused_by_name() -> None:
    pandas = pytest.importorskip("pandas")
    x, model = gappy(), GaussianMixture(K, missing=True)
    frame = pandas.DataFrame(x, columns=["Ozone", "Wind", "Temp"])
    with pytest.raises(InputError, match=r"`x` is NaN at row 0, column Ozone.*missing=True"):
        GaussianMixture(K).validate(frame)
    with pytest.raises(InputError, match="Column Wind of `x` has no observed cell: drop it"):
        model.validate(frame.assign(Wind=np.nan))
    with pytest.raises(InputError, match="infinite at row 1, column Temp"):
        model.validate(frame.assign(Temp=np.where(np.arange(N) == 1, np.inf, x[:, 2])))
    with pytest.raises(InputError, match="Column Temp of `x` is constant"):
        model.validate(frame.assign(Temp=np.where(np.isnan(x[:, 2]), np.nan, 1.0)))
    with pytest.raises(InputError, match=r"`z` is 2 at row 3.*number the labels 0 to 1"):
        model.validate(x, np.where(np.arange(N) == 3, 2, -1))
    with pytest.raises(InputError, match=r"`z` is 0.5 at row 0"):
        model.validate(x, np.full(N, 0.5))
    with pytest.raises(InputError, match=r"`z` has shape \(29,\).*one label a row, \(30,\)"):
        model.validate(x, np.zeros(N - 1))
    with pytest.raises(InputError, match="`missing` is 'yes'"):
        GaussianMixture(K, missing="yes")  # type: ignore[arg-type]


def test_pandas_gaps_and_masked_cells_are_nan() -> None:
    pandas = pytest.importorskip("pandas")
    x, model = gappy(), GaussianMixture(K, missing=True)
    nullable = pandas.DataFrame(x).astype("Float64")
    np.testing.assert_array_equal(model.validate(nullable)[0], x)
    masked = np.ma.masked_array(np.nan_to_num(x), np.isnan(x))
    np.testing.assert_array_equal(model.validate(masked)[0], x)
    np.testing.assert_array_equal(model.validate(x, [None, 1] + [0] * (N - 2))[1][:3], [-1, 1, 0])
