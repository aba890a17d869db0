"""When an ELBO has stopped improving: windows compared within the noise that they show themselves."""

from __future__ import annotations

import dataclasses

import numpy as np

__all__ = ["Schedule", "gain", "standard_error"]


def standard_error(trace: np.ndarray) -> float:
    """Give the standard error of a trace's mean, by the means of about √n batches.

    Batches longer than the trace's memory have nearly independent means, so their spread shows the noise
    with its autocorrelation (Flegal, Haran & Jones 2008, Markov chain Monte Carlo: can we trust the third
    significant figure?).
    """
    count = int(np.sqrt(len(trace)))
    if count < 2:
        return float("inf")
    size = len(trace) // count
    means = trace[len(trace) - count * size :].reshape(count, size).mean(axis=1)
    return float(np.std(means, ddof=1) / np.sqrt(count))


def gain(trace: np.ndarray) -> tuple[float, float]:
    """Give the rise between a trace's last two thirds, mean against mean, and its standard error (nats).

    The first third is left out: it holds the fall or climb after a change of the learning rate.
    """
    window = len(trace) // 3
    if window < 2:
        return float("inf"), float("inf")
    before, after = trace[-2 * window : -window], trace[-window:]
    error = float(np.hypot(standard_error(before), standard_error(after)))
    return float(np.mean(after) - np.mean(before)), error


@dataclasses.dataclass
class Schedule:
    """Learning rates that fall at each plateau of the ELBO, until the smallest has reached one too.

    A stage ends when what its last window gained is surely small (gain + 2 standard errors < tolerance), or
    cannot be told from noise after half of the steps that were left when it began. A stage that is cut
    while it is still gaining is remembered: `cut`.

    Attributes
    ----------
    rate : of the first stage; each next is `decay` times the one before.
    stages : how many.
    tolerance : nats.
    least : steps that a stage has at least.
    """

    rate: float
    tolerance: float
    steps: int
    stages: int = 4
    decay: float = 0.3
    least: int = 1000
    stage: int = 0
    begun: int = 0
    cut: bool = False

    @property
    def current(self) -> float:
        """The learning rate now."""
        return self.rate * self.decay**self.stage

    def update(self, trace: np.ndarray) -> bool:
        """Look at the trace so far; go to the next stage if this one is done; say whether to stop."""
        here = trace[self.begun :]
        left = self.steps - self.begun
        last = self.stage == self.stages - 1
        limit = left if last else left // 2
        # The least a stage must have shrinks with the budget, so that few steps still have every stage.
        if len(here) < min(self.least, left // (2 * (self.stages - self.stage))):
            return False
        rise, error = gain(here)
        if not rise + 2 * error < self.tolerance:
            if len(here) < limit:
                return False
            self.cut |= bool(rise > 2 * error and rise > self.tolerance)
        if last:
            return True
        self.stage, self.begun = self.stage + 1, len(trace)
        return False
