"""Whether a classifier can tell two sets of draws apart: one joint figure for all parameters at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["TwoSample", "accuracy", "r_star", "reference_floor", "thinned"]

DRAWS = 500  # of each set; a classifier's accuracy is then known to about 0.02
FOLDS = 4
TREES = 60
DEPTH = 8
LEAST = 20  # draws of each


class TwoSample(NamedTuple):
    """Cross-validated accuracy (0.5: cannot be told apart; 1: always) of draws against the reference's.

    `r_star` = 2 · accuracy (Lambert & Vehtari 2022, Bayesian Analysis 17, 353–379: 1 means the same
    distribution). `floor` is the accuracy between two halves of the reference, its own noise.
    """

    accuracy: float
    floor: float

    @property
    def r_star(self) -> float:
        """Twice the accuracy."""
        return 2 * self.accuracy


def accuracy(first: np.ndarray, second: np.ndarray) -> float:
    """Cross-validate a random forest that tells draws (n, p) from draws (m, p); NaN where they are few.

    Each set is cut to the size of the other, so that guessing gives 0.5. Consecutive draws stay in one fold:
    neighbours of a chain resemble each other, and one of them must not give away the other.
    """
    from sklearn.ensemble import RandomForestClassifier

    count = min(len(first), len(second), DRAWS)
    if count < LEAST:
        return float("nan")
    first, second = thinned(first, count), thinned(second, count)
    both = np.concatenate([first, second])
    moving = np.ptp(both, axis=0) > 0
    if not np.any(moving):
        return 0.5
    rows, labels = both[:, moving], np.repeat([0, 1], count)
    fold = np.tile(np.arange(count) * FOLDS // count, 2)
    right = 0
    for left_out in range(FOLDS):
        # Building a tree frees Python's lock in part: two threads took two thirds of the time of one.
        forest = RandomForestClassifier(TREES, max_depth=DEPTH, random_state=0, n_jobs=2)
        forest.fit(rows[fold != left_out], labels[fold != left_out])
        right += np.sum(forest.predict(rows[fold == left_out]) == labels[fold == left_out])
    return float(right / len(rows))


def r_star(draws: np.ndarray, reference: np.ndarray, floor: float | None = None) -> TwoSample:
    """Measure draws against those of the reference, (chain, draw, p) each, elements in the same order.

    Parameters
    ----------
    floor : of the reference, where it is known; else it is had here.
    """
    size = draws.shape[-1]
    floor = reference_floor(reference) if floor is None else floor
    return TwoSample(accuracy(draws.reshape(-1, size), reference.reshape(-1, size)), floor)


def reference_floor(reference: np.ndarray) -> float:
    """Give the accuracy between two halves of the reference: its chains halved, or a single chain's draws."""
    chains, count, size = reference.shape
    if chains > 1:
        parts = reference[: chains // 2], reference[chains - chains // 2 :]
    else:
        parts = reference[:, : count // 2], reference[:, count - count // 2 :]
    return accuracy(*(part.reshape(-1, size) for part in parts))


def thinned(draws: np.ndarray, count: int) -> np.ndarray:
    """Take `count` evenly spaced rows."""
    return draws[np.linspace(0, len(draws) - 1, count).round().astype(int)]
