"""EM of mixtures: an iteration and a whole fit against scikit-learn, pomegranate and StepMix."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import jax
import numpy as np
from harness import Row, alternate, seconds

import triptych

COVARIANCES = {"spherical": "spherical", "diagonal": "diag", "full": "full", "tied": "tied"}


@dataclasses.dataclass(frozen=True)
class Case:
    """Data, and the start that all begin from."""

    x: np.ndarray
    parameters: dict[str, np.ndarray]


def gaussian_case(rows: int, columns: int, components: int, dtype: Any, covariance: str) -> Case:
    """Draw rows around centres, and a start close to them."""
    generator = np.random.default_rng(0)
    centres = 3.0 * generator.normal(size=(components, columns))
    x = centres[generator.integers(components, size=rows)] + generator.normal(size=(rows, columns))
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
    return Case(x.astype(dtype), start)


def our_step(model: Any, case: Case) -> tuple[Any, Any, Any]:
    """Give a compiled EM step, its problem, and the start in the problem's units."""
    kernel = triptych.EM(model, objective="mle").bind(case.x)
    step = jax.jit(lambda problem, theta: problem.step(theta)[:2])
    return step, kernel.problem, kernel.inward(case.parameters)


def our_seconds(step: Any, problem: Any, start: Any, steps: int = 3) -> float:
    """Seconds a step."""
    return seconds(lambda: [jax.block_until_ready(step(problem, start)) for _ in range(steps)]) / steps


def scikit(case: Case, covariance: str, steps: int) -> Any:
    """Fit `steps` iterations of scikit-learn's mixture from the start."""
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
        max_iter=steps,
        tol=0.0,
        reg_covar=0.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(case.x)


def against_scikit(
    rows: int, columns: int, components: int, dtype: Any, covariance: str, target: float | None, repeats: int
) -> Row:
    """Compare one EM iteration with scikit-learn's: the difference of fits of 3 and of 1 iterations."""
    with jax.enable_x64(True):
        case = gaussian_case(rows, columns, components, dtype, covariance)
        step, problem, theta = our_step(triptych.GaussianMixture(components, covariance=covariance), case)
        start = theta
        for _ in range(3):
            theta, objective = step(problem, theta)
        gap = abs(float(objective) / rows - float(scikit(case, covariance, 3).lower_bound_))

        def theirs() -> float:
            three, one = (seconds(lambda n=n: scikit(case, covariance, n)) for n in (3, 1))
            return max(three - one, 1e-9) / 2

        own, other, ratios = alternate(lambda: our_seconds(step, problem, start), theirs, repeats)
    name = f"{covariance} ({rows}, {columns}, {components}) {np.dtype(dtype).name}"
    said = f"same log-likelihood a row after 3 steps to {gap:.0e} nats"
    return Row("EM, one iteration", name, "scikit-learn", 1e3 * own, 1e3 * other, ratios, "ms", said, target)


