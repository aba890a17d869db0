"""The cheaper change of variables of positive definite matrices, against NumPyro's and its Jacobian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to, constraints

from triptych.inference.bijections import bijection


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_positive_definite_is_numpyros(size):
    u = np.random.default_rng(size).normal(size=(4, size * (size + 1) // 2))
    with jax.enable_x64(True):
        ours, theirs = bijection(constraints.positive_definite), biject_to(constraints.positive_definite)
        matrices = theirs(u)
        np.testing.assert_allclose(ours(u), matrices, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(ours.inv(matrices), u, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(
            ours.log_abs_det_jacobian(u, matrices), theirs.log_abs_det_jacobian(u, matrices), rtol=1e-10
        )
        # The determinant of the lower triangle's entries by u, as automatic differentiation has it.
        lower = np.tril_indices(size)
        jacobian = jax.jacobian(lambda one: ours(one)[lower])(jnp.asarray(u[0]))
        expected = np.linalg.slogdet(np.asarray(jacobian))[1]
        assert float(ours.log_abs_det_jacobian(u[0], matrices[0])) == pytest.approx(expected, rel=1e-10)
    assert ours.inverse_shape((7, size, size)) == (7, size * (size + 1) // 2)
    assert ours.forward_shape((7, size * (size + 1) // 2)) == (7, size, size)


def test_all_others_are_numpyros():
    for support in (constraints.simplex, constraints.positive, constraints.real_vector):
        assert bijection(support) == biject_to(support)
