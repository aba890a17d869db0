"""Small matrices written out, against LAPACK: any size on either side of the limit, and what is no factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.inference.em.small_matrices import WRITTEN_OUT, cholesky, inverse, inverse_by_factors, solve


def positive(size: int, seed: int, batch: tuple[int, ...] = (5,)) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(*batch, size, size + 1))
    return root @ np.swapaxes(root, -2, -1)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, WRITTEN_OUT + 1), seed=st.integers(0, 99), unit=st.floats(-20, 20))
def test_factors_and_inverses_are_those_of_lapack(size, seed, unit):
    with jax.enable_x64(True):
        matrices = positive(size, seed) * 10.0**unit
        factors, (inverses, log_det) = cholesky(matrices), inverse(matrices)
    scale = np.abs(matrices).max(axis=(-2, -1), keepdims=True)
    np.testing.assert_allclose(factors, np.linalg.cholesky(matrices), atol=1e-13 * np.sqrt(scale.max()))
    condition = np.linalg.cond(matrices)[:, None, None]
    identity = np.broadcast_to(np.eye(size), matrices.shape)
    assert np.all(np.abs(inverses @ matrices - identity) <= 1e-14 * condition * size)
    np.testing.assert_allclose(log_det, -np.linalg.slogdet(matrices)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", range(1, WRITTEN_OUT + 2))
def test_factors_invert_and_solve(size):
    matrices, vectors = positive(size, 2), np.random.default_rng(0).normal(size=(5, size))
    with jax.enable_x64(True):
        factors = jnp.linalg.cholesky(matrices)
        inverses, log_det = inverse_by_factors(factors)
        solved = solve(factors, vectors)
    np.testing.assert_allclose(inverses, np.linalg.inv(matrices), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(log_det, -np.linalg.slogdet(matrices)[1], rtol=1e-9)
    np.testing.assert_allclose(solved, np.linalg.solve(matrices, vectors[..., None])[..., 0], rtol=1e-9)


@pytest.mark.parametrize("size", range(1, WRITTEN_OUT + 2))
@pytest.mark.parametrize("spoil", ["negative", "singular"])
def test_a_matrix_that_is_not_positive_definite_has_no_finite_factor(size, spoil):
    matrices = positive(size, 1)
    whole = np.isfinite(cholesky(matrices)).all(axis=(-2, -1))
    assert whole.all()
    matrices[2, -1, :] = matrices[2, :, -1] = 0.0
    matrices[2, -1, -1] = -1.0 if spoil == "negative" else 0.0
    whole = np.isfinite(cholesky(matrices)).all(axis=(-2, -1))
    assert whole.tolist() == [True, True, False, True, True]
