"""The log evidence from chains: bridge sampling, and importance sampling beside it as a second opinion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from triptych.inference import importance
from triptych.inference.batches import BATCH, in_batches
from triptych.inference.bridge import Bridge, Student, bridge, fit_student, halves
from triptych.inference.em.starts import generator
from triptych.inference.exchangeable import Exchangeable
from triptych.inference.fit import Evidence, Route
from triptych.inference.labels import Aligned
from triptych.inference.status import Finding
from triptych.inference.symmetry import Relabellings, relabellings
from triptych.inference.unconstrained import Coordinates

__all__ = ["Walked", "of_chains", "walk"]

LEAST_DRAWS = 5  # a coordinate and half, to fit a covariance to
MOST_PROPOSALS = 2000  # of each half; the error of a bridge is soon that of the chains
BEYOND = 4.0  # standard errors between two routes that chance does not explain
SMALL = 1e-3  # nats that are not worth a sentence, whatever the errors


@dataclasses.dataclass(frozen=True)
class Walked:
    """Chains in the unconstrained space, labels aligned.

    Attributes
    ----------
    space : the change of variables.
    u : (chain, draw, p).
    log_density : of u, nats: log p(x, θ) + log |∂θ/∂u|, (chain, draw).
    density : the same as a function of one u (p,).
    labels : the relabellings that leave p(x, θ) as it is.
    separate : whether copies of the mode under other labels can be told apart in the draws.
    """

    space: Coordinates
    u: np.ndarray
    log_density: np.ndarray
    density: Callable[[Any], jax.Array]
    labels: Relabellings
    separate: bool = True


def walk(
    space: Coordinates,
    density: Callable[[Any], jax.Array],
    u: np.ndarray,
    log_joint: np.ndarray,
    samples: Mapping[str, np.ndarray],
    groups: Sequence[tuple[Exchangeable, Aligned]],
) -> Walked:
    """Put chains into the unconstrained space as they are after alignment.

    Parameters
    ----------
    space : the change of variables.
    density : log density of u, nats.
    u : (chain, draw, p), as drawn.
    log_joint : log p(x, θ), which no relabelling changes, (chain, draw).
    samples : site → (chain, draw, …), labels aligned.
    groups : the exchangeable labels and how they were aligned.
    """
    moved = any(found.relabelled > 0 for _, found in groups)
    flat = u.reshape(-1, u.shape[-1])
    if moved:
        flat = in_batches(
            space.unconstrain, {s: samples[s].reshape(-1, *samples[s].shape[2:]) for s in space.sites}
        )
    jacobian = in_batches(space.log_jacobian, flat).reshape(log_joint.shape)
    labels = relabellings([group for group, _ in groups])
    separate = not any(found.ambiguous for _, found in groups)
    aligned = np.asarray(flat, float).reshape(u.shape)
    return Walked(space, aligned, np.asarray(log_joint + jacobian, float), density, labels, separate)


def of_chains(
    key: jax.Array, walked: Walked, batch: int = BATCH, numbers: int = 0
) -> tuple[Evidence, tuple[Finding, ...]]:
    """Estimate log p(x) from chains by bridge sampling, crosswise between the halves of their draws.

    A Student t fitted to one half meets the draws of the other half; the two estimates are averaged, and
    their difference is a check. Where labels may be exchanged the proposal is symmetrised over them
    (`symmetry.py`), so the number is the evidence of the whole posterior, all K! copies of a mode counted.
    Modes that no chain visited do not count.

    Parameters
    ----------
    key : random key, of the proposals.
    walked : the chains.
    batch : densities computed at a time.
    numbers : how many a density reads.

    Returns
    -------
    The evidence with both routes, and what is doubtful about it.
    """
    chains, count, size = walked.u.shape
    if chains * (count // 2) < LEAST_DRAWS * size:
        needed = 2 * LEAST_DRAWS * size
        text = f"no bridge: {size} coordinates need {needed} draws, there are {chains * count}"
        return Evidence(method=text), ()
    first, second = halves(walked.u)
    try:
        students = [fit_student(half.reshape(-1, size)) for half in (second, first)]
    except np.linalg.LinAlgError:
        return Evidence(method="no bridge: the draws do not span the space of the parameters"), ()
    number = min(chains * count // 2, MOST_PROPOSALS)
    random = generator(key)
    proposals = np.stack([student.sample(random, number) for student in students])
    densities = in_batches(walked.density, proposals.reshape(-1, size), batch, numbers=numbers)
    densities = np.where(np.isnan(densities), -np.inf, densities).reshape(2, number)
    tables = _log_proposals(walked, students, [first, second], proposals)
    ratios = [
        (half - below, densities[i] - beside)
        for i, (half, (below, beside)) in enumerate(zip(halves(walked.log_density), tables, strict=True))
    ]
    bridges = [bridge(draws, other) for draws, other in ratios]
    weights = np.concatenate([other for _, other in ratios])
    return _judge(bridges, weights, walked, len(students[0].location))


def _log_proposals(
    walked: Walked, students: list[Student], parts: list[np.ndarray], proposals: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Give log g of each half's draws (chain, draw) and of its proposals (n,), labels exchanged."""
    tables = []
    for student, part, others in zip(students, parts, proposals, strict=True):
        points = np.concatenate([part.reshape(-1, part.shape[-1]), others])
        values = walked.labels.exchanged_at(walked.space, student.log_density, points)
        tables.append((values[: -len(others)].reshape(part.shape[:2]), values[-len(others) :]))
    return tables


