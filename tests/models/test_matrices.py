"""Small matrices written out, against LAPACK: any size on either side of the limit, and what is no factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from triptych.inference.em import EM
from triptych.models import GaussianMixture
from triptych.models.matrices import (
    WRITTEN_OUT,
    inverse,
    inverse_by_factors,
    positive_definite,
    solve,
)


def positive(size: int, seed: int, batch: tuple[int, ...] = (5,)) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(*batch, size, size + 1))
    return root @ np.swapaxes(root, -2, -1)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 13), seed=st.integers(0, 99), unit=st.floats(-20, 20))
def test_inverses_are_those_of_lapack(size, seed, unit):
    with jax.enable_x64(True):
        matrices = positive(size, seed) * 10.0**unit
        inverses, log_det = inverse(matrices)
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


@pytest.mark.parametrize("size", [*range(1, WRITTEN_OUT + 3), 9, 13])
@pytest.mark.parametrize("spoil", ["negative", "singular"])
def test_a_matrix_that_is_not_positive_definite_is_told(size, spoil):
    matrices = positive(size, 1)
    assert np.all(positive_definite(matrices))
    assert np.all(np.isfinite(inverse(matrices)[1]))
    matrices[2, -1, :] = matrices[2, :, -1] = 0.0
    matrices[2, -1, -1] = -1.0 if spoil == "negative" else 0.0
    expected = [True, True, False, True, True]
    assert positive_definite(matrices).tolist() == expected
    assert np.isfinite(inverse(matrices)[1]).tolist() == expected


def lapack_calls(jaxpr) -> list[str]:
    """Name the calls of LAPACK in a program, but for those on one side of a condition."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("cholesky", "triangular_solve", "eigh", "lu", "eig", "qr", "svd"):
            found.append(equation.primitive.name)
        for inner in jaxprs_in_params(equation.params) if equation.primitive.name != "cond" else ():
            found += lapack_calls(inner)
    return found


@pytest.mark.parametrize("covariance", ["full", "tied"])
@pytest.mark.parametrize("objective", ["mle", "map"])
@pytest.mark.parametrize("columns", [2, 16])
def test_a_step_of_many_starts_leaves_lapack_alone(covariance, objective, columns):
    """jaxlib up to 0.10 shares large stacks out among the threads that wait for them.

    24 starts of (5000, 16, 16) hung in half of the runs on two cores.
    """
    x = np.random.default_rng(0).normal(size=(300, columns))
    with jax.enable_x64(True):
        kernel = EM(GaussianMixture(16, covariance=covariance), objective=objective).bind(x)
        starts = kernel.starts(jax.random.key(0), 24, "random_rows").parameters
        found = lapack_calls(jax.make_jaxpr(jax.vmap(kernel.problem.step))(starts).jaxpr)
    assert found == []


@pytest.mark.parametrize("size", [2, 5, 16])
def test_stacks_of_stacks_are_inverted(size):
    with jax.enable_x64(True):
        matrices = positive(size, 2, (7, 16))
        precisions, log_det = jax.vmap(inverse)(matrices)
        np.testing.assert_allclose(precisions, np.linalg.inv(matrices), rtol=1e-7)
        np.testing.assert_allclose(log_det, -np.linalg.slogdet(matrices)[1], rtol=1e-10)


@pytest.mark.parametrize("size", [3, 4])
def test_the_derivatives_of_inverses_are_those_of_finite_differences(size):
    with jax.enable_x64(True):
        matrices, direction = positive(size, 3, (2,)), positive(size, 4, (2,))
        found = jax.jvp(inverse, (matrices,), (direction,))[1]
        step = 1e-6
        above, below = inverse(matrices + step * direction), inverse(matrices - step * direction)
        for one, up, down in zip(found, above, below, strict=True):
            np.testing.assert_allclose(one, (up - down) / (2 * step), rtol=1e-5, atol=1e-7)
        gradient = jax.grad(lambda m: jax.numpy.sum(jax.vmap(inverse)(m)[1]))(matrices)
        gradient = (gradient + np.swapaxes(gradient, -2, -1)) / 2  # one triangle may stand for both
        np.testing.assert_allclose(gradient, -np.linalg.inv(matrices), rtol=1e-8, atol=1e-10)
