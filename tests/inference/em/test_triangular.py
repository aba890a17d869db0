"""The triangular factor of a tall matrix: by products and by reflections, at every condition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.inference.em import triangular
from triptych.inference.em.triangular import triangular_factor


def of_condition(rows: int, columns: int, condition: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    left = np.linalg.qr(random.normal(size=(rows, columns)))[0]
    right = np.linalg.qr(random.normal(size=(columns, columns)))[0]
    return left * np.logspace(0, -np.log10(condition), columns) @ right


def upright(factor: np.ndarray) -> np.ndarray:
    return factor * np.where(np.diag(factor) < 0, -1.0, 1.0)[:, None]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 12),
    digits=st.floats(0, 15),
    unit=st.floats(-60, 60),
    seed=st.integers(0, 99),
)
def test_it_is_the_factor_of_reflections_to_the_last_digits(rows, columns, digits, unit, seed):
    columns = min(rows, columns)
    Z = of_condition(rows, columns, 10.0**digits, seed) * 10.0**unit
    ours, theirs = upright(triangular_factor(Z)), upright(np.linalg.qr(Z, mode="r"))
    scale = np.abs(theirs).max()
    assert np.abs(ours.T @ ours - Z.T @ Z).max() <= 1e-13 * scale**2
    # What is small beside the rest hangs on rounding by as much as the condition says.
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-13 * 10.0 ** min(digits, 14))


@pytest.mark.parametrize(("condition", "by_products"), [(1e2, True), (1e8, False)])
def test_reflections_are_taken_where_the_matrix_is_near_singular(monkeypatch, condition, by_products):
    Z, qr, taken = of_condition(500, 6, condition), np.linalg.qr, []
    monkeypatch.setattr(np.linalg, "qr", lambda Z, mode: taken.append(mode) or qr(Z, mode=mode))
    triangular_factor(Z)
    assert taken == ([] if by_products else ["r"])


def test_small_singular_values_keep_their_digits():
    Z = of_condition(4000, 8, 3e3)
    found = np.linalg.svd(triangular_factor(Z), compute_uv=False)
    np.testing.assert_allclose(found, np.logspace(0, -np.log10(3e3), 8), rtol=1e-11)


def test_blocks_do_not_matter(monkeypatch):
    Z = np.random.default_rng(1).normal(size=(999, 5))
    whole = triangular_factor(Z)
    monkeypatch.setattr(triangular, "BLOCK_NUMBERS", 50)
    np.testing.assert_allclose(triangular_factor(Z), whole, rtol=1e-12, atol=1e-12)


def test_a_column_of_zeros_is_taken():
    Z = np.random.default_rng(2).normal(size=(100, 3))
    Z[:, 1] = 0.0
    factor = triangular_factor(Z)
    np.testing.assert_allclose(factor.T @ factor, Z.T @ Z, atol=1e-12)