def _counted(labels: Relabellings) -> str:
    """Say how many labellings the evidence counts, where there are several."""
    copies = round(float(np.exp(labels.log_count)))
    return f", all {copies} labellings counted" if copies > 1 else ""


def _judge(
    bridges: list[Bridge], weights: np.ndarray, walked: Walked, size: int
) -> tuple[Evidence, tuple[Finding, ...]]:
    nats = float(np.mean([found.nats for found in bridges]))
    errors = [found.standard_error for found in bridges]
    together = float(np.hypot(errors[0], errors[1]))
    error = together / 2
    if not np.isfinite(nats):
        return Evidence(method="no bridge: the densities are not finite"), ()
    other = importance.evidence(weights)
    other = other._replace(how=f"importance sampling from a Student t in {size} coordinates")
    findings = []
    gap, chance = abs(bridges[0].nats - bridges[1].nats), BEYOND * together + SMALL
    if gap > chance or not all(found.converged for found in bridges):
        text = (
            f"The log evidence is {bridges[0].nats:.2f} by one half of the draws and {bridges[1].nats:.2f} "
            f"by the other, more than their errors apart ({errors[0]:.2g} and {errors[1]:.2g}): the chains "
            "have not seen the same posterior. Raise `warmup` and `draws`."
        )
        findings.append(Finding("EVIDENCE_DOUBTFUL", text))
    usable = other.k_hat is None or other.k_hat <= importance.LARGEST_KHAT
    distance = abs(other.nats - nats)
    if usable and distance > BEYOND * float(np.hypot(error, other.standard_error or 0.0)) + SMALL:
        text = (
            f"The log evidence is {nats:.2f} ± {error:.2g} by bridge sampling and {other.nats:.2f} ± "
            f"{other.standard_error or 0.0:.2g} by importance sampling from a Student t around the draws: "
            "one of them has missed a part of the posterior. Raise `draws`, and look for other modes."
        )
        findings.append(Finding("EVIDENCE_DOUBTFUL", text))
    if walked.labels.separate and not walked.separate:
        text = (
            f"log p(x) counts {walked.labels.separate:.2f} nats for copies of the mode under other labels "
            "as if they were separate, but the labels of many draws could as well be others: it may be that "
            "much too high."
        )
        findings.append(Finding("EVIDENCE_LABELS", text))
    evidence = Evidence(
        log_evidence=nats,
        standard_error=error,
        method=f"bridge sampling{_counted(walked.labels)}",
        routes=(Route("bridge sampling", nats, error), other),
        symmetry=walked.labels.separate,
    )
    return evidence, tuple(findings)
