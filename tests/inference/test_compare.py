"""The comparison: known distances, labels brought together, and sentences that say what is so."""

from __future__ import annotations

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

from triptych.inference.arguments import record
from triptych.inference.compare import compare
from triptych.inference.distances import distances, khat, rhat_and_ess
from triptych.inference.fit import Evidence, Fit, Seconds
from triptych.inference.posterior import build, draws
from triptych.inference.relabel import groups_of, relabelled
from triptych.inference.status import Status
from triptych.models import InputError

X = np.concatenate([np.random.default_rng(0).normal(-3, 1, 40), np.random.default_rng(1).normal(3, 1, 60)])


def two_means(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def make_fit(method, centre=(-3.0, 3.0), sd=0.1, seed=0, chains=1, **changes) -> Fit:
    random = np.random.default_rng(seed)
    first = 0.4 + 0.02 * random.normal(size=(chains, 1000, 1))
    samples = {
        "weights": np.concatenate([first, 1 - first], axis=-1),
        "mu": np.asarray(centre) + sd * random.normal(size=(chains, 1000, 2)),
    }
    constant, attrs = record(two_means, (X,), {}, {"x": X})
    tree = build(samples, observed_data={"x": X}, constant_data=constant, attrs=attrs)
    fit = Fit(
        method=method,
        model=two_means,
        status=Status.CONVERGED,
        seconds=Seconds(1.0, 2.0),
        parameters={"weights": np.array([0.4, 0.6]), "mu": np.asarray(centre)},
        log_likelihood=-200.0,
        objective=np.zeros(0),
        data=tree,
    )
    return dataclasses.replace(fit, **changes)


def test_distances_of_two_gaussians():
    grid = norm.ppf((np.arange(4000) + 0.5) / 4000)
    row = distances((2 + 0.5 * grid)[None], (1 + 2 * grid)[None])
    assert row["mean"] == pytest.approx(2.0)
    assert row["sd"] == pytest.approx(0.5, rel=1e-3)
    assert row["lower"] == pytest.approx(2 - 1.96 * 0.5, rel=2e-3)
    assert row["mean_error"] == pytest.approx(0.5, rel=1e-3)
    assert row["sd_ratio"] == pytest.approx(0.25, rel=1e-6)
    # W₁ of N(2, ½²) and N(1, 2²) is E|1 − 1.5 Z|
    a = 1 / 1.5
    expected = 1.5 * (2 * norm.pdf(a) + a * (2 * norm.cdf(a) - 1)) / 2
    assert row["wasserstein"] == pytest.approx(expected, rel=1e-2)


def test_a_reference_without_spread_measures_nothing():
    row = distances(np.ones((1, 10)), np.ones((1, 10)))
    assert np.isnan(row["mean_error"])
    assert row["sd"] == 0
    assert np.isnan(distances(np.ones((1, 10)), None)["wasserstein"])


def test_r_hat_ess_and_k_hat():
    random = np.random.default_rng(0)
    good = random.normal(size=(4, 500, 2))
    r_hat, ess = rhat_and_ess({"a": good, "fixed": np.ones((4, 500))})
    assert r_hat < 1.01
    assert ess > 1000
    assert rhat_and_ess({"a": good + np.arange(4)[:, None, None]})[0] > 1.5
    assert np.isnan(rhat_and_ess({"a": good[:1]})[0])
    assert khat(random.normal(size=2000)) < 0.7
    assert khat(np.log(random.pareto(0.8, size=2000))) > 0.7
    assert np.isnan(khat(np.zeros(100)))


def test_agreement_is_said_with_its_size():
    comparison = compare(
        {"em": make_fit("em"), "svi": make_fit("svi", seed=1), "mcmc": make_fit("mcmc", seed=2, chains=4)}
    )
    (sentence,) = comparison.sentences
    assert sentence.startswith("All three agree: the largest distance is 0.0")
    frame = comparison.parameters
    assert set(frame["parameter"]) == {"weights[0]", "weights[1]", "mu[0]", "mu[1]"}
    assert len(frame) == 12
    own = frame[frame["method"] == "mcmc"]
    assert np.all(own["mean_error"] == 0)
    assert np.all(own["sd_ratio"] == 1)
    assert comparison.methods.loc["mcmc", "r_hat"] < 1.01
    assert comparison.alignment == ()


def test_the_verdict_names_parameter_and_size():
    comparison = compare(
        {
            "svi": make_fit("svi", sd=0.062, seed=1),
            "em": make_fit("em", centre=(-3.0, 3.07), seed=2),
            "mcmc": make_fit("mcmc", chains=4),
        }
    )
    said = " ".join(comparison.sentences)
    assert "EM puts the mean of mu[1] 0.7" in said
    assert "above that of MCMC" in said
    assert "SVI understates the sd of mu[" in said
    assert "by 3" in said  # 38 %, of draws
    assert comparison.sentences[0].startswith("EM")  # 0.7 sd is worse than 38 %


def test_labels_are_brought_to_the_references():
    other = make_fit("svi", seed=1)
    (group,) = groups_of(other).groups
    swapped = relabelled(other, group, [1, 0])
    np.testing.assert_array_equal(swapped.parameters["mu"], [3, -3])
    np.testing.assert_array_equal(draws(swapped)["mu"], draws(other)["mu"][..., ::-1])
    comparison = compare({"svi": swapped, "mcmc": make_fit("mcmc")})
    np.testing.assert_array_equal(comparison.fits["svi"].parameters["mu"], [-3, 3])
    np.testing.assert_array_equal(draws(comparison.fits["svi"])["weights"], draws(other)["weights"])
    assert comparison.sentences[0].startswith("Both agree")
    # and what was handed in is left alone
    np.testing.assert_array_equal(swapped.parameters["mu"], [3, -3])


def test_an_ambiguous_alignment_is_said():
    flat = {"weights": np.array([0.5, 0.5]), "mu": np.array([0.0, 1e-6])}
    comparison = compare({"svi": make_fit("svi", parameters=flat), "mcmc": make_fit("mcmc")})
    assert "could as well be others" in comparison.alignment[0]
    assert comparison.sentences[-1] == comparison.alignment[0]


def test_another_mode_is_called_one():
    comparison = compare({"svi": make_fit("svi", centre=(-3.0, 9.0)), "mcmc": make_fit("mcmc")})
    assert "at another mode" in comparison.sentences[0]


def test_what_did_not_converge_comes_first():
    fits = {
        "em": make_fit("em", status=Status.STEP_LIMIT),
        "svi": make_fit("svi", centre=(0.0, 3.0)),
        "mcmc": make_fit("mcmc", status=Status.NOT_MIXED),
    }
    comparison = compare(fits)
    assert comparison.sentences[0].startswith("MCMC, the reference, ended badly: The chains disagree")
    assert comparison.sentences[1].startswith("EM ended badly: The step limit")


def test_a_method_without_a_site_is_compared_on_the_others():
    fit = make_fit("em")
    fit = dataclasses.replace(fit, parameters={"mu": fit.parameters["mu"], "extra": np.zeros(())})
    tree = build(
        {"mu": fit.data["posterior"]["mu"].values, "extra": np.zeros((1, 1000))}, observed_data={"x": X}
    )
    comparison = compare({"em": dataclasses.replace(fit, data=tree), "mcmc": make_fit("mcmc")})
    assert "EM has no weights: not compared." in comparison.sentences
    assert "extra of EM is not in MCMC: not compared." in comparison.sentences
    extra = comparison.parameters[comparison.parameters["parameter"] == "extra"]
    assert len(extra) == 1
    assert extra["mean_error"].isna().all()


def test_wrong_requests_are_refused_in_words():
    fit = make_fit("em")
    with pytest.raises(InputError, match="at least one"):
        compare({})
    with pytest.raises(InputError, match=r"'mcmc' is not among the fits: they are 'em'\."):
        compare({"em": fit})
    other = dataclasses.replace(fit, data=build(draws(fit), observed_data={"x": X + 1}))
    with pytest.raises(InputError, match="different data"):
        compare({"em": fit, "mcmc": other})


def test_one_fit_alone():
    comparison = compare({"em": make_fit("em")}, reference="em")
    assert comparison.sentences == ()
    assert "EM" in str(comparison)


def test_it_is_plain_json_and_a_readable_table():
    evidence = Evidence(elbo=-210.0, standard_error=0.1)
    comparison = compare({"svi": make_fit("svi", evidence=evidence), "mcmc": make_fit("mcmc", chains=4)})
    content = json.loads(comparison.to_json())
    assert content == comparison.as_dict()
    assert content["methods"][0]["elbo"] == -210.0
    assert content["methods"][1]["elbo"] is None
    assert content["parameters"][0]["parameter"] == "weights[0]"
    text = str(comparison)
    assert "mu[1]" in text
    assert "-210.00" in text
    assert max(map(len, text.splitlines())) <= 120


def test_many_parameters_show_the_furthest():
    random = np.random.default_rng(0)
    wide = {"a": random.normal(size=(1, 50, 100))}
    far = {"a": wide["a"] + (np.arange(100) == 77)}

    def program(x):
        numpyro.sample("a", dist.Normal(0, 1).expand([100]).to_event(1))

    fits = {
        name: make_fit(name, model=program, parameters={"a": samples["a"].mean((0, 1))}, data=build(samples))
        for name, samples in (("svi", far), ("mcmc", wide))
    }
    comparison = compare(fits)
    assert len(comparison.parameters) == 200
    assert "a[77]" in str(comparison)
    assert "of 100" in str(comparison)
    assert "not aligned" in comparison.alignment[0]
