"""The prior of a covariance is NumPyro's inverse Wishart, without its look at the eigenvalues."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from triptych.models.distributions import CovariancePrior

SCALE = np.array([[2.0, 0.3], [0.3, 1.0]])


def test_density_and_draws_are_those_of_numpyro() -> None:
    ours, theirs = CovariancePrior(5.0, SCALE), dist.InverseWishart(5.0, scale_matrix=jnp.asarray(SCALE))
    drawn = np.asarray(ours.sample(jax.random.key(0), (3,)))
    np.testing.assert_array_equal(drawn, theirs.sample(jax.random.key(0), (3,)))
    np.testing.assert_allclose(ours.log_prob(drawn), theirs.log_prob(drawn), rtol=1e-6)
    expanded = ours.expand([2]).log_prob(drawn[:2])
    np.testing.assert_allclose(expanded, theirs.log_prob(drawn[:2]), rtol=1e-6)


@pytest.mark.parametrize(
    "value", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
)
def test_what_is_no_covariance_has_no_density(value: list[list[float]]) -> None:
    assert CovariancePrior(5.0, SCALE).log_prob(jnp.array(value)) == -np.inf
