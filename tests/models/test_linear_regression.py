"""Bayesian linear regression against scipy, its units, and what it simulates."""

import jax
import numpy as np
import pytest
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from scipy import stats

from triptych.models import BayesianLinearRegression, InputError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)) * [1.0, 5.0, 0.2] + [0.0, 3.0, -1.0]
Y = X @ [1.0, -2.0, 3.0] + 4 + RNG.normal(size=30)
POINT = {"w": np.array([1.0, -1.5, 2.0]), "lambda": np.array(0.3), "beta": np.array(0.7)}


def log_p(model, X, y, values):
    # Compiled whole, which is quicker than operation by operation; the data stay concrete.
    return float(jax.jit(lambda values: log_density(model, (X, y), {}, values)[0])(values))


@pytest.mark.parametrize("intercept", [True, False])
def test_log_density_is_the_declared_one(intercept):
    model = BayesianLinearRegression(
        intercept, lambda_shape=2.0, lambda_rate=0.1, beta_shape=3.0, beta_rate=0.5
    )
    values = {**POINT, "intercept": np.array(2.0)} if intercept else POINT
    variance, column = np.var(Y, ddof=1), np.var(X, axis=0, ddof=1).mean()
    # The hyper-priors as the docstring has them: densities of standardised precisions, with Jacobians.
    expected = stats.gamma(3, scale=1 / 0.5).logpdf(0.7 * variance) + np.log(variance)
    expected += stats.gamma(2, scale=1 / 0.1).logpdf(0.3 * variance / column) + np.log(variance / column)
    expected += stats.norm(0, 0.3**-0.5).logpdf(POINT["w"]).sum()
    mean = X @ POINT["w"] + (2.0 if intercept else 0.0)
    expected += stats.norm(mean, 0.7**-0.5).logpdf(Y).sum()
    assert log_p(model, X, Y, values) == pytest.approx(expected, rel=1e-10)


def test_prior_of_traced_data_is_the_same():
    model = BayesianLinearRegression()
    for traced, concrete in zip(jax.jit(model.prior)(X, Y), model.prior(X, Y), strict=True):
        np.testing.assert_allclose(traced, concrete, rtol=1e-12)


def test_log_density_shifts_by_the_jacobian_of_the_units():
    # X → a X, y → b y: w and intercept scale by b/a and b, the precisions λ and β by (a/b)² and b⁻².
    model, a, b, D = BayesianLinearRegression(), 100.0, 1000.0, 3
    values = {**POINT, "intercept": np.array(2.0)}
    scaled = {
        "w": POINT["w"] * b / a,
        "lambda": POINT["lambda"] * (a / b) ** 2,
        "beta": POINT["beta"] / b**2,
        "intercept": np.array(2.0 * b),
    }
    # The intercept's density is flat, with no unit, so that it gives no term.
    shift = -np.log(b) * len(Y) - np.log(b / a) * D - 2 * np.log(a / b) + 2 * np.log(b)
    difference = log_p(model, a * X, b * Y, scaled) - log_p(model, X, Y, values)
    assert difference == pytest.approx(shift, abs=1e-8)


def test_moving_the_data_moves_only_the_intercept():
    model = BayesianLinearRegression()
    here = log_p(model, X, Y, {**POINT, "intercept": np.array(2.0)})
    there = log_p(model, X + 5.0, Y, {**POINT, "intercept": 2.0 - 5.0 * POINT["w"].sum()})
    assert there == pytest.approx(here, abs=1e-9)


def test_simulated_moments(key):
    rows, parameters = 40_000, {**POINT, "intercept": np.array(2.0)}
    (design, y), latents = BayesianLinearRegression().simulate(key, rows=rows, parameters=parameters)
    assert design.shape == (rows, 3)
    residual = y - design @ POINT["w"] - 2.0
    variance = 1 / 0.7
    # Within 5 standard errors.
    assert abs(residual.mean()) < 5 * np.sqrt(variance / rows)
    assert abs(residual.var() - variance) < 5 * variance * np.sqrt(2 / rows)
    assert np.all(abs(design.T @ residual / rows) < 5 * np.sqrt(variance / rows))
    assert abs(design.mean()) < 5 / np.sqrt(design.size)
    assert set(latents) == {"w", "lambda", "beta", "intercept"}


def test_simulate_keeps_a_given_design(key):
    (design, y), latents = BayesianLinearRegression().simulate(key, X)
    np.testing.assert_array_equal(design, X)
    assert y.shape == (30,)
    assert latents["w"].shape == (3,)
    assert latents["intercept"] == 0
    assert "intercept" not in BayesianLinearRegression(intercept=False).simulate(key, X)[1]


def test_precisions_drawn_follow_their_prior(key):
    model = BayesianLinearRegression(lambda_shape=4.0, beta_shape=2.0, beta_rate=0.5)
    draws = Predictive(model, num_samples=4000)(key, X)
    prior = model.prior(X)
    for site, shape, rate in [
        ("lambda", prior.lambda_shape, prior.lambda_rate),
        ("beta", prior.beta_shape, prior.beta_rate),
    ]:
        assert stats.kstest(np.asarray(draws[site]), stats.gamma(shape, scale=1 / rate).cdf).pvalue > 1e-4
    assert np.all(draws["intercept"] == 0)


def test_validate_gives_both_and_float32_stays():
    model = BayesianLinearRegression()
    design, y = model.validate(X.tolist(), Y.astype(np.float32))
    assert (design.dtype, y.dtype) == (np.float64, np.float32)
    assert len(model.validate(X)) == 1
    narrow = {site: np.float32(value) for site, value in {**POINT, "intercept": 2.0}.items()}
    density = log_density(model, (np.float32(X), np.float32(Y)), {}, narrow)[0]
    assert density.dtype == np.float32


def test_value():
    assert hash(BayesianLinearRegression(lambda_rate=1)) == hash(BayesianLinearRegression(lambda_rate=1.0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"intercept": "yes"}, "`intercept` must be true or false"),
        ({"lambda_shape": 0}, "`lambda_shape` must be one number above 0"),
        ({"beta_rate": (1.0, 2.0)}, "`beta_rate` must be one number"),
        ({"lambda_rate": None}, "`lambda_rate` must be one number"),
    ],
)
def test_wrong_hyperparameters(arguments, says):
    with pytest.raises(InputError, match=says):
        BayesianLinearRegression(**arguments)


def test_wrong_shapes_in_the_program(key):
    model = BayesianLinearRegression()
    with pytest.raises(InputError, match=r"`y` must have shape \(30,\)"):
        model(X, Y[:-1])
    with pytest.raises(InputError, match="`X` must have two dimensions"):
        model(Y, Y)
    with pytest.raises(InputError, match="`X` has 2 columns, but `w` has 3"):
        log_density(model, (X[:, :2], Y), {}, {**POINT, "intercept": 0.0})
    with pytest.raises(InputError, match="NaN at row 0, column 0"):
        model.simulate(key, X * np.nan)
