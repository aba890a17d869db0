"""Every bad input is refused in one line that says what, where and what to do."""

import numpy as np
import pandas as pd
import pytest

from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture, InputError
from triptych.models.validation import distinct_rows

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))
BINARY = (X > 0).astype(float)
GAUSSIAN, BERNOULLI, REGRESSION = GaussianMixture(2), BernoulliMixture(2), BayesianLinearRegression()


def spoilt(value, row=3, column=1, x=X):
    x = x.astype(object if isinstance(value, str) else float)
    x[row, column] = value
    return x


ANY_TABLE = [
    (spoilt(np.nan, x=BINARY), "is NaN at row 3, column 1: drop"),
    (spoilt(-np.inf, x=BINARY), "is infinite at row 3, column 1"),
    (np.full((4, 2), np.nan), r"NaN at row 0, column 0 \(and 7 more such values\)"),
    (BINARY[:, 0], "must have two dimensions .* has shape .20,.; give one column as"),
    (BINARY[None], r"must have two dimensions .* has shape \(1, 20, 3\)"),
    (3.0, r"has shape \(\)"),
    (np.zeros((0, 3)), "at least one row and one column"),
    (np.zeros((3, 0)), "at least one row and one column"),
    (spoilt("high", x=BINARY), "must be numbers, but row 3, column 1 is 'high'"),
    (spoilt("1.0", x=BINARY), "must be numbers, but row 3, column 1 is '1.0'"),
    (BINARY.astype(str), "must be numbers, but row 0, column 0 is"),
    (BINARY + 1j, "must be numbers, but row 0, column 0"),
    (
        BINARY.astype("datetime64[s]") if False else np.array([["2020-01-01"]], "datetime64[D]"),
        "must be numbers",
    ),
    ([[1.0, 2.0], [3.0]], "rows of different lengths"),
    ([[1.0, None], [3.0, 4.0]], "NaN at row 0, column 1"),
    ("a path.csv", "must be numbers, but it is 'a path.csv'"),
    ({"a": 1}, "must be numbers"),
    (np.ma.masked_array(BINARY, BINARY == 0), "masked values"),
    (pd.DataFrame({"height": [1.0, np.nan], "mass": [0.0, 1.0]}), "NaN at row 1, column height"),
    (pd.DataFrame({"height": [1.0, 0.0], "name": ["a", "b"]}), "row 0, column name is 'a'"),
]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("model", [GAUSSIAN, BERNOULLI, REGRESSION], ids=lambda model: type(model).__name__)
@pytest.mark.parametrize(("x", "says"), ANY_TABLE)
def test_tables_that_no_model_takes(model, x, says, new):
    with pytest.raises(InputError, match=says) as caught:
        model.validate(x, new=new)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "x", "says"),
    [
        (GaussianMixture(30), X, "`x` has 20 rows, but there are 30 components: give at least 30"),
        (GaussianMixture(1), X[:1], "`x` has 1 row, but a spread cannot be had from one"),
        (GaussianMixture(2), X[:1], "`x` has 1 row, but there are 2 components"),
        (GaussianMixture(3), X[[0, 1] * 10], "only 2 distinct rows among its 20, fewer than 3"),
        (GaussianMixture(1), X[[0] * 10], "only 1 distinct row among its 10.*nothing to tell apart"),
        (GAUSSIAN, X * [1, 0, 1], "Column 1 of `x` is constant: drop it"),
        (GaussianMixture(2, "spherical"), X * [1, 0, 0], "Columns 1, 2 of `x` are constant"),
        (GAUSSIAN, X[:, [0, 1, 0]], "Columns 0, 2 of `x` are linearly dependent: drop columns, or use"),
        (GaussianMixture(2, "tied"), X @ [[1, 0, 1], [0, 1, 2], [0, 0, 0]] + 7, "Columns 0, 1, 2 of `x`"),
        (GAUSSIAN, np.float32(X[:, [0, 1, 1]]) * np.float32([1, 1, 3]), "Columns 1, 2 of `x`"),
        (GAUSSIAN, X[:3], "3 rows and 3 columns, but a covariance matrix"),
        (GAUSSIAN, X * [1, 1e200, 1], "Column 1 of `x` is too large or too small to be squared in float64"),
        (GAUSSIAN, np.float32(X * [1, 1, 1e-30]), "Column 2 of `x` is too large or too small"),
        (GAUSSIAN, pd.DataFrame({"a": X[:, 0], "b": 1.0}), "Column b of `x` is constant"),
        (BERNOULLI, X, "must hold only 0 and 1, but row 0, column 0 is 0.12573"),
        (BERNOULLI, spoilt(2, x=BINARY), "row 3, column 1 is 2: code the two answers"),
        (BernoulliMixture(30), BINARY, "20 rows, but there are 30 components"),
        (BernoulliMixture(1), BINARY[:1], "`x` has 1 row, but a mixture"),
        (BernoulliMixture(2), np.ones((9, 3)), "only 1 distinct row"),
    ],
)
def test_tables_that_a_mixture_does_not_take(model, x, says):
    with pytest.raises(InputError, match=says):
        model.validate(x)


