"""Whole EM fits, to the same optimum, against scikit-learn and StepMix."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from harness import Rounds, Row, alternate, seconds, size_of
from mixtures import Case, gaussian_case, scikit

import triptych

GROUP = "EM, whole fits"
LADDER = tuple(10.0**-power for power in range(2, 15))  # tolerances tried on a peer, gain a row a step
OURS = tuple(10.0**-power for power in range(3, 9))  # tolerances tried on ours, nats still to come
CLOSER = tuple(10.0**-power for power in range(6, 11))
CLOSE = 1e-3  # nats, of all rows together: how far from the optimum either side may stop


def loosest(
    fit: Callable[[float], float], optimum: float, close: float, ladder: Sequence[float] = LADDER
) -> tuple[float, float]:
    """Give the loosest tolerance at which a side ends within `close` nats of the optimum, and its gap.

    A peer's rule looks at the gain of one step, so that it stops further away the slower EM is; ours guesses
    what is still to come. The same closeness is had by measuring, not by giving both the same number.
    """
    gap = np.inf
    for tol in ladder:
        gap = optimum - fit(tol)
        if gap < close:
            return tol, gap
    return ladder[-1], gap


def overlapping(rows: int, columns: int, components: int, covariance: str) -> Case:
    """Draw rows whose groups overlap, so that EM takes its time, and a start around the centres."""
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(components, columns))
    x = centres[generator.integers(components, size=rows)] + generator.normal(size=(rows, columns))
    shapes = gaussian_case(2, columns, components, np.float64, covariance).parameters["covariances"]
    start = {
        "weights": np.full(components, 1.0 / components),
        "means": centres + 0.5 * generator.normal(size=centres.shape),
        "covariances": shapes,
    }
    return Case(x, start)


def same_optimum(size: tuple[int, int, int], covariance: str, rounds: Rounds) -> list[Row]:
    """Compare a fit from one start to within `CLOSE` nats of the optimum, warm, accelerated as by default."""
    rows, columns, components = size
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = overlapping(rows, columns, components, covariance)
        model = triptych.GaussianMixture(components, covariance=covariance)

        def ours(tol: float) -> Any:
            em = triptych.EM(model, objective="mle", draws=0, tol=tol)
            return em.run(jax.random.key(0), case.x, parameters=case.parameters)

        whole = scikit(case, covariance, 3000, 1e-13)
        bounds = rows * np.asarray(whole.lower_bounds_)
        optimum = max(float(ours(1e-9).log_likelihood), float(bounds[-1]))
        our_tol, our_gap = loosest(lambda tol: float(ours(tol).log_likelihood), optimum, CLOSE, OURS)
        mine = ours(our_tol)
        near = np.flatnonzero(optimum - bounds < CLOSE)
        # A bound belongs to the parameters before its step, which it therefore takes one less of.
        steps = int(near[0]) if len(near) else len(bounds)
        gap = optimum - rows * float(scikit(case, covariance, steps).score(case.x))
        own, other, ratios = alternate(
            lambda: seconds(lambda: ours(our_tol)),
            lambda: seconds(lambda: scikit(case, covariance, steps)),
            rounds,
        )
    said = (
        f"same start, same optimum: ours ends {our_gap:.0e} nats below it, by its own rule (tol "
        f"{our_tol:g}), in {len(mine.objective)} steps; theirs, told to stop as soon as it is "
        f"within {CLOSE:g}, {gap:.0e} below it in {steps}"
    )
    name = f"{covariance} {size_of(*size)} to the optimum"
    return [Row(GROUP, name, "scikit-learn", 1e3 * own, 1e3 * other, ratios, "ms", said, None, "float64")]


def restarts(x: np.ndarray, close: float | None, target: float | None, rounds: Rounds) -> list[Row]:
    """Compare 100 restarts on Old Faithful, warm, with scikit-learn's n_init=100.

    With `close` both sides go on until their answer is within so many nats of the optimum; without, both stop
    at scikit-learn's default, a gain below 1e-3 nats a row.
    """
    from sklearn.mixture import GaussianMixture

    def ours(tol: float) -> Any:
        em = triptych.EM(
            triptych.GaussianMixture(2),
            objective="mle",
            restarts=100,
            draws=0,
            starts="k-means++",
            tol=tol,
        )
        return em.run(jax.random.key(0), x)

    def theirs(tol: float) -> Any:
        model = GaussianMixture(
            2, n_init=100, init_params="k-means++", random_state=0, tol=tol, max_iter=1000
        )
        return model.fit(x)

    def height(tol: float) -> float:
        return len(x) * float(theirs(tol).score(x))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimum = max(float(ours(1e-10).log_likelihood), height(1e-14))
        if close is None:
            our_tol, their_tol = 1e-3 * len(x), 1e-3
            gap = optimum - height(their_tol)
        else:
            our_tol, _ = loosest(lambda tol: float(ours(tol).log_likelihood), optimum, close, CLOSER)
            their_tol, gap = loosest(height, optimum, close)
        fit, peer = ours(our_tol), theirs(their_tol)
        own, other, ratios = alternate(
            lambda: seconds(lambda: ours(our_tol)), lambda: seconds(lambda: theirs(their_tol)), rounds
        )
    short = max(optimum - fit.log_likelihood, 0.0)
    rule = (
        "both stop at a gain of 1e-3 nats a row, its default"
        if close is None
        else f"tol {our_tol:.0e} and {their_tol:.0e}, by measuring"
    )
    steps = np.asarray(fit.data["restarts"]["steps"]).mean()
    said = (
        f"same optimum: ours ends {short:.0e} nats below it, theirs {max(gap, 0.0):.0e}; {rule}; 100 starts "
        f"each; ours: {steps:.1f} steps on average; theirs: {peer.n_iter_} of the best"
    )
    what = "by scikit-learn's loose rule" if close is None else f"to {close:g} nats of the optimum"
    name = f"Old Faithful, 100 restarts, warm, {what}"
    return [Row(GROUP, name, "scikit-learn", 1e3 * own, 1e3 * other, ratios, "ms", said, target, "float64")]


def fewest(height: Callable[[int], float], goal: float, most: int) -> int:
    """Give the fewest steps, at most `most`, after which a fit that never falls has reached the goal."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if height(middle) >= goal else (middle, high)
    return high


