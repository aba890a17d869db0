"""The shipped hidden Markov models: Baum–Welch by hand, published optima, direct maximisation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm, poisson

from triptych.experiments.data import load_data
from triptych.experiments.programs import load_model
from triptych.experiments.reading import read_experiment
from triptych.experiments.report.chains import states
from triptych.experiments.report.fitted import membership
from triptych.experiments.report.gather import Run
from triptych.inference.em import EM
from triptych.inference.em.derived import derive
from triptych.inference.em.kernel import Call
from triptych.inference.exchangeable import exchangeable, permute
from triptych.inference.labels import align_all
from triptych.inference.marginal import marginal
from triptych.inference.mcmc import MCMC
from triptych.inference.svi import SVI
from triptych.models.errors import InferenceWarning

Arrays = dict[str, np.ndarray]


def shipped(name: str, *overrides: str) -> tuple[Callable[..., Any], np.ndarray]:
    experiment = read_experiment(name, overrides)
    program = load_model(experiment.config.model, experiment.base)
    return program, load_data(experiment.config, experiment.base, program).args[0]


def forward_backward(initial: Any, transition: Any, emission: Any) -> tuple[Any, Any, float]:
    """Posteriors (T, K), expected transitions (K, K) and log-likelihood of a chain, with scaling."""
    forward, scale = np.zeros_like(emission), np.zeros(len(emission))
    for t in range(len(emission)):
        joint = (initial if t == 0 else forward[t - 1] @ transition) * emission[t]
        scale[t] = joint.sum()
        forward[t] = joint / scale[t]
    backward, pairs = np.ones_like(emission), np.zeros_like(transition)
    for t in range(len(emission) - 2, -1, -1):
        ahead = emission[t + 1] * backward[t + 1] / scale[t + 1]
        pairs += forward[t][:, None] * transition * ahead
        backward[t] = transition @ ahead
    return forward * backward, pairs, float(np.log(scale).sum())


def share(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=-1, keepdims=True)


def earthquakes_step(theta: Arrays, x: np.ndarray) -> tuple[Arrays, float]:
    r, pairs, value = forward_backward(
        theta["initial"], theta["transition"], poisson.pmf(x.reshape(-1, 1), theta["rate"])
    )
    rate = r.T @ x[:, 0] / r.sum(axis=0)
    return {"initial": r[0], "transition": share(pairs), "rate": rate}, value


def regimes_step(theta: Arrays, x: np.ndarray) -> tuple[Arrays, float]:
    emission = norm.pdf(x.reshape(-1, 1), theta["mean"], np.sqrt(theta["variance"]))
    r, pairs, value = forward_backward(np.full(2, 0.5), theta["transition"], emission)
    mean = r.T @ x / r.sum(axis=0)
    variance = np.sum(r * (x[:, None] - mean) ** 2, axis=0) / r.sum(axis=0)
    return {"transition": share(pairs), "mean": mean, "variance": variance}, value


def casino_step(theta: Arrays, x: np.ndarray) -> tuple[Arrays, float]:
    rolls = x.astype(int)
    r, pairs, value = forward_backward(np.full(2, 0.5), theta["transition"], theta["probs"][:, rolls].T)
    counts = r.T @ np.eye(6)[rolls]
    return {"transition": share(pairs), "probs": share(counts)}, value


STARTS: dict[str, tuple[Callable[..., Any], Arrays]] = {
    "earthquakes": (
        earthquakes_step,
        {
            "initial": np.array([0.5, 0.3, 0.2]),
            "transition": np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]]),
            "rate": np.array([12.0, 20.0, 30.0]),
        },
    ),
    "regimes": (
        regimes_step,
        {
            "transition": np.array([[0.8, 0.2], [0.3, 0.7]]),
            "mean": np.array([0.5, -1.0]),
            "variance": np.array([0.5, 2.0]),
        },
    ),
    "casino": (
        casino_step,
        {
            "transition": np.array([[0.8, 0.2], [0.3, 0.7]]),
            "probs": share(np.array([[2.0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 3.0]])),
        },
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_derived_iterates_are_baum_and_welch_s(name: str) -> None:
    by_hand, theta = STARTS[name]
    program, x = shipped(name, *(["data.simulate.rows=150"] if name != "earthquakes" else []))
    kernel = derive(program, Call((x,), {}, None, "mle", "em"))
    blocks = {site: block.rule for block in kernel.problem.shape.blocks for site in block.sites}
    assert blocks == {site: "quadratic" if site == "mean" else "closed form" for site in theta}
    step = jax.jit(lambda theta: kernel.problem.step(theta)[:2])
    derived = kernel.inward(theta)
    for _ in range(5):
        theta, expected = by_hand(theta, x)
        derived, objective = step(derived)
        assert float(objective) == pytest.approx(expected, abs=1e-8)
        for site, value in theta.items():
            np.testing.assert_allclose(derived[site], value, rtol=1e-8, atol=1e-10)


def negative_log_likelihood(u: np.ndarray, x: np.ndarray, states: int, stationary: bool) -> float:
    size = states * (states - 1)
    logits = np.insert(u[:size].reshape(states, -1), 0, 0.0, axis=1)
    transition = share(np.exp(logits - logits.max(axis=1, keepdims=True)))
    if stationary:
        initial = np.linalg.solve((np.eye(states) - transition + 1).T, np.ones(states))
    else:
        initial = share(np.exp(np.insert(u[size + states :], 0, 0.0)))
    emission = poisson.pmf(x.reshape(-1, 1), np.exp(u[size : size + states]))
    return -forward_backward(initial, transition, emission)[2]


@pytest.mark.parametrize(
    ("stationary", "published", "rates"),
    [
        (False, 341.8787, [15.421, 26.018]),
        pytest.param(True, 342.3183, [15.472, 26.125], marks=pytest.mark.slow),
    ],
)
def test_two_kinds_of_years_reach_the_published_optimum(
    stationary: bool, published: float, rates: list[float]
) -> None:
    """Zucchini, MacDonald and Langrock 2016, chapters 3 and 4, and direct maximisation."""
    arguments = f"model.arguments={{states: 2, stationary: {str(stationary).lower()}}}"
    program, x = shipped("earthquakes", arguments)
    fit = EM(program, objective="mle", restarts=2, draws=0).run(jax.random.key(0), x)
    assert fit.log_likelihood == pytest.approx(-published, abs=2e-3)
    start = np.array([-1.0, 1.0, *np.log([12.0, 25.0]), *([] if stationary else [0.0])])
    direct = minimize(negative_log_likelihood, start, (x, 2, stationary), options={"gtol": 1e-3})
    assert fit.log_likelihood == pytest.approx(-direct.fun, abs=2e-3)
    np.testing.assert_allclose(np.sort(fit.parameters["rate"]), rates, atol=5e-3)
    assert "log_likelihood" not in fit.data.children


@pytest.mark.slow
@pytest.mark.parametrize(("stationary", "published"), [(False, 328.5275), (True, 329.4603)])
def test_three_kinds_of_years_reach_the_published_optimum(stationary: bool, published: float) -> None:
    arguments = f"model.arguments={{states: 3, stationary: {str(stationary).lower()}}}"
    program, x = shipped("earthquakes", arguments)
    fit = EM(program, objective="mle", restarts=8, draws=0).run(jax.random.key(0), x)
    assert fit.log_likelihood == pytest.approx(-published, abs=2e-3)


def test_labels_permute_rows_and_columns_of_the_transitions() -> None:
    program, x = shipped("earthquakes")
    m, theta = (
        marginal(program),
        {name: jnp.asarray(value) for name, value in STARTS["earthquakes"][1].items()},
    )
    (group,) = exchangeable(m, theta, x)
    assert group.latents == ("state",)
    assert dict(group.axes) == {"transition": (0, 1), "rate": (0,), "initial": (0,)}
    density = jax.jit(lambda theta: m.log_density(theta, x))
    turned = permute(theta, group, np.array([2, 0, 1]))
    assert float(density(turned)) == pytest.approx(float(density(theta)), abs=1e-9)
    draws = {name: np.stack([theta[name], turned[name]]) for name in theta}
    aligned, _ = align_all(m, draws, theta, x)
    for name, value in aligned.items():
        np.testing.assert_allclose(value, np.stack([theta[name]] * 2), err_msg=name)


@pytest.mark.slow
def test_three_methods_run_from_one_declaration() -> None:
    program, x = shipped("regimes", "data.simulate.rows=80")
    fits = []
    for method in (
        EM(program, restarts=2, draws=20),
        SVI(program, steps=2000, draws=50),
        MCMC(program, warmup=100, draws=50, chains=2),
    ):
        with pytest.warns(InferenceWarning):
            fits.append(method.run(jax.random.key(0), x))
    for fit in fits:
        assert "ONE_CHAIN" in {finding.code for finding in fit.findings}
        r = fit.responsibilities(x)
        assert r.shape == (80, 2)
        np.testing.assert_allclose(r.sum(axis=1), 1, rtol=1e-9)
        same = np.mean(r.argmax(axis=1) == fits[0].responsibilities(x).argmax(axis=1))
        assert max(same, 1 - same) > 0.8  # nothing says which of the two states comes first


def test_the_page_keeps_a_chain_in_its_order_in_time() -> None:
    series = np.array([1.0, 9.0, 8.0, 2.0])
    table = np.array([[0.99, 0.01], [0.2, 0.8], [0.05, 0.95], [0.97, 0.03]])
    fit: Any = SimpleNamespace(parameters={"rate": np.array([1.5, 8.5])})
    run = Run({}, {}, {"em": fit}, None, "em", None, ("count",), None, {"em": table}, True, series)
    section = states(run, {})
    assert section is not None
    assert section.title == "Which state, when"
    assert [colour for _, colour in section.legend] == ["state 0", "state 1"]
    assert [picture.fit for picture in section.pictures] == ["", "em"]
    assert re.search(r"count over 4 steps\. rate: 1\.50*, 8\.50*\.", section.pictures[0].image)
    assert section.pictures[1].caption == "25 % of the steps are in no state with more than 90 %."
    assert "step" in section.pictures[1].image
    assert "reference's order" not in section.pictures[1].image
    assert membership(run, {}) is None
    assert states(dataclasses.replace(run, chain=False), {}) is None
