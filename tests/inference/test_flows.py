"""Normalising flows through SVI on a marginal, end to end: fit, k-hat, evidence against quadrature."""

from __future__ import annotations

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from triptych.inference.svi import SVI
from triptych.models import InferenceWarning

X = np.array([0.1, -0.4, 0.6, 2.2])


def banana(x):
    """A parameter that the data see only through its square, and a discrete latent."""
    a = numpyro.sample("a", dist.Normal(0.5, 1.0))
    b = numpyro.sample("b", dist.Normal(0.5 * a**2, 0.5))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(b + 2.0 * z, 1.0), obs=x)


def exact():
    """Log p(x) and E a by a grid."""
    grid = np.linspace(-6, 6, 1201)
    a, b = grid[:, None], grid[None, :]
    log_joint = norm.logpdf(a, 0.5, 1) + norm.logpdf(b, 0.5 * a**2, 0.5)
    for x in X:
        log_joint = log_joint + np.logaddexp(
            np.log(0.7) + norm.logpdf(x, b, 1), np.log(0.3) + norm.logpdf(x, b + 2, 1)
        )
    total = logsumexp(log_joint)
    return total + 2 * np.log(grid[1] - grid[0]), np.sum(np.exp(log_joint - total) * a)


@pytest.mark.parametrize(
    ("guide", "settings", "share"),
    [
        pytest.param("AutoBNAFNormal", {"steps": 3000, "learning_rate": 0.01}, 0.3, marks=pytest.mark.slow),
        # Slow to learn: after 3000 steps it is still worse than a product of Gaussians.
        pytest.param("AutoIAFNormal", {"steps": 20_000, "learning_rate": 0.01}, 0.9, marks=pytest.mark.slow),
    ],
)
def test_a_flow_is_fitted_to_a_marginal(guide, settings, share, key):
    evidence, mean = exact()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        fit = SVI(banana, guide=guide, **settings).run(key, X)
        plain = SVI(banana, guide="AutoDiagonalNormal", steps=3000, draws=100).run(key, X)
    assert fit.settings["guide"] == guide
    route = fit.evidence.routes[0]
    assert np.isfinite(route.k_hat)
    assert route.nats == pytest.approx(evidence, abs=0.05)
    # The flow bends where the product of Gaussians cannot.
    assert fit.evidence.elbo < evidence + 4 * fit.evidence.elbo_error
    assert evidence - fit.evidence.elbo < share * (evidence - plain.evidence.elbo)
    assert fit.parameters["a"] == pytest.approx(mean, abs=0.15)
