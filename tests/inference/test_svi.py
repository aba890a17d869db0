"""SVI against exact posteriors, with every kind of guide, in any units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.autoguide import AutoNormal

from triptych.inference import guides
from triptych.inference import svi as module
from triptych.inference.marginal import marginal
from triptych.inference.posterior import draws
from triptych.inference.status import Status
from triptych.inference.svi import SVI
from triptych.models import BayesianLinearRegression, GaussianMixture, InferenceWarning, InputError

LAMBDA, BETA = 0.5, 2.0


def regression(X, y):
    """The built-in regression for known precisions, in plain NumPyro."""
    w = numpyro.sample("w", dist.Normal(0, LAMBDA**-0.5).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ w, BETA**-0.5).to_event(0), obs=y)


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    X = random.normal(size=(30, 3)) @ np.array([[1, 0.9, 0], [0, 0.5, 0], [0, 0, 20.0]])
    y = X @ np.array([1.0, -2.0, 0.1]) + random.normal(size=30) / np.sqrt(BETA)
    precision = LAMBDA * np.eye(3) + BETA * X.T @ X
    covariance = np.linalg.inv(precision)
    mean = BETA * covariance @ X.T @ y
    total = np.eye(30) / BETA + X @ X.T / LAMBDA
    evidence = -0.5 * (y @ np.linalg.solve(total, y) + np.linalg.slogdet(2 * np.pi * total)[1])
    return X, y, mean, covariance, evidence


def test_a_full_rank_guide_is_exact_on_a_gaussian_posterior(key, problem):
    X, y, mean, covariance, evidence = problem
    seen = []
    fit = SVI(regression, draws=4000, steps=8000).run(key, X, y, progress=lambda *a: seen.append(a))
    assert fit.status is Status.CONVERGED
    sd = np.sqrt(np.diag(covariance))
    w = draws(fit)["w"]
    assert w.shape == (1, 4000, 3)
    np.testing.assert_allclose((fit.parameters["w"] - mean) / sd, 0, atol=0.08)
    np.testing.assert_allclose((np.cov(w[0].T) - covariance) / np.outer(sd, sd), 0, atol=0.08)
    # The ELBO is the evidence when the guide is the posterior.
    assert fit.evidence.elbo == pytest.approx(evidence, abs=0.01)
    assert fit.evidence.elbo <= evidence + 4 * fit.evidence.standard_error + 1e-6
    assert len(fit.objective) == seen[-1][0] <= 8000
    assert fit.data["optimization"]["elbo"].shape == fit.objective.shape
    assert set(fit.data.children) >= {"posterior", "log_likelihood", "sample_stats", "observed_data"}
    weights = fit.data["sample_stats"]["log_weight"].values
    # The ledger is of 10 000 draws, of which these are the first.
    assert weights.mean() == pytest.approx(fit.evidence.elbo, abs=4 * weights.std() / np.sqrt(4000) + 1e-9)
    assert fit.evidence.log_evidence == pytest.approx(evidence, abs=4 * fit.evidence.standard_error + 1e-6)
    assert fit.evidence.log_evidence == pytest.approx(fit.evidence.elbo + fit.evidence.kl, abs=1e-9)
    assert [b.draws for b in fit.evidence.bounds] == [1, 10, 100, 1000]
    residual = y - X @ fit.parameters["w"]
    expected = -0.5 * BETA * residual @ residual + 15 * np.log(BETA / (2 * np.pi))
    assert fit.log_likelihood == pytest.approx(expected, rel=1e-9)
    assert fit.settings["guide"] == "AutoMultivariateNormal"


def test_blocks_are_compiled_once(key, problem, monkeypatch):
    X, y, *_ = problem
    calls = []
    original = module.run_block

    def counted(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(module, "run_block", counted)
    with _quiet():
        fit = SVI(regression, guide="AutoNormal", steps=320, draws=10, particles=1).run(key, X, y)
    assert len(calls) == 1
    assert 0 < len(fit.objective) <= 320


class _quiet:  # noqa: N801
    """Let a short run say that it is short."""

    def __enter__(self):
        import warnings

        self.context = warnings.catch_warnings()
        self.context.__enter__()
        warnings.simplefilter("ignore", InferenceWarning)

    def __exit__(self, *arguments):
        return self.context.__exit__(*arguments)


def test_wrong_settings_are_refused_before_work():
    with pytest.raises(InputError, match=r"no guide 'AutoNomal'.*AutoNormal.*AutoBNAFNormal"):
        SVI(regression, guide="AutoNomal")
    with pytest.raises(InputError, match=r"AutoGuideList needs .*build it yourself"):
        SVI(regression, guide="AutoGuideList")
    with pytest.raises(InputError, match=r"no option 'rnk'.*rank"):
        SVI(regression, guide="AutoLowRankMultivariateNormal", guide_options={"rnk": 2})
    with pytest.raises(InputError, match="`steps`"):
        SVI(regression, steps=0)
    with pytest.raises(InputError, match="`learning_rate`"):
        SVI(regression, learning_rate=-1.0)
    with pytest.raises(InputError, match="`guide` is int"):
        guides.resolve(3, lambda: None, None, {})


def test_the_names_are_those_of_numpyro():
    names = guides.guide_names()
    assert "AutoMultivariateNormal" in names
    assert "AutoContinuous" not in names
    assert "AutoSemiDAIS" not in names


def test_bad_data_are_refused_before_work(key):
    with pytest.raises(InputError):
        SVI(GaussianMixture(2)).run(key, np.array([[1.0, 2.0], [np.nan, 1.0], [0.0, 2.0]]))


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_a_density_that_is_nowhere_finite_is_said(key):
    def program(x):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("x", dist.Exponential(rate), obs=x)

    with pytest.raises(InputError, match="not finite at any"):
        SVI(program).run(key, np.array([1.0, -1.0]))


def test_nothing_to_infer_is_said(key):
    def program(x):
        numpyro.sample("x", dist.Normal(0, 1).expand([2]).to_event(1), obs=x)

    with pytest.raises(InputError, match="nothing to infer"):
        SVI(program).run(key, np.zeros(2))


def two_means(x):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(3))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
        numpyro.sample("x", dist.Normal(mu[z], s), obs=x)


def own_guide(x):
    loc = numpyro.param("loc", jnp.array([-2.0, 2.0]))
    scale = numpyro.param("scale", jnp.full(2, 0.1), constraint=dist.constraints.positive)
    numpyro.sample("mu", dist.Normal(loc, scale).to_event(1))
    spread = numpyro.param("spread", 0.1, constraint=dist.constraints.positive)
    numpyro.sample("s", dist.LogNormal(numpyro.param("level", 0.0), spread))


def maker(program):
    from numpyro.infer.autoguide import AutoLowRankMultivariateNormal

    return AutoLowRankMultivariateNormal(program, rank=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "guide", [*guides.guide_names(), AutoNormal, AutoNormal(marginal(two_means)), own_guide, maker]
)
def test_every_guide_finds_the_two_groups(key, guide):
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(-2, 1, 60), random.normal(2, 1, 40)])
    with _quiet():
        fit = SVI(two_means, guide=guide, steps=3000, draws=300).run(key, x)
    np.testing.assert_allclose(fit.parameters["mu"], [-2, 2], atol=0.4)
    assert fit.parameters["s"] == pytest.approx(1, abs=0.2)
    assert draws(fit)["mu"].shape == (1, 300, 2)
    assert fit.responsibilities(x).shape == (100, 2)
    if guide == "AutoDelta":
        assert fit.evidence.elbo is None
    else:
        assert fit.evidence.elbo < 0


@pytest.mark.slow
def test_units_change_nothing_but_the_units(key, data_path):
    x = np.loadtxt(data_path("galaxies"), skiprows=1, delimiter=",").reshape(-1, 1)
    large = SVI(GaussianMixture(3), steps=6000).run(key, x)
    small = SVI(GaussianMixture(3), steps=6000).run(key, x / 1000)
    order = [np.argsort(fit.parameters["means"][:, 0]) for fit in (large, small)]
    sd = draws(large)["means"].std(axis=(0, 1))[order[0]]
    difference = large.parameters["means"][order[0]] - 1000 * small.parameters["means"][order[1]]
    np.testing.assert_allclose(difference / sd, 0, atol=0.15)
    assert large.evidence.elbo == pytest.approx(small.evidence.elbo - len(x) * np.log(1000), abs=0.2)


@pytest.mark.slow
def test_the_built_in_regression_against_its_evidence(key):
    random = np.random.default_rng(1)
    X = random.normal(size=(60, 2)) * [1, 100]
    y = 150 + X @ [2.0, 0.05] + random.normal(size=60)
    fit = SVI(BayesianLinearRegression(), steps=10_000).run(key, X, y)
    least_squares = np.linalg.lstsq(np.column_stack([np.ones(60), X]), y, rcond=None)[0]
    sd = draws(fit)["w"].std(axis=(0, 1))
    np.testing.assert_allclose((fit.parameters["w"] - least_squares[1:]) / sd, 0, atol=0.5)
    assert fit.parameters["intercept"] == pytest.approx(least_squares[0], abs=0.2)


def test_float32_data_are_fitted_in_float32(problem):
    X, y, mean, covariance, _ = problem
    with jax.enable_x64(False), _quiet():
        fit = SVI(regression, steps=800, draws=50).run(
            jax.random.key(0), X.astype(np.float32), y.astype(np.float32)
        )
    assert draws(fit)["w"].dtype == np.float32
    np.testing.assert_allclose((fit.parameters["w"] - mean) / np.sqrt(np.diag(covariance)), 0, atol=0.8)
