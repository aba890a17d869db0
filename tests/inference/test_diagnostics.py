"""The checks of the chains, on chains made to fail each."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.inference.diagnostics import diagnose, invariants
from triptych.inference.exchangeable import Exchangeable
from triptych.inference.status import Status


def chains(count=4, draws=1000, seed=0):
    random = np.random.default_rng(seed)
    samples = {"a": random.normal(size=(count, draws, 2))}
    statistics = {
        "diverging": np.zeros((count, draws), bool),
        "tree_depth": np.full((count, draws), 3),
        "energy": random.normal(size=(count, draws)),
    }
    return samples, statistics


def check(samples, statistics, invariant=None):
    return diagnose(invariant or samples, samples, statistics, max_tree_depth=10)


def test_good_chains_pass():
    diagnosis = check(*chains())
    assert diagnosis.status is Status.CONVERGED
    assert diagnosis.findings == ()
    assert diagnosis.r_hat < 1.01
    assert diagnosis.ess > 2000


def codes(diagnosis):
    return [finding.code for finding in diagnosis.findings]


def test_a_chain_elsewhere_is_not_mixed():
    samples, statistics = chains()
    samples["a"][0] += 1
    diagnosis = check(samples, statistics)
    assert diagnosis.status is Status.NOT_MIXED
    assert codes(diagnosis)[0] == "NOT_MIXED"


def test_labels_that_differ_are_not_called_unmixed():
    samples, statistics = chains()
    samples["weights"] = np.array([0.2, 0.8]) + 0.01 * samples["a"]
    samples["weights"][0] = samples["weights"][0, :, ::-1]
    group = Exchangeable(("z",), 2, {"weights": (0,), "a": (0,)})
    lp = np.random.default_rng(1).normal(size=(4, 1000))
    invariant = invariants(samples, lp, lp, [group])
    assert set(invariant) == {"log density", "log likelihood", "sorted weights", "sorted a"}
    diagnosis = check(samples, statistics, invariant)
    assert diagnosis.status is Status.CONVERGED
    assert codes(diagnosis) == ["PARAMETERS_NOT_MIXED"]


@pytest.mark.parametrize(("number", "status"), [(1, Status.CONVERGED), (100, Status.DIVERGED)])
def test_divergences_are_counted(number, status):
    samples, statistics = chains()
    statistics["diverging"].flat[:number] = True
    diagnosis = check(samples, statistics)
    assert diagnosis.status is status
    assert f"{number} of 4000" in diagnosis.findings[0].text


def test_few_effective_draws():
    samples, statistics = chains(draws=40)
    assert check(samples, statistics).status in (Status.FEW_DRAWS, Status.NOT_MIXED)
    assert "FEW_DRAWS" in codes(check(samples, statistics))


def test_deep_trees_and_low_energy_are_said():
    samples, statistics = chains()
    statistics["tree_depth"][:, :100] = 10
    statistics["energy"] = np.cumsum(statistics["energy"], axis=1)
    assert codes(check(samples, statistics)) == ["TREE_DEPTH", "LOW_ENERGY_FRACTION"]


def test_one_chain_is_compared_with_itself():
    samples, statistics = chains(count=1)
    good = check(samples, statistics)
    assert codes(good) == ["ONE_CHAIN"]
    samples["a"][0, :500] += 3
    assert check(samples, statistics).status is Status.NOT_MIXED
