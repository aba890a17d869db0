"""One EM iteration of a mixture against scikit-learn, pomegranate and StepMix, and its share of the rate."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from harness import PAUSE, Rounds, Row, Share, alternate, seconds, size_of

import triptych
from triptych.inference.em.fold import chunk_rows

COVARIANCES = {"spherical": "spherical", "diagonal": "diag", "full": "full", "tied": "tied"}
SCIKIT, OTHERS = "EM, one iteration: scikit-learn", "EM, one iteration: pomegranate and StepMix"
PRODUCT = 2048  # rows and columns of the matrices whose product is the machine's rate
PAIRS = 5  # of a peer's fits, until the longer one takes longer


@dataclasses.dataclass(frozen=True)
class Case:
    """Data, and the start that all begin from."""

    x: np.ndarray
    parameters: dict[str, np.ndarray]


def gaussian_case(rows: int, columns: int, components: int, dtype: Any, covariance: str) -> Case:
    """Draw rows around centres, and a start close to them."""
    generator = np.random.default_rng(0)
    centres = 3.0 * generator.normal(size=(components, columns))
    x = np.empty((rows, columns), dtype)
    for part in np.array_split(np.arange(rows), max(rows // 500_000, 1)):  # no float64 copy of 80 000 000
        x[part] = centres[generator.integers(components, size=len(part))]
        x[part] += generator.normal(size=(len(part), columns)).astype(dtype)
    matrix = 2.0 * np.eye(columns)
    shapes = {
        "spherical": np.full(components, 2.0),
        "diagonal": np.full((components, columns), 2.0),
        "full": np.stack([matrix] * components),
        "tied": matrix,
    }
    start = {
        "weights": np.full(components, 1.0 / components),
        "means": centres + 0.3 * generator.normal(size=centres.shape),
        "covariances": shapes[covariance],
    }
    return Case(x, start)


def bernoulli_case(rows: int, columns: int, components: int, dtype: Any) -> Case:
    """Draw bits from products of Bernoullis, and a start close to the truth."""
    generator = np.random.default_rng(0)
    probs = generator.uniform(0.1, 0.9, size=(components, columns))
    x = generator.random((rows, columns), np.float32) < probs[generator.integers(components, size=rows)]
    near = np.clip(probs + 0.1 * generator.normal(size=probs.shape), 0.05, 0.95)
    return Case(x.astype(dtype), {"weights": np.full(components, 1.0 / components), "probs": near})


def our_step(model: Any, case: Case) -> tuple[Any, Any, Any]:
    """Give a compiled EM step, its problem, and the start in the problem's units."""
    kernel = triptych.EM(model, objective="mle").bind(case.x)
    step = jax.jit(lambda problem, theta: problem.step(theta)[:2])
    return step, kernel.problem, kernel.inward(case.parameters)


def our_seconds(step: Any, problem: Any, start: Any, steps: int = 3) -> float:
    """Seconds a step."""
    return seconds(lambda: [jax.block_until_ready(step(problem, start)) for _ in range(steps)]) / steps


def per_step(
    fit: Callable[[int], object], more: int = 2, clock: Callable[[Callable[[], object]], float] = seconds
) -> float:
    """Seconds a step of a fit: the difference of 1 + `more` and of 1, so that setting up does not count.

    A pair of which the longer fit was the quicker says nothing but that the machine changed its speed.
    """
    for _ in range(PAIRS):
        long, short = (clock(lambda n=n: fit(n)) for n in (1 + more, 1))
        if long > short:
            return (long - short) / more
    raise SystemExit(f"{1 + more} steps took no longer than one, {PAIRS} times: the machine is too busy.")


def scikit(case: Case, covariance: str, steps: int, tol: float = 0.0) -> Any:
    """Fit scikit-learn's mixture from the start.

    Its first responsibilities, which it makes even where a start is given and then drops, are the cheapest.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    kind = COVARIANCES[covariance]
    values = case.parameters["covariances"]
    precisions = np.linalg.inv(values) if kind in ("full", "tied") else 1.0 / values
    model = GaussianMixture(
        len(case.parameters["weights"]),
        covariance_type=kind,  # type: ignore[arg-type]
        weights_init=case.parameters["weights"].astype(case.x.dtype),
        means_init=case.parameters["means"].astype(case.x.dtype),
        precisions_init=precisions.astype(case.x.dtype),
        init_params="random_from_data",
        random_state=0,
        max_iter=steps,
        tol=tol,
        reg_covar=0.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(case.x)


def against_scikit(
    size: tuple[int, int, int], dtype: Any, covariance: str, target: float | None, rounds: Rounds
) -> list[Row]:
    """Compare one EM iteration with scikit-learn's."""
    rows, columns, components = size
    with jax.enable_x64(True):
        case = gaussian_case(rows, columns, components, dtype, covariance)
        step, problem, theta = our_step(triptych.GaussianMixture(components, covariance=covariance), case)
        start = theta
        for _ in range(3):
            theta, objective = step(problem, theta)
        gap = abs(float(objective) / rows - float(scikit(case, covariance, 3).lower_bound_))
        own, other, ratios = alternate(
            lambda: our_seconds(step, problem, start, 3 if rows > 1000 else 100),
            lambda: per_step(lambda steps: scikit(case, covariance, steps), 2 if rows > 1000 else 100),
            rounds,
        )
    name, precision = f"{covariance} {size_of(*size)}", np.dtype(dtype).name
    said = f"same log-likelihood a row after 3 steps to {gap:.0e} nats"
    return [Row(SCIKIT, name, "scikit-learn", 1e3 * own, 1e3 * other, ratios, "ms", said, target, precision)]