@pytest.mark.parametrize(
    ("design", "y", "says"),
    [
        (X, X[:19, 0], "`y` has 19 values but `X` has 20 rows"),
        (X, X[:, :1], r"`y` must have one dimension, but has shape \(20, 1\): give `y.ravel"),
        (X, X, r"`y` must have one dimension \(rows,\)"),
        (X, spoilt(np.nan)[:, 1], "`y` is NaN at row 3: drop"),
        (X, ["a"] * 20, "`y` must be numbers, but row 0 is 'a'"),
        (X, np.ones(20), "`y` is constant: there is nothing to explain"),
        (X * [1, 0, 1], X[:, 0], "Column 1 of `X` is constant: drop it .the model has an intercept"),
        (X[:1], X[:1, 0], "`X` has 1 row, but a slope"),
        (X, X[:, 0] * 1e200, "`y` is too large or too small"),
    ],
)
def test_what_regression_does_not_take(design, y, says):
    with pytest.raises(InputError, match=says):
        REGRESSION.validate(design, y)


def test_a_constant_column_is_fine_where_it_does_no_harm():
    constant = X * [1, 0, 1]
    assert GaussianMixture(2, scale=1.0).validate(constant)[0].shape == X.shape
    assert BERNOULLI.validate(BINARY * [1, 0, 1])[0].shape == X.shape
    BayesianLinearRegression(intercept=False).validate(np.add(constant, [0, 1, 0]), X[:, 0])
    with pytest.raises(InputError, match="Every column of `X` is constant"):
        BayesianLinearRegression(intercept=False).validate(np.ones((20, 2)), X[:, 0])
    GaussianMixture(2, "diagonal").validate(X[:, [0, 1, 0]])
    GaussianMixture(2, "diagonal").validate(X[:3])


def test_new_rows_for_a_fitted_model_may_be_few_and_constant():
    assert GAUSSIAN.validate(np.ones((1, 3)), new=True)[0].shape == (1, 3)
    assert BERNOULLI.validate(np.ones((1, 3)), new=True)[0].shape == (1, 3)
    REGRESSION.validate(np.ones((1, 3)), [1.0], new=True)
    assert np.all(np.isfinite(GAUSSIAN.prior(np.ones((1, 3))).spread))
    assert all(np.isfinite(value) for value in REGRESSION.prior(np.ones((1, 3)), np.ones(1)))


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (X, np.float64),
        (X.astype(np.float32), np.float32),
        (X.astype(np.float16), np.float32),
        ((X * 100).astype(int), np.float64),
        (X.tolist(), np.float64),
        (X.astype(object), np.float64),
        (pd.DataFrame(X), np.float64),
        (np.asfortranarray(X), np.float64),
    ],
)
def test_what_is_taken_and_how_wide(x, dtype):
    (array,) = GAUSSIAN.validate(x)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.asarray(x).astype(dtype))


def test_binary_tables_may_be_bools():
    (array,) = BERNOULLI.validate(BINARY.astype(bool))
    np.testing.assert_array_equal(array, BINARY)


def test_real_data_are_taken(faithful):
    np.testing.assert_array_equal(GAUSSIAN.validate(faithful)[0], faithful)
    GAUSSIAN.validate(faithful * [1e-6, 1e6] + 1000)  # units do not matter
    GAUSSIAN.validate(np.repeat(faithful, 3, axis=0))  # nor do repeated rows
    GAUSSIAN.validate(faithful.astype(np.float32))


def test_distinct_rows_found_late():
    x = np.zeros((1000, 2))
    x[-1] = 1
    distinct_rows(x, 2)
    with pytest.raises(
        InputError, match="only 2 distinct rows among its 1000, fewer than 3: ask for at most 2"
    ):
        distinct_rows(x, 3)