def against_pomegranate(rows: int, columns: int, components: int, repeats: int) -> Row:
    """Compare one EM iteration, full covariances in float32, with pomegranate's."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    with jax.enable_x64(True):
        case = gaussian_case(rows, columns, components, np.float32, "full")
        step, problem, start = our_step(triptych.GaussianMixture(components), case)
        x = torch.tensor(case.x)

        def fresh() -> Any:
            means, covariances = (
                torch.tensor(case.parameters[name], dtype=torch.float32) for name in ("means", "covariances")
            )
            parts = [Normal(m, c) for m, c in zip(means, covariances, strict=True)]
            return GeneralMixtureModel(parts, priors=case.parameters["weights"].astype(np.float32))

        model = fresh()
        theirs_height = float(model.summarize(x).sum()) / rows
        gap = abs(float(step(problem, start)[1]) / rows - theirs_height)

        def theirs() -> float:
            model = fresh()
            return seconds(lambda: (model.summarize(x), model.from_summaries()))

        own, other, ratios = alternate(lambda: our_seconds(step, problem, start), theirs, repeats)
    name = f"full ({rows}, {columns}, {components}) float32"
    said = f"same log-likelihood a row to {gap:.0e} nats"
    return Row("EM, one iteration", name, "pomegranate", 1e3 * own, 1e3 * other, ratios, "ms", said)


def against_stepmix(rows: int, columns: int, components: int, target: float | None, repeats: int) -> Row:
    """Compare one EM iteration of a Bernoulli mixture with StepMix's: fits of 3 and of 1 iterations."""
    from stepmix.stepmix import StepMix

    generator = np.random.default_rng(0)
    probs = generator.uniform(0.1, 0.9, size=(components, columns))
    x = (generator.random((rows, columns)) < probs[generator.integers(components, size=rows)]).astype(float)

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
        case = Case(
            x, {"weights": np.asarray(found["weights"]), "probs": np.asarray(found["measurement"]["pis"])}
        )
        step, problem, start = our_step(triptych.BernoulliMixture(components), case)
        gap = abs(float(step(problem, start)[1]) / rows - float(fitted.score(x)))

        def theirs() -> float:
            three, one = seconds(lambda: fit(3)), seconds(lambda: fit(1))
            return max(three - one, 1e-9) / 2

        own, other, ratios = alternate(lambda: our_seconds(step, problem, start), theirs, repeats)
    name = f"Bernoulli ({rows}, {columns}, {components}) float64"
    said = f"same log-likelihood a row at its answer to {gap:.0e} nats"
    return Row("EM, one iteration", name, "StepMix", 1e3 * own, 1e3 * other, ratios, "ms", said, target)


def restarts(x: np.ndarray, repeats: int) -> Row:
    """Compare 100 restarts to convergence on Old Faithful, warm, with scikit-learn's n_init=100."""
    from sklearn.mixture import GaussianMixture

    em = triptych.EM(
        triptych.GaussianMixture(2),
        objective="mle",
        restarts=100,
        draws=0,
        starts="k-means++",
        tol=1e-3 * len(x),
    )
    em.run(jax.random.key(0), x)  # compiles

    def theirs() -> Any:
        return GaussianMixture(2, n_init=100, init_params="k-means++", random_state=0).fit(x)

    gap = abs(em.run(jax.random.key(0), x).log_likelihood / len(x) - float(theirs().score(x)))
    own, other, ratios = alternate(
        lambda: seconds(lambda: em.run(jax.random.key(0), x)), lambda: seconds(theirs), repeats
    )
    said = f"same optimum to {gap:.0e} nats a row, both with gains below 1e-3 a row"
    return Row(
        "EM, whole fits",
        "Old Faithful, 100 restarts, warm",
        "scikit-learn",
        1e3 * own,
        1e3 * other,
        ratios,
        "ms",
        said,
        10,
    )


def matrix_rate(rows: int, columns: int, components: int, dtype: Any, repeats: int) -> tuple[float, float]:
    """Give GFLOP/s of one EM iteration, full covariances, and of a large matrix product of the same machine.

    An iteration's useful work is two products of N rows, F = 1 + D + D(D + 1)/2 features and K components.
    """
    with jax.enable_x64(True):
        case = gaussian_case(rows, columns, components, dtype, "full")
        step, problem, start = our_step(triptych.GaussianMixture(components), case)
        a = jax.numpy.asarray(np.random.default_rng(0).normal(size=(2048, 2048)).astype(dtype))
        product = jax.jit(lambda a: a @ a)
        jax.block_until_ready((product(a), step(problem, start)))
        features = 1 + columns + columns * (columns + 1) // 2
        work = 4.0 * rows * features * components
        own, other, _ = alternate(
            lambda: our_seconds(step, problem, start),
            lambda: seconds(lambda: jax.block_until_ready(product(a))),
            repeats,
        )
    return work / own / 1e9, 2.0 * 2048**3 / other / 1e9
