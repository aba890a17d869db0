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
    naturals: np.ndarray,
) -> list[tuple[Finding, ...]]:
    """Look at every component of fitted mixtures, R of them stacked along axis 0; what is found, for each.

    Parameters
    ----------
    counts : (R, K) effective rows of each component, n_k. naturals : (R, F, K), η.
    """
    family = problem.family
    collapsed: list[list[Finding]] = [[] for _ in counts]
    if isinstance(family, GaussianFamily) and family.known is None:
        covariances = np.asarray(parameters["covariances"])
        collapsed = _collapsed(family, problem, covariances, counts)
    apart = _apart(problem) if isinstance(problem, IncompleteProblem) else []
    doubled = _doubled(naturals, counts)
    return [
        (*_empty(each), *small, *apart, *twice)
        for each, small, twice in zip(counts, collapsed, doubled, strict=True)
    ]


def _empty(counts: np.ndarray) -> list[Finding]:
    return [
        Finding(
            "EMPTY_COMPONENT",
            f"Component {k} holds {counts[k]:.2g} rows: the data support fewer components. "
            "Lower `components`, or raise `concentration`.",
        )
        for k in np.flatnonzero(counts < 1.0)
    ]


def _collapsed(
    family: GaussianFamily,
    problem: MixtureProblem | IncompleteProblem,
    covariances: np.ndarray,
    counts: np.ndarray,
) -> list[list[Finding]]:
    pooled = np.asarray(problem.hyper.pooled)  # type: ignore[attr-defined]
    floor = float(problem.hyper.floor)  # type: ignore[attr-defined]
    tied = family.covariance == "tied"
    if family.covariance in ("full", "tied"):
        half = np.linalg.inv(np.linalg.cholesky(pooled))
        smallest = np.linalg.eigvalsh(half @ covariances @ half.T)[..., 0]
    elif family.covariance == "diagonal":
        smallest = np.min(covariances / pooled, axis=-1)
    else:
        smallest = covariances / pooled
    smallest = np.broadcast_to(smallest[:, None] if tied else smallest, counts.shape)
    low = (counts < family.columns + 1) & (smallest < NARROW) | ((floor > 0) & (smallest <= floor * 1.01))
    found: list[list[Finding]] = [[] for _ in counts]
    for r, k in np.argwhere(low):
        if tied and found[r]:
            continue
        where = "the tied covariance" if tied else f"component {k}"
        found[r].append(
            Finding(
                "COLLAPSED_COMPONENT",
                f"The covariance of {where} ({counts[r, k]:.3g} rows) shrank to {smallest[r, k]:.1e} of the "
                "data's in one direction, where it is held: the likelihood has no maximum there. "
                "Use objective='map', fewer components, or covariance='tied'.",
            )
        )
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


def _doubled(naturals: np.ndarray, counts: np.ndarray) -> list[list[Finding]]:
    found: list[list[Finding]] = [[] for _ in counts]
    held = counts >= 1.0
    for first in range(counts.shape[1] - 1):
        # Without log π_k: two components of different weight are still one.
        apart = np.max(np.abs(naturals[:, 1:, first + 1 :] - naturals[:, 1:, first, None]), axis=1)
        for r, offset in np.argwhere((apart < SAME) & held[:, first, None] & held[:, first + 1 :]):
            found[r].append(
                Finding(
                    "DUPLICATE_COMPONENT",
                    f"Components {first} and {first + 1 + offset} are the same distribution: "
                    "the data support fewer components, or the start was symmetric. Lower `components`.",
                )
            )
    return found
