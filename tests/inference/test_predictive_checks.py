"""Replicates are draws of p(x | θ), and their statistics catch what a model cannot reproduce."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import triptych
from triptych import BernoulliMixture, GaussianMixture
from triptych.inference.fit import Fit, Seconds
from triptych.inference.posterior import build
from triptych.inference.predictive_checks import checks, kind_of, words
from triptych.inference.replicate import predict, with_predictions
from triptych.inference.status import Status


def fit_of(model, samples, observed):
    point = {site: values.mean(axis=(0, 1)) for site, values in samples.items()}
    return Fit(
        method="svi", model=model, status=Status.CONVERGED, seconds=Seconds(0.0, 0.0), parameters=point,
        log_likelihood=0.0, objective=np.zeros(0), data=build(samples, observed_data=observed),
    )  # fmt: skip


def test_replicates_have_the_moments_of_the_model(key):
    """A mixture at fixed θ: mean Σ π_k μ_k and variance Σ π_k (σ² + μ_k²) − mean², by 5 standard errors."""
    model = GaussianMixture(2, scale=0.5)
    weights, means = np.array([0.3, 0.7]), np.array([[-1.0], [2.0]])
    samples = {"weights": np.tile(weights, (1, 100, 1)), "means": np.tile(means, (1, 100, 1, 1))}
    x = np.linspace(-2, 3, 60)[:, None]
    fit = with_predictions(fit_of(model, samples, {"x": x}), key, x, draws=100)
    drawn = fit.data["posterior_predictive"].dataset["x"]
    assert drawn.shape == (1, 100, 60, 1)
    assert drawn.dims == ("chain", "draw", *fit.data["observed_data"].dataset["x"].dims)
    mean = float(weights @ means[:, 0])
    variance = float(weights @ (0.25 + means[:, 0] ** 2)) - mean**2
    assert drawn.values.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / 6000))
    assert drawn.values.var() == pytest.approx(variance, rel=0.1)
    # Other data of another shape may be predicted too.
    assert predict(fit, key, np.zeros((7, 1)), draws=3)["x"].shape == (1, 3, 7, 1)


def counts(x):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 0.1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Poisson(rate), obs=x)


def test_zeros_that_a_poisson_cannot_have_are_named(key):
    rng = np.random.default_rng(0)
    right = rng.poisson(4.0, 200)
    wrong = np.where(rng.random(200) < 0.3, 0, right)
    rates = {"rate": rng.gamma(800, 1 / 200, (1, 150))}
    drawn = predict(fit_of(counts, rates, {"x": right}), key, right, draws=150)["x"].values[0]
    assert kind_of(right, drawn) == "counts"
    fine = checks(right, drawn, ("visits",))
    assert {check.statistic for check in fine} >= {"share of zeros of visits", "maximum of visits"}
    assert words(fine).startswith("None of 5 statistics")
    bad = {check.statistic: check for check in checks(wrong, drawn, ("visits",))}
    assert bad["share of zeros of visits"].p == 0.0
    assert "does not reproduce" in words(tuple(bad.values()))


def test_dependence_that_one_class_cannot_have_is_named(key):
    """Two columns that go together, under independent ones: means are matched, the pair is not."""
    rng = np.random.default_rng(1)
    first = (rng.random(150) < 0.5).astype(float)
    x = np.stack([first, first, (rng.random(150) < 0.5).astype(float)], axis=1)
    samples = {"weights": np.ones((1, 80, 1)), "probs": np.tile(x.mean(axis=0), (1, 80, 1, 1))}
    drawn = predict(fit_of(BernoulliMixture(1), samples, {"x": x}), key, x, draws=80)["x"].values[0]
    found = {check.statistic: check for check in checks(x, drawn, ("a", "b", "c"))}
    assert found["mean of a"].tail > 0.05
    assert found["share of rows with both a and b"].tail < 0.05
    assert found["share of rows with both a and c"].tail > 0.05


def test_gaps_stay_gaps_and_shape_decides_the_kind(key):
    x = np.array([[1.0, np.nan], [2.0, 5.0], [3.0, 7.0]])
    drawn = np.random.default_rng(2).normal(size=(50, 3, 2))
    found = {check.statistic: check for check in checks(x, drawn, ("a", "b"))}
    assert found["mean of b"].observed == 6.0
    assert kind_of(x, drawn) == "continuous"  # whole numbers, but not of a whole-number distribution
    assert found["maximum of b"].low == pytest.approx(np.quantile(drawn[:, 1:, 1].max(axis=1), 0.025))


def test_a_chain_is_refused(key):
    from numpyro.contrib.control_flow import scan

    def chain(x):
        stay = numpyro.sample("stay", dist.Beta(1.0, 1.0))

        def step(z, value):
            z = numpyro.sample("z", dist.Bernoulli(probs=0.5 * stay + 0.2 * z))
            numpyro.sample("x", dist.Normal(z * 1.0, 1.0), obs=value)
            return z, None

        scan(step, 0, x)

    x = np.arange(4.0)
    with pytest.raises(triptych.InputError, match="scan"):
        predict(fit_of(chain, {"stay": np.full((1, 3), 0.5)}, {"x": x}), jax.random.key(0), x)