def pomegranate(case: Case, kind: str) -> Any:
    """Give pomegranate's mixture at the start, on the CPU; it computes in float32."""
    import torch
    from pomegranate.distributions import Bernoulli, Normal
    from pomegranate.gmm import GeneralMixtureModel

    values = {name: torch.tensor(value, dtype=torch.float32) for name, value in case.parameters.items()}
    if kind == "Bernoulli":
        parts = [Bernoulli(probs) for probs in values["probs"]]
    else:
        pairs = zip(values["means"], values["covariances"], strict=True)
        parts = [Normal(mean, shape, covariance_type=COVARIANCES[kind]) for mean, shape in pairs]
    return GeneralMixtureModel(parts, priors=case.parameters["weights"].astype(np.float32))


def iterate(peer: Any, x: Any) -> None:
    """Take one EM step of pomegranate's."""
    peer.summarize(x)
    peer.from_summaries()


def against_pomegranate(size: tuple[int, int, int], kind: str, rounds: Rounds) -> list[Row]:
    """Compare one EM iteration in float32, which is what it computes in, with pomegranate's."""
    import torch

    rows, columns, components = size
    with jax.enable_x64(True):
        if kind == "Bernoulli":
            case = bernoulli_case(rows, columns, components, np.float32)
            model: Any = triptych.BernoulliMixture(components)
        else:
            case = gaussian_case(rows, columns, components, np.float32, kind)
            model = triptych.GaussianMixture(components, covariance=kind)
        step, problem, start = our_step(model, case)
        x = torch.tensor(case.x)

        peer = pomegranate(case, kind)
        iterate(peer, x)
        height = float(peer.summarize(x).sum()) / rows  # after one step
        gap = abs(float(step(problem, step(problem, start)[0])[1]) / rows - height)

        def theirs() -> float:
            peer = pomegranate(case, kind)
            return seconds(lambda: iterate(peer, x))

        own, other, ratios = alternate(lambda: our_seconds(step, problem, start), theirs, rounds)
    said = f"same log-likelihood a row after 1 step to {gap:.0e} nats"
    name = f"{kind} {size_of(*size)}"
    return [Row(OTHERS, name, "pomegranate", 1e3 * own, 1e3 * other, ratios, "ms", said, None, "float32")]


def against_stepmix(
    x: np.ndarray, components: int, name: str, target: float | None, rounds: Rounds
) -> list[Row]:
    """Compare one EM iteration of a Bernoulli mixture with StepMix's, at its answer after 3 steps."""
    from stepmix.stepmix import StepMix

    rows = len(x)

    def fit(steps: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = StepMix(
                components,
                measurement="binary",
                max_iter=steps,
                abs_tol=0,
                rel_tol=0,
                random_state=0,
                progress_bar=0,
            )
            return model.fit(x)

    with jax.enable_x64(True):
        fitted = fit(3)
        found = fitted.get_parameters()
        start = {"weights": np.asarray(found["weights"]), "probs": np.asarray(found["measurement"]["pis"])}
        step, problem, theta = our_step(triptych.BernoulliMixture(components), Case(x, start))
        gap = abs(float(step(problem, theta)[1]) / rows - float(fitted.score(x)))
        own, other, ratios = alternate(
            lambda: our_seconds(step, problem, theta), lambda: per_step(fit), rounds
        )
    said = f"same log-likelihood a row at its answer to {gap:.0e} nats"
    row = Row(OTHERS, name, "StepMix", 1e3 * own, 1e3 * other, ratios, "ms", said, target, "float64")
    return [row]


def share_of_rate(size: tuple[int, int, int], dtype: Any, rounds: Rounds) -> list[Share]:
    """Measure GFLOP/s of one EM iteration, full covariances, and of a large matrix product, in turns.

    An iteration's useful work is two products of N rows, F = 1 + D + D(D + 1)/2 features and K components.
    They are timed alone as well: by NumPy, of one chunk of features again and again.
    """
    import time

    rows, columns, components = size
    with jax.enable_x64(True):
        case = gaussian_case(rows, columns, components, dtype, "full")
        step, problem, start = our_step(triptych.GaussianMixture(components), case)
        square = np.random.default_rng(0).normal(size=(PRODUCT, PRODUCT)).astype(dtype)
        a, product = jax.numpy.asarray(square), jax.jit(lambda a: a @ a)
        jax.block_until_ready((product(a), step(problem, start), square @ square))
        count = problem.family.feature_count
        work = 4.0 * rows * count * components
        chunk = min(chunk_rows(problem.family, np.dtype(dtype).itemsize), rows)
        random = np.random.default_rng(1)
        natural, features, shares = (
            random.random(shape).astype(dtype)
            for shape in ((components, count), (count, chunk), (components, chunk))
        )

        def thin() -> None:
            for _ in range(-(-rows // chunk)):
                natural @ features, features @ shares.T

        flops = 3 * 2.0 * PRODUCT**3
        timers: tuple[tuple[float, Callable[[], float]], ...] = (
            (work, lambda: our_seconds(step, problem, start)),
            (flops, lambda: seconds(lambda: [jax.block_until_ready(product(a)) for _ in range(3)])),
            (flops, lambda: seconds(lambda: [square @ square for _ in range(3)])),
            (work, lambda: seconds(thin)),
        )
        rates = np.empty((rounds.most, len(timers)))
        for turn in rates:
            for place, (amount, timer) in enumerate(timers):
                time.sleep(PAUSE)
                turn[place] = amount / timer() / 1e9
    own, of_jax, of_numpy, of_thin = np.median(rates, axis=0).tolist()
    share = tuple((rates[:, 0] / rates[:, 1:3].max(axis=1)).tolist())
    return [Share(f"full {size_of(*size)}", np.dtype(dtype).name, own, of_jax, of_numpy, of_thin, share)]