def digits_to_optimum(x: np.ndarray, components: int, rounds: Rounds) -> list[Row]:
    """Compare a Bernoulli mixture of binarised digits, from StepMix's random start to its optimum.

    StepMix takes no start. Ours begins from what its first two steps made of its own, so that both climb the
    same hill.
    """
    from stepmix.stepmix import StepMix

    def theirs(steps: int, tol: float = 0.0) -> Any:
        return StepMix(
            components,
            measurement="binary",
            max_iter=steps,
            abs_tol=tol,
            rel_tol=0,
            random_state=0,
            progress_bar=0,
        ).fit(x)

    rows = len(x)
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = theirs(2).get_parameters()
        start = {"weights": np.asarray(found["weights"]), "probs": np.asarray(found["measurement"]["pis"])}

        def ours(tol: float) -> Any:
            em = triptych.EM(triptych.BernoulliMixture(components), objective="mle", draws=0, tol=tol)
            return em.run(jax.random.key(0), x, parameters=start)

        def height(steps: int, tol: float = 0.0) -> float:
            return rows * float(theirs(steps, tol).score(x))

        optimum = max(float(ours(1e-9).log_likelihood), height(3000, 1e-13))
        our_tol, our_gap = loosest(lambda tol: float(ours(tol).log_likelihood), optimum, CLOSE, OURS)
        mine = ours(our_tol)
        steps = fewest(height, optimum - CLOSE, 3000)
        gap = optimum - height(steps)
        own, other, ratios = alternate(
            lambda: seconds(lambda: ours(our_tol)), lambda: seconds(lambda: theirs(steps)), rounds
        )
    said = (
        f"ours ends {our_gap:.0e} nats below the highest optimum found, by its own rule (tol {our_tol:g}), "
        f"in {len(mine.objective)} steps; theirs, told to stop as soon as it is within {CLOSE:g}, "
        f"{gap:.0e} in {steps}"
    )
    name = f"Bernoulli, digits {size_of(*x.shape, components)} to the optimum"
    return [Row(GROUP, name, "StepMix", 1e3 * own, 1e3 * other, ratios, "ms", said, None, "float64")]
