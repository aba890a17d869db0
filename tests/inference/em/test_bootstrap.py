"""The bootstrap of EM against closed forms and against the observed information."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import triptych
from triptych import EM, BernoulliMixture, GaussianMixture, InputError
from triptych.inference.em.starts import generator

N, B = 80, 400
# A standard deviation estimated from B replicates has a relative standard error of 1/√(2B): 4 of them.
NOISE = 4 / np.sqrt(2 * B)


@pytest.mark.parametrize("kind", ["nonparametric", "parametric"])
def test_mean_and_variance_of_a_gaussian_have_their_textbook_errors(kind, key):
    """se(x̄) = s/√n both ways; se(s²) = s² √(2(n−1))/n parametric, √((m₄ − s⁴)/n) about, nonparametric."""
    x = np.random.default_rng(0).gamma(3.0, 2.0, (N, 1))
    em = EM(GaussianMixture(1, covariance="diagonal"), objective="mle", draws=0)
    found = triptych.bootstrap(em, key, x, replicates=B, kind=kind)
    s2, m4 = x.var(), np.mean((x - x.mean()) ** 4)
    assert found.arrived == 1.0
    assert found.standard_errors["means"][0, 0] == pytest.approx(np.sqrt(s2 / N), rel=NOISE)
    exact = np.sqrt(m4 - s2**2) / np.sqrt(N) if kind == "nonparametric" else s2 * np.sqrt(2 * (N - 1)) / N
    assert found.standard_errors["covariances"][0, 0] == pytest.approx(exact, rel=NOISE + 2 / N)
    # The optimum of one component is the weighted mean: the climbs have to be there.
    assert found.draws["means"].mean() == pytest.approx(x.mean(), abs=4 * np.sqrt(s2 / N / B))


@pytest.mark.slow
def test_it_agrees_with_the_information_where_components_are_apart(key):
    rng = np.random.default_rng(1)
    z = rng.random(300) < 0.4
    x = np.where(z, rng.normal(0, 1, 300), rng.normal(9, 2, 300))[:, None]
    fit = EM(GaussianMixture(2), objective="mle", restarts=2, bootstrap=200).run(key, x)
    group, information = fit.data["bootstrap"], fit.data["standard_errors"]
    assert group.attrs["replicates"] == 200
    assert group.attrs["ambiguous"] == 0.0  # labels stay the optimum's
    for site in ("weights", "means"):
        np.testing.assert_allclose(group[site].values, information[site].values, rtol=4 / np.sqrt(400) + 0.05)
    # Of a variance the information assumes normal tails, which 120 to 180 rows have only roughly.
    np.testing.assert_allclose(group["covariances"].values, information["covariances"].values, rtol=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "tied", "spherical"])
def test_every_replicate_is_the_fit_to_its_own_rows(covariance, key):
    """The compiled run of all replicates against one fit at a time, each to its rows as weights."""
    x = np.random.default_rng(4).normal(size=(40, 2)) + 6 * (np.arange(40) % 2)[:, None]
    em = EM(GaussianMixture(2, covariance=covariance), objective="mle", restarts=1, draws=0, tol=1e-9)
    fit = em.run(key, x)
    found = triptych.bootstrap(em, key, x, replicates=3, fit=fit)
    counts = generator(jax.random.split(key)[1]).multinomial(40, np.full(40, 1 / 40), size=3)
    for i, count in enumerate(counts):
        alone = em.run(key, x, sample_weight=count.astype(float), parameters=fit.parameters).parameters
        for site, values in found.draws.items():
            np.testing.assert_allclose(values[i], alone[site], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::triptych.models.errors.InferenceWarning")
def test_components_that_run_into_each_other_are_said_to_be_ambiguous(key):
    x = (np.random.default_rng(2).random((40, 2)) < 0.5).astype(float)
    em = EM(BernoulliMixture(2), restarts=2, draws=0)
    found = triptych.bootstrap(em, key, x, replicates=40)
    assert found.ambiguous > 0.05
    assert [finding.code for finding in found.findings] == ["BOOTSTRAP_AMBIGUOUS"]


def poisson(x):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1e-6))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Poisson(rate), obs=x)


def test_a_derived_program_draws_its_rows_again(key):
    """The rate's mode is x̄ but for a prior of nothing: se = s/√n by rows, √(x̄/n) by the model."""
    x = np.random.default_rng(3).negative_binomial(2, 0.2, 60).astype(float)
    em = EM(poisson, draws=0, restarts=1)
    by_rows = triptych.bootstrap(em, key, x, replicates=B)
    by_model = triptych.bootstrap(em, key, x, replicates=B, kind="parametric")
    assert by_rows.standard_errors["rate"] == pytest.approx(x.std() / np.sqrt(60), rel=NOISE)
    assert by_model.standard_errors["rate"] == pytest.approx(np.sqrt(x.mean() / 60), rel=NOISE)


def test_what_cannot_be_is_refused(key):
    with pytest.raises(InputError, match="e_step='exact'"):
        EM(poisson, bootstrap=20, e_step="hard")
    with pytest.raises(InputError, match="`kind`"):
        triptych.bootstrap(EM(poisson), key, np.ones(3), kind="block")
    with pytest.raises(InputError, match="sample_weight"):
        EM(BernoulliMixture(1), bootstrap=5).run(jax.random.key(0), np.eye(4), sample_weight=np.ones(4))
