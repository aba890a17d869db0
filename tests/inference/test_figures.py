"""The joint figures of a comparison, and that failures come first, by name."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.stats import norm

from triptych.inference import balance
from triptych.inference.balance_words import contradicted
from triptych.inference.compare import compare
from triptych.inference.criteria import criteria, free_parameters, of_fit
from triptych.inference.distances import noise_floor
from triptych.inference.em import EM
from triptych.inference.fit import Bound, Evidence, Fit, Route, Seconds
from triptych.inference.mcmc import MCMC
from triptych.inference.posterior import build
from triptych.inference.predictive import difference, loo
from triptych.inference.status import Status
from triptych.inference.storage import load
from triptych.inference.svi import SVI
from triptych.inference.two_sample import accuracy, r_star, reference_floor
from triptych.models import GaussianMixture, InferenceWarning


def test_free_parameters_are_counted_from_the_supports():
    sites = {
        "weights": ((3,), constraints.simplex),
        "means": ((3, 4), constraints.real),
        "covariances": ((3, 4, 4), constraints.positive_definite),
        "scale": ((), constraints.positive),
    }
    assert free_parameters(sites) == 2 + 12 + 3 * 10 + 1


def test_criteria_by_hand():
    r = np.array([[0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    found = criteria(-10.0, 4, 3, r)
    assert found.aic == pytest.approx(28)
    assert found.bic == pytest.approx(20 + 4 * np.log(3))
    assert found.icl == pytest.approx(found.bic - 2 * np.log(0.9 * 0.5))
    assert np.isnan(criteria(-10.0, 4, 3).icl)


def test_an_em_fit_has_its_criteria(key, faithful):
    model = GaussianMixture(2)
    start = {
        "weights": np.array([0.35, 0.65]),
        "means": np.array([[2.0, 54.5], [4.3, 80.0]]),
        "covariances": np.stack([np.diag([0.1, 35.0])] * 2),
    }
    fit = EM(model, objective="mle", draws=0).run(key, faithful, parameters=start)
    found = of_fit(fit)
    assert found.free == 1 + 4 + 6
    assert found.bic == pytest.approx(-2 * fit.log_likelihood + 11 * np.log(272))
    assert found.icl == pytest.approx(
        found.bic - 2 * np.sum(np.log(fit.responsibilities(faithful).max(axis=1)))
    )
    # The maximum of this likelihood is known to anyone who fitted these eruptions: BIC 2322.2 on this scale.
    assert found.bic == pytest.approx(2322.2, abs=0.1)


def test_leave_one_out_of_a_normal_mean():
    """Under a flat prior on the mean, row n is N(mean of the others, 1 + 1/(N − 1)) given the others."""
    random = np.random.default_rng(0)
    x = random.normal(size=30)
    mean = x.mean() + random.normal(size=(4, 2000)) / np.sqrt(len(x))
    others = (x.sum() - x) / (len(x) - 1)
    exact = norm.logpdf(x, others, np.sqrt(1 + 1 / (len(x) - 1)))
    found = loo(build({"m": mean}, log_likelihood={"x": norm.logpdf(x, mean[..., None], 1)}))
    np.testing.assert_allclose(found.pointwise, exact, atol=0.03)
    assert found.elpd == pytest.approx(exact.sum(), abs=0.1)
    assert found.se == pytest.approx(np.sqrt(len(x)) * exact.std(), rel=0.02)
    assert found.p == pytest.approx(1.0, abs=0.4)
    assert found.bad == 0
    wrong = loo(build({"m": mean}, log_likelihood={"x": norm.logpdf(x, 1 + mean[..., None], 1)}))
    gap, error = difference(wrong, found)
    assert -30 < gap < -5  # ½ nat a row
    assert 0 < error < 10
    assert loo(build({"m": mean})) is None


def test_a_classifier_tells_what_differs_and_no_more():
    random = np.random.default_rng(0)
    reference = random.normal(size=(4, 300, 3))
    same, shifted = random.normal(size=(1, 1000, 3)), random.normal(size=(1, 1000, 3)) + 1.5
    # 1000 rows are classified: the standard error of an accuracy is 0.016.
    assert reference_floor(reference) == pytest.approx(0.5, abs=0.06)
    assert r_star(same, reference).accuracy == pytest.approx(0.5, abs=0.06)
    found = r_star(shifted, reference, floor=0.5)
    assert found.accuracy > 0.85
    assert found.r_star == 2 * found.accuracy
    assert np.isnan(accuracy(np.zeros((5, 2)), np.zeros((5, 2))))
    assert accuracy(np.ones((50, 2)), np.ones((50, 2))) == 0.5


def test_the_floor_is_what_the_reference_shows_against_itself():
    random = np.random.default_rng(0)
    assert 0 < noise_floor(random.normal(size=(4, 1000))) < 0.08
    assert noise_floor(random.normal(size=(4, 1000)) + np.array([[0], [0], [3], [3]])) > 1
    assert np.isnan(noise_floor(np.ones((4, 10))))


def made(method, samples, **changes):
    fit = Fit(
        method=method,
        model=lambda: None,
        status=Status.CONVERGED,
        seconds=Seconds(1.0, 2.0),
        parameters={"a": np.mean(samples, axis=(0, 1))},
        log_likelihood=-200.0,
        objective=np.zeros(0),
        data=build({"a": samples}),
    )
    return dataclasses.replace(fit, **changes)


def test_the_ledger_closes_across_fits_and_is_said():
    random = np.random.default_rng(0)
    bridge = Evidence(
        -10.0, standard_error=0.01, method="bridge sampling", routes=(Route("bridge sampling", -10.0, 0.01),)
    )
    guide = Evidence(
        -10.1,
        -10.5,
        0.4,
        0.02,
        "importance sampling",
        0.03,
        0.02,
        routes=(Route("importance sampling", -10.1, 0.02, 0.5),),
    )
    fits = {
        "svi": made("svi", random.normal(size=(1, 500, 2)), evidence=guide, settings={"guide": "AutoNormal"}),
        "mcmc": made("mcmc", random.normal(size=(4, 500, 2)), evidence=bridge),
    }
    found = compare(fits)
    row = found.methods.loc["svi"]
    assert row["kl"] == pytest.approx(0.5)
    assert row["kl_error"] == pytest.approx(np.hypot(0.01, 0.03))
    assert row["log_evidence"] == -10.1
    assert list(found.evidence["fit"]) == ["mcmc", "svi"]
    assert found.sentences[-2].endswith("SVI -10.500 ± 0.030 + 0.500 ± 0.032.")
    assert "log p(x) = -10.000 ± 0.010 nats by bridge sampling (MCMC)" in found.sentences[-2]
    assert "evidence" in found.as_dict()
    # An ELBO above the evidence says that the chains missed something.
    high = dataclasses.replace(guide, elbo=-9.0)
    found = compare({**fits, "svi": dataclasses.replace(fits["svi"], evidence=high)})
    assert found.sentences[0].startswith("SVI's ELBO -9.00 lies above log p(x) = -10.00")


def test_routes_are_ranked_by_how_far_they_can_be_trusted():
    routes = (
        Route("Laplace", -1.0),
        Route("importance sampling", -2.0, 0.1, 0.3),
        Route("importance sampling", -3.0, 0.1, 0.9),
    )
    bridge = Evidence(-4.0, routes=(Route("bridge sampling", -4.0, 0.1),))
    samples = np.zeros((1, 4))
    fits = {
        "em": made("em", samples, evidence=Evidence(-1.0, routes=routes)),
        "mcmc": made("mcmc", samples, evidence=bridge),
    }
    assert [way["log_evidence"] for way in balance.routes(fits, "mcmc")] == [-4, -2, -1, -3]


def test_an_approximation_is_no_referee():
    samples = np.random.default_rng(0).normal(size=(1, 200, 2))
    laplace = Evidence(-1.0, -1.2, routes=(Route("Laplace", -1.0),))
    found = compare({"em": made("em", samples, evidence=laplace)}, reference="em")
    assert np.isnan(found.methods.loc["em", "kl"])
    assert "log p(x) is not known: the best there is, -1.00 nats by Laplace (EM)" in found.sentences[0]


def test_an_estimate_that_the_exact_evidence_contradicts_is_said():
    exact = dict(zip(balance.COLUMNS, ("exact", "quadrature", -10.0, 0.0, np.nan), strict=True))
    good = dict(zip(balance.COLUMNS, ("mcmc", "bridge sampling", -10.03, 0.01, np.nan), strict=True))
    assert contradicted([exact, good]) == []
    assert contradicted([good | {"log_evidence": -12.0}]) == []
    (text,) = contradicted([exact, good | {"log_evidence": -10.2}])
    assert text.startswith(
        "log p(x) by bridge sampling (MCMC) is 0.20 nats below the exact -10.00, 20 of its"
    )


def test_evidence_with_all_its_parts_is_kept_in_a_file(tmp_path):
    evidence = Evidence(
        -1.0,
        -2.0,
        1.0,
        0.1,
        "how",
        0.2,
        0.3,
        (Bound(1, -2.0, 0.2), Bound(10, -1.5, None)),
        (Route("a", -1.0, 0.1, 0.5),),
        0.7,
    )
    path = tmp_path / "fit.nc"
    made("svi", np.zeros((1, 4)), evidence=evidence).save(path)
    again = load(path).evidence
    assert again == evidence
    assert isinstance(again.bounds[0], Bound)
    assert isinstance(again.routes[0], Route)


def correlated(y):
    a = numpyro.sample("a", dist.Normal(0, 10).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(a[0] + a[1], 0.05), obs=y)


@pytest.fixture(scope="module")
def truth():
    """Give the exact posterior of `correlated`, drawn directly, as a reference."""
    precision = np.eye(2) / 100 + np.ones((2, 2)) / 0.05**2
    draws = np.random.default_rng(0).multivariate_normal(
        np.linalg.solve(precision, np.ones(2) / 0.05**2), np.linalg.inv(precision), size=(4, 1000)
    )
    return made("mcmc", draws, model=correlated)


def test_a_bad_guide_is_caught_by_name_in_the_first_sentence(truth):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        fit = SVI(correlated, guide="AutoNormal", steps=800, particles=2).run(jax.random.key(0), jnp.ones(()))
    found = compare({"svi": fit, "mcmc": truth})
    assert found.sentences[0].startswith("SVI's guide AutoNormal misses part of the posterior (Pareto k-hat ")
    assert "the approximation's fault, not the model's" in found.sentences[0]
    assert "AutoMultivariateNormal" in found.sentences[0]
    assert found.methods.loc["svi", "k_hat"] > 0.7
    assert found.methods.loc["svi", "c2st"] > 0.65


def test_an_unconverged_chain_is_caught_by_name_in_the_first_sentence(key):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        fit = MCMC(correlated, warmup=1, draws=20, max_tree_depth=1).run(key, jnp.ones(()))
    assert not fit.status.ok
    found = compare({"em": made("em", np.zeros((1, 10))), "mcmc": fit})
    assert found.sentences[0].startswith("MCMC, the reference, ended badly: R-hat is ")
    assert "The chains disagree" in found.sentences[0]
