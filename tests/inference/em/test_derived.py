"""EM derived from a program: the hand-written iterates, published optima, and what has no closed form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from triptych.inference.em import EM
from triptych.inference.em.derived import derive
from triptych.inference.em.kernel import Call
from triptych.inference.marginal import marginal
from triptych.models import BernoulliMixture, GaussianMixture, InputError


def rows(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(120, 2)) + 2.5 * generator.integers(0, 2, size=(120, 1))


def iterates(problem: Any, parameters: Any, steps: int) -> tuple[Any, float]:
    step = jax.jit(lambda p, theta: p.step(theta)[:2])
    objective = jnp.nan
    for _ in range(steps):
        parameters, objective = step(problem, parameters)
    return parameters, float(objective)


MODELS = [
    *((GaussianMixture(2, covariance), rows()) for covariance in ("spherical", "diagonal", "full", "tied")),
    (GaussianMixture(2, scale=1.0), rows()),
    (BernoulliMixture(2), (rows(1) > 0.7).astype(float)),
]


@pytest.mark.parametrize("objective", ["map", "mle"])
@pytest.mark.parametrize(("model", "x"), MODELS, ids=range(len(MODELS)))
def test_derived_iterates_equal_the_hand_written(model: Any, x: np.ndarray, objective: str) -> None:
    hand = EM(model, objective=objective).bind(x)
    derived = derive(model, Call((x,), {}, None, objective, "em"))
    assert {block.rule for block in derived.problem.shape.blocks} <= {"closed form", "quadratic"}
    start = {
        name: value[0] for name, value in hand.starts(jax.random.key(3), 1, "portfolio").parameters.items()
    }
    one, first = iterates(hand.problem, start, 6)
    other, second = iterates(derived.problem, derived.inward(hand.outward(start)), 6)
    assert second == pytest.approx(first, abs=1e-8)
    for name, value in hand.outward(one).items():
        np.testing.assert_allclose(other[name], value, rtol=1e-8, atol=1e-8 * np.max(np.abs(value)))


def poisson_mixture(y: Any) -> None:
    share = numpyro.sample("share", dist.Beta(1.0, 1.0))
    with numpyro.plate("components", 2):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 0.1))
    with numpyro.plate("days", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(1.0 - share))
        numpyro.sample("y", dist.Poisson(rate[z]), obs=y)


def test_the_times_death_notices_reach_the_published_optimum(key: jax.Array) -> None:
    """Hasselblad 1969: share 0.3599, rates 1.256 and 2.663, log-likelihood −1989.946."""
    days = np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
    y = np.repeat(np.arange(10.0), days)
    fit = EM(poisson_mixture, objective="mle", restarts=2, draws=0).run(key, y)
    order = np.argsort(fit.parameters["rate"])
    np.testing.assert_allclose(fit.parameters["rate"][order], [1.256, 2.663], atol=2e-3)
    share = float(fit.parameters["share"])
    assert min(share, 1 - share) == pytest.approx(0.3599, abs=2e-3)
    assert fit.log_likelihood == pytest.approx(-1989.946, abs=1e-3)
    assert np.all(np.diff(fit.objective) >= -1e-8)


def regressions(x: Any, y: Any) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
        level = numpyro.sample("level", dist.Normal(0.0, 10.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(100.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(level[z] + slope[z] * x, sigma[z]), obs=y)


def test_a_mixture_of_regressions_climbs_to_a_stationary_point(key: jax.Array) -> None:
    generator = np.random.default_rng(0)
    x = generator.uniform(-2, 2, 200)
    y = np.where(generator.random(200) < 0.4, 1 + 2 * x, -1 - x) + 0.3 * generator.normal(size=200)
    fit = EM(regressions, restarts=4, draws=0).run(key, x, y)
    assert np.all(np.diff(fit.objective) >= -1e-8)
    np.testing.assert_allclose(np.sort(fit.parameters["slope"]), [-1.0, 2.0], atol=0.1)
    density = marginal(regressions).log_density
    free = {name: value for name, value in fit.parameters.items() if name != "weights"}
    gradient = jax.grad(lambda theta: density({**fit.parameters, **theta}, x, y))(free)
    assert max(float(jnp.max(jnp.abs(value))) for value in gradient.values()) < 0.05


def gammas(y: Any) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(2)))
    with numpyro.plate("components", 2):
        shape = numpyro.sample("shape", dist.Gamma(2.0, 0.2))
        rate = numpyro.sample("rate", dist.Gamma(1.0, 0.1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Gamma(shape[z], rate[z]), obs=y)


def test_what_has_no_closed_form_is_climbed_and_never_falls(key: jax.Array) -> None:
    generator = np.random.default_rng(0)
    y = np.concatenate([generator.gamma(2.0, 1.0, 80), generator.gamma(30.0, 0.5, 60)])
    kernel = EM(gammas).bind(y)
    rules = {site: block.rule for block in kernel.problem.shape.blocks for site in block.sites}
    assert rules == {"weights": "closed form", "rate": "closed form", "shape": "ascent"}
    fit = EM(gammas, restarts=3, draws=0).run(key, y)
    assert np.all(np.diff(fit.objective) >= -1e-8 * np.abs(fit.objective[1:]))
    means = np.sort(fit.parameters["shape"] / fit.parameters["rate"])
    np.testing.assert_allclose(means, [2.0, 15.0], rtol=0.15)


def test_a_program_without_parameters_is_refused(key: jax.Array) -> None:
    def fixed(y: Any) -> None:
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(2.0 * z, 1.0), obs=y)

    with pytest.raises(InputError, match="nothing to"):
        EM(fixed).run(key, np.zeros(5))
