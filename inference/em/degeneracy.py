"""Components that are not what they seem: collapsed, empty or twice the same; each said with its cure."""

from __future__ import annotations

import numpy as np

from triptych.inference.em.family import Parameters
from triptych.inference.em.fold import MixtureProblem
from triptych.inference.em.gaussian import GaussianFamily
from triptych.inference.em.incomplete import IncompleteProblem
from triptych.inference.status import Finding

__all__ = ["findings"]

NARROW = 1e-4  # relative eigenvalue below which a component of few rows counts as collapsed
SAME = 1e-3  # distance, in nats of symmetric Kullback–Leibler divergence, of two components called one


def findings(
    problem: MixtureProblem | IncompleteProblem,
    parameters: Parameters,
    counts: np.ndarray,
    natural: np.ndarray,
) -> tuple[Finding, ...]:
    """Look at every component of a fitted mixture.

    Parameters
    ----------
    counts : (K,) effective rows of each component, n_k. natural : (F, K), η.
    """
    family = problem.family
    found = [
        Finding(
            "EMPTY_COMPONENT",
            f"Component {k} holds {counts[k]:.2g} rows: the data support fewer components. "
            "Lower `components`, or raise `concentration`.",
        )
        for k in np.flatnonzero(counts < 1.0)
    ]
    if isinstance(family, GaussianFamily) and family.known is None:
        found += _collapsed(family, problem, parameters, counts)
    if isinstance(problem, IncompleteProblem):
        found += _apart(problem)
    found += _doubled(natural, counts)
    return tuple(found)


def _collapsed(
    family: GaussianFamily,
    problem: MixtureProblem | IncompleteProblem,
    parameters: Parameters,
    counts: np.ndarray,
) -> list[Finding]:
    pooled = np.asarray(problem.hyper.pooled)  # type: ignore[attr-defined]
    covariances = np.asarray(parameters["covariances"])
    floor = float(problem.hyper.floor)  # type: ignore[attr-defined]
    if family.covariance in ("full", "tied"):
        half = np.linalg.inv(np.linalg.cholesky(pooled))
        smallest = np.linalg.eigvalsh(half @ covariances @ half.T)[..., 0]
    elif family.covariance == "diagonal":
        smallest = np.min(covariances / pooled, axis=-1)
    else:
        smallest = covariances / pooled
    smallest = np.broadcast_to(smallest, counts.shape)
    found = []
    for k, ratio in enumerate(smallest):
        few = counts[k] < family.columns + 1 and ratio < NARROW
        if few or (floor > 0 and ratio <= floor * 1.01):
            where = "the tied covariance" if family.covariance == "tied" else f"component {k}"
            found.append(
                Finding(
                    "COLLAPSED_COMPONENT",
                    f"The covariance of {where} ({counts[k]:.3g} rows) shrank to {ratio:.1e} of the data's "
                    "in one direction, where it is held: the likelihood has no maximum there. "
                    "Use objective='map', fewer components, or covariance='tied'.",
                )
            )
        if family.covariance == "tied" and found:
            break
    return found


def _apart(problem: IncompleteProblem) -> list[Finding]:
    """Columns of which no row has both: the data say nothing of their covariance given the others."""
    seen = np.asarray(problem.observed, float)
    first, second = np.nonzero(np.triu(seen.T @ seen == 0, 1))
    if len(first) == 0:
        return []
    pairs = ", ".join(f"{i} and {j}" for i, j in zip(first[:4].tolist(), second[:4].tolist(), strict=True))
    more = f" and {len(first) - 4} more pairs" if len(first) > 4 else ""
    text = (
        f"No row has a cell in both of the columns {pairs}{more}: their covariance given the other columns "
        "comes from the prior alone, or with objective='mle' from the start."
    )
    return [Finding("NEVER_TOGETHER", text)]


def _doubled(natural: np.ndarray, counts: np.ndarray) -> list[Finding]:
    natural = natural[1:].T  # without log π_k: two components of different weight are still one
    found = []
    for first in range(len(counts)):
        for second in range(first + 1, len(counts)):
            if min(counts[first], counts[second]) < 1.0:
                continue
            difference = np.max(np.abs(natural[first] - natural[second]))
            if difference < SAME:
                found.append(
                    Finding(
                        "DUPLICATE_COMPONENT",
                        f"Components {first} and {second} are the same distribution: "
                        "the data support fewer components, or the start was symmetric. Lower `components`.",
                    )
                )
    return found
