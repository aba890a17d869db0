"""Importance weights against what is known of them by hand."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.inference.distances import khat
from triptych.inference.importance import bound, evidence, from_weights, smoothed


def weights(sd: float, count: int, seed: int = 0) -> np.ndarray:
    """Give log w of a standard normal target, normalised, under draws of N(0, sd²)."""
    x = sd * np.random.default_rng(seed).normal(size=count)
    return -0.5 * x**2 + 0.5 * (x / sd) ** 2 + np.log(sd)


@pytest.mark.parametrize("sd", [0.5, 0.7, 0.9])
def test_k_hat_is_the_tail_index_of_the_weights(sd):
    # w = exp(c x²) with c = (1/sd² − 1)/2 and x ~ N(0, sd²): P(w > t) falls as t^(−1/k), k = 2 c sd².
    k = 1 - sd**2
    assert khat(weights(sd, 50_000)) == pytest.approx(k, abs=0.13)


def test_k_hat_is_of_the_weights_and_not_of_their_inverses():
    heavy = np.log(np.random.default_rng(0).pareto(1 / 0.9, size=4000) + 1)
    assert khat(heavy) > 0.7
    assert khat(-heavy) < 0.3


def test_smoothing_touches_the_tail_alone_and_keeps_the_scale():
    raw = weights(0.6, 1000) + 1234.5
    smooth, _ = smoothed(raw)
    order = np.argsort(raw)
    np.testing.assert_allclose(smooth[order[:900]], raw[order[:900]], atol=1e-9)
    assert np.max(smooth) <= np.max(raw) + 1e-9


def test_elbo_evidence_and_divergence_of_two_gaussians():
    sd = 0.8
    found = from_weights(weights(sd, 20_000), "a Gaussian")
    kl = 0.5 * (sd**2 - 1 - np.log(sd**2))  # of N(0, sd²) from N(0, 1)
    assert found.elbo == pytest.approx(-kl, abs=4 * found.elbo_error)
    assert found.log_evidence == pytest.approx(0, abs=4 * found.standard_error)
    assert found.kl == pytest.approx(kl, abs=4 * found.kl_error)
    assert found.log_evidence == pytest.approx(found.elbo + found.kl, abs=1e-12)
    # The same draws are in both, so the difference is known better than either.
    assert found.kl_error < np.hypot(found.elbo_error, found.standard_error)
    assert [b.draws for b in found.bounds] == [1, 10, 100, 1000]
    values = [b.nats for b in found.bounds]
    assert values == sorted(values)
    assert values[0] == pytest.approx(found.elbo)
    assert values[-1] < 4 * found.bounds[-1].standard_error


def test_a_bound_is_the_mean_of_its_blocks():
    log_weights = np.log([1.0, 3.0, 2.0, 6.0])
    found = bound(log_weights, 2)
    assert found is not None
    assert found.nats == pytest.approx((np.log(2) + np.log(4)) / 2)
    assert bound(log_weights, 3) is None


def test_no_evidence_is_given_where_k_hat_is_too_large():
    found = from_weights(weights(0.3, 2000), "a narrow Gaussian")
    assert found.log_evidence is None
    assert found.kl is None
    assert found.routes[0].k_hat > 0.7
    assert found.elbo is not None
    assert "ELBO of a narrow Gaussian" in found.method


def test_draws_without_density_count_as_zero_weight():
    half = np.where(np.arange(2000) % 2 == 0, np.log(2.0), -np.inf)
    assert evidence(half).nats == pytest.approx(0.0)
    assert from_weights(half, "a guide").elbo is None


def test_equal_weights_are_exact():
    found = from_weights(np.full(100, -3.0), "the posterior itself")
    assert found.log_evidence == pytest.approx(-3)
    assert found.kl == pytest.approx(0)
    assert found.routes[0].k_hat is None
