"""The Gaussian mixture against scipy, against its own symmetries, and against what it simulates."""

import dataclasses

import jax
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import stats

from triptych.models import GaussianMixture, InputError
from triptych.models.gaussian_prior import COVARIANCES

K, D, N = 3, 2, 40


def point(covariance, seed=0, K=K, D=D):
    """Give parameters in the shapes of the kind of covariance."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(K, D, D))
    full = factors @ factors.swapaxes(-1, -2) + np.eye(D)
    covariances = {
        "spherical": full[:, 0, 0],
        "diagonal": np.diagonal(full, axis1=1, axis2=2),
        "full": full,
        "tied": full[0],
    }[covariance]
    return {
        "weights": rng.dirichlet(np.ones(K) * 3),
        "means": rng.normal(size=(K, D)) * 3,
        "covariances": covariances,
    }


def matrices(parameters):
    """Give the covariances as (K, D, D), whatever their kind."""
    covariances, (K, D) = parameters["covariances"], parameters["means"].shape
    if covariances.shape == (K,):
        return covariances[:, None, None] * np.eye(D)
    if covariances.shape == (K, D) and K != D:
        return covariances[:, :, None] * np.eye(D)
    return np.broadcast_to(covariances, (K, D, D))


def data(seed=1, rows=N):
    return np.random.default_rng(seed).normal(size=(rows, D)) * [1.0, 20.0] + [3.0, -50.0]


def log_p(model, x, values):
    # Compiled whole, which is quicker than operation by operation; the data stay concrete.
    return float(jax.jit(lambda values: log_density(model, (x,), {}, values)[0])(values))


def log_prior(model, x, parameters):
    """Write the log density of the declared prior out in scipy."""
    prior = model.prior(x)
    total = stats.dirichlet(prior.concentration).logpdf(parameters["weights"])
    for mean, covariance in zip(parameters["means"], matrices(parameters), strict=True):
        total += stats.multivariate_normal(prior.location, covariance / prior.mean_precision).logpdf(mean)
    covariances, nu, spread = parameters["covariances"], prior.degrees_of_freedom, prior.spread
    if model.covariance == "full":
        total += sum(stats.invwishart(nu, spread).logpdf(covariance) for covariance in covariances)
    elif model.covariance == "tied":
        total += stats.invwishart(nu, spread).logpdf(covariances)
    else:
        total += np.sum(stats.invgamma(nu / 2, scale=spread / 2).logpdf(covariances))
    return total


def log_rows(parameters, x):
    """Give log N(x_n; μ_k, Σ_k), (N, K), by scipy."""
    pairs = zip(parameters["means"], matrices(parameters), strict=True)
    return np.stack([stats.multivariate_normal(m, c).logpdf(x) for m, c in pairs], axis=1)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_log_density_is_the_declared_one(covariance):
    model, x, parameters = GaussianMixture(K, covariance), data(), point(covariance)
    z = np.arange(N) % K
    expected = log_prior(model, x, parameters)
    expected += np.sum(np.log(parameters["weights"])[z] + log_rows(parameters, x)[np.arange(N), z])
    assert log_p(model, x, {**parameters, "z": z}) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_shapes_of_sites(key, covariance):
    x, latents = GaussianMixture(K, covariance).simulate(key, rows=7, columns=4)
    shapes = {"spherical": (K,), "diagonal": (K, 4), "full": (K, 4, 4), "tied": (4, 4)}
    assert x.shape == (7, 4)
    assert {site: value.shape for site, value in latents.items()} == {
        "weights": (K,),
        "means": (K, 4),
        "covariances": shapes[covariance],
        "z": (7,),
    }


def test_default_prior_is_that_of_fraley_and_raftery(faithful):
    prior = GaussianMixture(2).prior(faithful)
    np.testing.assert_allclose(prior.spread, np.cov(faithful.T) / 2, rtol=1e-12)  # K^(2/D) = 2
    np.testing.assert_allclose(prior.location, faithful.mean(axis=0), rtol=1e-12)
    assert (prior.degrees_of_freedom, prior.mean_precision) == (4, 0.01)
    np.testing.assert_allclose(prior.concentration, [1.5, 1.5])
    assert all(np.asarray(value).dtype == np.float64 for value in prior)
    diagonal = GaussianMixture(2, "diagonal").prior(faithful).spread
    np.testing.assert_allclose(diagonal, np.var(faithful, axis=0, ddof=1) / 2, rtol=1e-12)
    assert GaussianMixture(2, "spherical").prior(faithful).spread == pytest.approx(diagonal.mean())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_prior_without_data_is_standard(covariance):
    prior = GaussianMixture(K, covariance).prior(columns=3)
    shapes = {"spherical": 1.0, "diagonal": np.ones(3)}
    np.testing.assert_array_equal(prior.spread, shapes.get(covariance, np.eye(3)))
    np.testing.assert_array_equal(prior.location, np.zeros(3))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_prior_of_traced_data_is_the_same(covariance):
    model, x = GaussianMixture(K, covariance), data()
    for traced, concrete in zip(jax.jit(model.prior)(x), model.prior(x), strict=True):
        np.testing.assert_allclose(traced, concrete, rtol=1e-12)
    values = {**point(covariance), "z": np.zeros(N, int)}
    traced = jax.jit(lambda x: log_density(model, (x,), {}, values)[0])(x)
    assert float(traced) == pytest.approx(log_p(model, x, values), rel=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_prior_follows_the_unit_of_the_data(covariance):
    model, x = GaussianMixture(K, covariance), data()
    small, large = model.prior(x), model.prior(1000 * x)
    np.testing.assert_allclose(large.location, 1000 * small.location, rtol=1e-12)
    np.testing.assert_allclose(large.spread, 1e6 * small.spread, rtol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_log_density_shifts_by_the_jacobian_of_the_unit(covariance):
    # p(1000 x, 1000 μ, 1000² Σ) is p(x, μ, Σ) divided by 1000 a number that scales (1000² a variance).
    model, x, parameters, unit = GaussianMixture(K, covariance), data(), point(covariance), 1000.0
    z = np.arange(N) % K
    scaled = {
        "weights": parameters["weights"],
        "means": unit * parameters["means"],
        "covariances": unit**2 * parameters["covariances"],
    }
    variances = {"spherical": K, "diagonal": K * D, "full": K * D * (D + 1) / 2, "tied": D * (D + 1) / 2}
    shift = -np.log(unit) * (N * D + K * D + 2 * variances[covariance])
    difference = log_p(model, unit * x, {**scaled, "z": z}) - log_p(model, x, {**parameters, "z": z})
    assert difference == pytest.approx(shift, abs=1e-8)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_log_density_shifts_by_the_jacobian_of_an_affine_map(covariance):
    model, x, parameters = GaussianMixture(K, covariance), data(), point(covariance)
    z, A, b = np.arange(N) % K, np.array([[2.0, 1.0], [-0.5, 3.0]]), np.array([7.0, -3.0])
    mapped = {
        "weights": parameters["weights"],
        "means": parameters["means"] @ A.T + b,
        "covariances": A @ parameters["covariances"] @ A.T,
    }
    matrices_ = K if covariance == "full" else 1
    # Σ → A Σ Aᵀ on symmetric matrices has Jacobian |A|^(D + 1).
    shift = -np.log(abs(np.linalg.det(A))) * (N + K + matrices_ * (D + 1))
    difference = log_p(model, x @ A.T + b, {**mapped, "z": z}) - log_p(model, x, {**parameters, "z": z})
    assert difference == pytest.approx(shift, abs=1e-8)


def test_kinds_agree_where_they_mean_the_same():
    # With the same covariances, the likelihood is the same, however they are stored.
    x, z = data(), np.arange(N) % K
    parameters = point("spherical")
    variances = parameters["covariances"]
    same = {
        "spherical": variances,
        "diagonal": variances[:, None] * np.ones(D),
        "full": variances[:, None, None] * np.eye(D),
    }
    likelihoods = []
    for covariance, covariances in same.items():
        model, values = GaussianMixture(K, covariance), {**parameters, "covariances": covariances}
        likelihoods.append(log_p(model, x, {**values, "z": z}) - log_prior(model, x, values))
    np.testing.assert_allclose(likelihoods, likelihoods[0], rtol=1e-10)


def test_tied_is_full_with_equal_covariances():
    x, z, tied = data(), np.arange(N) % K, point("tied")
    full = {**tied, "covariances": np.stack([tied["covariances"]] * K)}
    likelihoods = [
        log_p(model, x, {**values, "z": z}) - log_prior(model, x, values)
        for model, values in [(GaussianMixture(K, "tied"), tied), (GaussianMixture(K), full)]
    ]
    assert likelihoods[0] == pytest.approx(likelihoods[1], rel=1e-10)


@pytest.mark.parametrize("scale", [2.0, (0.5, 1.0, 2.0)])
def test_known_scale(key, scale):
    model, x = GaussianMixture(K, scale=scale), data()
    assert model.covariance == "spherical"
    parameters = {site: value for site, value in point("spherical").items() if site != "covariances"}
    known = {**parameters, "covariances": np.broadcast_to(np.square(scale), (K,))}
    z = np.arange(N) % K
    prior = model.prior(x)
    expected = stats.dirichlet(prior.concentration).logpdf(parameters["weights"])
    for mean, covariance in zip(parameters["means"], matrices(known), strict=True):
        expected += stats.multivariate_normal(prior.location, covariance / 0.01).logpdf(mean)
    expected += np.sum(np.log(parameters["weights"])[z] + log_rows(known, x)[np.arange(N), z])
    assert log_p(model, x, {**parameters, "z": z}) == pytest.approx(expected, rel=1e-10)
    assert "covariances" not in model.simulate(key)[1]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_simulated_moments(key, covariance):
    parameters, rows = point(covariance), 40_000
    x, latents = GaussianMixture(K, covariance).simulate(key, rows, parameters=parameters)
    z, full = latents["z"], matrices(parameters)
    np.testing.assert_array_equal(latents["means"], parameters["means"])
    # Every estimate within 5 of its standard errors: chance of a false alarm below 1e-4 in all.
    weights = parameters["weights"]
    assert np.all(abs(np.bincount(z) / rows - weights) < 5 * np.sqrt(weights * (1 - weights) / rows))
    for k in range(K):
        own, variances = x[z == k], np.diag(full[k])
        assert np.all(abs(own.mean(axis=0) - parameters["means"][k]) < 5 * np.sqrt(variances / len(own)))
        error = np.sqrt((np.outer(variances, variances) + full[k] ** 2) / len(own))
        assert np.all(abs(np.cov(own.T) - full[k]) < 5 * error)


def test_simulation_repeats_and_takes_its_columns_from_what_is_given(key):
    model = GaussianMixture(K, scale=1.0, location=(1.0, 2.0, 3.0))
    first, second = model.simulate(key)[0], model.simulate(key)[0]
    assert first.shape == (100, 3)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, second)
    assert model.simulate(jax.random.key(1))[0][0, 0] != first[0, 0]
    model = GaussianMixture(K, scale=1.0)
    with_means = model.simulate(key, parameters={"means": np.zeros((K, 5))})
    assert with_means[0].shape == (100, 5)


def test_program_without_data_draws(key):
    from numpyro import handlers

    model = GaussianMixture(K, scale=1.0)
    assert handlers.seed(model, key)().shape == (100, 2)
    assert handlers.seed(model, key)(rows=5, columns=3).shape == (5, 3)


def test_hyperparameters_given_are_used():
    spread = [[2.0, 0.5], [0.5, 1.0]]
    model = GaussianMixture(
        K, concentration=[1, 2, 3], mean_precision=1, degrees_of_freedom=7, location=5, spread=spread
    )
    prior = model.prior(data())
    np.testing.assert_array_equal(prior.concentration, [1, 2, 3])
    np.testing.assert_array_equal(prior.location, [5, 5])
    np.testing.assert_array_equal(prior.spread, spread)
    assert (prior.mean_precision, prior.degrees_of_freedom) == (1, 7)
    np.testing.assert_array_equal(GaussianMixture(K, spread=2).prior(data()).spread, 2 * np.eye(2))


def test_models_are_values():
    model = GaussianMixture(np.int64(3), "full", location=np.zeros(2), spread=np.eye(2))
    assert model == GaussianMixture(3, location=[0, 0], spread=[[1, 0], [0, 1]])
    assert hash(model) == hash(dataclasses.replace(model))
    assert model.location == (0.0, 0.0)
    assert type(model.components) is int
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.components = 2  # type: ignore[misc]
    assert jax.jit(lambda m, x: m.prior(x).location, static_argnums=0)(model, data()).shape == (2,)


def test_float32_stays_float32():
    x = data().astype(np.float32)
    values = {**point("full"), "z": np.zeros(N, int)}
    values = {site: np.asarray(v, np.float32) if v.dtype == np.float64 else v for site, v in values.items()}
    for covariance in ("full", "diagonal"):
        values["covariances"] = point(covariance)["covariances"].astype(np.float32)
        model = GaussianMixture(K, covariance)
        density = jax.jit(lambda values, model=model: log_density(model, (x,), {}, values)[0])(values)
        assert density.dtype == np.float32
    assert GaussianMixture(K).validate(x)[0].dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"components": 0}, "`components` must be a whole number of at least 1, but is 0"),
        ({"components": 2.5}, "whole number"),
        ({"components": True}, "whole number"),
        ({"components": "three"}, "whole number"),
        ({"components": 2, "covariance": "sphercal"}, "did you mean 'spherical'"),
        ({"components": 2, "covariance": 3}, "one of spherical, diagonal, full, tied"),
        ({"components": 2, "scale": 0.0}, "`scale` must be above 0"),
        ({"components": 2, "scale": (1.0, 2.0, 3.0)}, "`scale` has 3 numbers for 2 components"),
        ({"components": 2, "scale": 1.0, "covariance": "tied"}, "leave one out"),
        ({"components": 2, "concentration": -1}, "`concentration` must be above 0"),
        ({"components": 2, "concentration": [[1.0, 2.0]]}, "`concentration` must be"),
        ({"components": 2, "mean_precision": 0}, "`mean_precision` must be one number above 0"),
        ({"components": 2, "mean_precision": "1"}, "`mean_precision` must be finite numbers"),
        ({"components": 2, "degrees_of_freedom": float("nan")}, "`degrees_of_freedom` must be finite"),
        ({"components": 2, "location": [[1.0, 2.0]]}, "`location` must be a number or one a column"),
        ({"components": 2, "spread": [[1.0, 2.0], [2.0, 1.0]]}, "positive definite"),
        ({"components": 2, "spread": [[1.0, 0.5], [0.0, 1.0]]}, "positive definite"),
        ({"components": 2, "spread": [1.0, -1.0], "covariance": "diagonal"}, "`spread` must be"),
    ],
)
def test_wrong_hyperparameters(arguments, says):
    with pytest.raises(InputError, match=says):
        GaussianMixture(**arguments)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (GaussianMixture(2, location=(1.0, 2.0, 3.0)), "`location` has 3 numbers for 2 columns"),
        (GaussianMixture(2, spread=(1.0, 2.0)), r"shape \(2, 2\) for full"),
        (GaussianMixture(2, "diagonal", spread=np.eye(3)), r"shape \(2,\) for diagonal"),
        (GaussianMixture(2, degrees_of_freedom=0.5), "`degrees_of_freedom` must be above 1"),
    ],
)
def test_hyperparameters_that_do_not_fit_the_data(model, says):
    for use in (model.prior, model.validate, model):
        with pytest.raises(InputError, match=says):
            use(data())


def test_wrong_arguments_of_simulate_and_of_the_program(key):
    model = GaussianMixture(K)
    with pytest.raises(InputError, match=r"`rows` must be a whole number"):
        model.simulate(key, rows=0)
    with pytest.raises(InputError, match=r"`columns` must be a whole number"):
        model.simulate(key, columns=-1)
    with pytest.raises(InputError, match=r"did you mean 'means'"):
        GaussianMixture(K, scale=1.0).simulate(key, parameters={"mean": np.zeros((K, 2))})
    with pytest.raises(InputError, match=r"must have shape \(3, 2, 2\), but has \(3,\)"):
        model.simulate(key, parameters={"covariances": np.ones(K)})
    with pytest.raises(InputError, match=r"`parameters\['weights'\]` must lie in the support"):
        model.simulate(key, parameters={"weights": [0.5, 0.6, 0.1]})
    with pytest.raises(InputError, match="two dimensions"):
        model(np.zeros(3))
    with pytest.raises(InputError, match="`x` has 2 columns, but `covariances` has 3"):
        log_density(model, (data(),), {}, point("full", D=3) | {"z": np.zeros(N, int)})
    spherical, wide = GaussianMixture(K, "spherical"), point("spherical", D=3)
    with pytest.raises(InputError, match="`x` has 2 columns, but `means` has 3"):
        log_density(spherical, (data(),), {}, wide | {"z": np.zeros(N, int)})
