"""One layout of draws for the three methods, and the call kept beside it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

from triptych.inference import posterior
from triptych.inference.arguments import checked, recall, record
from triptych.inference.marginal import marginal
from triptych.models import BayesianLinearRegression, GaussianMixture, InputError


def two_means(x):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=11)


def test_loo_and_summary_work_on_one_chain(x):
    import arviz_stats

    samples = {"mu": 0.2 * np.random.default_rng(1).normal(size=(1, 200, 2))}
    tree, findings = posterior.assemble(marginal(two_means), samples, (x,), {})
    assert findings == ()
    first, second = (norm.logpdf(x, samples["mu"][0, :, k, None], 1) for k in (0, 1))
    expected = np.logaddexp(first + np.log(0.3), second + np.log(0.7))
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values[0], expected, rtol=1e-10)
    np.testing.assert_array_equal(tree["observed_data"]["x"].values, x)
    assert np.isfinite(arviz_stats.loo(tree).elpd)
    assert list(arviz_stats.summary(tree).index) == ["mu[0]", "mu[1]"]


def test_the_log_likelihood_at_a_point(x):
    value = posterior.log_likelihood_at(marginal(two_means), {"mu": np.zeros(2)}, (x,), {})
    assert value == pytest.approx(norm.logpdf(x).sum(), rel=1e-12)


def test_a_log_likelihood_too_large_is_skipped_and_said(x, monkeypatch):
    monkeypatch.setattr(posterior, "LARGEST_LOG_LIKELIHOOD", 100)
    samples = {"mu": np.zeros((2, 10, 2))}
    values, findings = posterior.pointwise(marginal(two_means), samples, (x,), {})
    assert values is None
    assert [finding.code for finding in findings] == ["LOG_LIKELIHOOD_SKIPPED"]


def test_site_names_that_xarray_cannot_have():
    tree = posterior.build({"a/b": np.zeros((1, 2))})
    assert list(tree["posterior"].data_vars) == ["a.b"]
    with pytest.raises(InputError, match="draw"):
        posterior.build({"draw": np.zeros((1, 2))})
    with pytest.raises(InputError, match=r"a\.b"):
        posterior.build({"a/b": np.zeros((1, 2)), "a.b": np.zeros((1, 2))})


def test_point_estimates_stay_in_their_supports():
    random = np.random.default_rng(0)
    cholesky = np.asarray(dist.LKJCholesky(3).sample(jax.random.key(0), (2, 40)))
    simplex = random.dirichlet(np.ones(3), size=(2, 40))
    samples = {"L": cholesky, "p": simplex, "x": random.normal(size=(2, 40))}
    supports = {
        "L": dist.constraints.corr_cholesky,
        "p": dist.constraints.simplex,
        "x": dist.constraints.real,
    }
    estimate = posterior.point_estimate(samples, supports)
    for site, support in supports.items():
        assert bool(np.all(support(estimate[site]))), site
    np.testing.assert_allclose(estimate["p"], simplex.mean(axis=(0, 1)))
    assert not bool(supports["L"](cholesky.mean(axis=(0, 1))))


@pytest.mark.parametrize("count", [1, 7, 64, 65])
def test_batches_change_nothing(count):
    values = np.random.default_rng(0).normal(size=(count, 3))
    np.testing.assert_allclose(posterior.in_batches(jnp.sum, values, batch=16), values.sum(axis=1))


def test_a_call_is_kept_without_storing_the_data_twice():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(5, 2)), random.normal(size=5)
    model = BayesianLinearRegression()
    observed = posterior.observed(model, (X, y), {})
    constant, attrs = record(model, (X, y), {"flag": True}, observed)
    assert list(constant) == ["X"]
    tree = posterior.build(
        {"w": np.zeros((1, 2, 2))}, observed_data=observed, constant_data=constant, attrs=attrs
    )
    args, kwargs = recall(tree)
    np.testing.assert_array_equal(args[0], X)
    np.testing.assert_array_equal(args[1], y)
    assert kwargs == {"flag": True}


def test_a_call_with_an_object_is_not_kept():
    constant, attrs = record(two_means, (object(),), {}, {})
    assert attrs == {}
    assert recall(posterior.build({"w": np.zeros((1, 2))}, attrs=attrs, constant_data=constant)) is None


def test_models_check_their_data_first():
    with pytest.raises(InputError, match=r"NaN|nan|finite"):
        checked(GaussianMixture(2), ([[0.0, 1.0], [np.nan, 1.0], [2.0, 3.0]],), {})
    args, kwargs = checked(two_means, ([1, 2],), {"a": 1})
    assert args == ([1, 2],)
    assert kwargs == {"a": 1}
    assert checked(GaussianMixture(2), (), {"rows": 3}) == ((), {"rows": 3})
