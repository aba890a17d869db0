"""Whether chains can be believed: R-hat of what labels cannot change, ESS, divergences, energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from triptych.inference.distances import rhat_and_ess
from triptych.inference.exchangeable import Exchangeable
from triptych.inference.status import Finding, Status

__all__ = ["Diagnosis", "diagnose", "invariants"]

WORST_RHAT = 1.01  # Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Bayesian Analysis 16(2)
LEAST_ESS = 100  # a chain, ibidem, of four: many short chains are judged together
DIVERGENT_SHARE = 0.01  # of the draws, above which the status says so; one is enough for a finding
DEEP_SHARE = 0.05  # of the draws at the largest tree depth
LEAST_BFMI = 0.3  # Betancourt (2016), Diagnosing suboptimal cotangent disintegrations in HMC


class Diagnosis(NamedTuple):
    """What the checks found: the status, the findings, worst R-hat and smallest ESS of invariants."""

    status: Status
    findings: tuple[Finding, ...]
    r_hat: float
    ess: float


def invariants(
    samples: Mapping[str, np.ndarray],
    log_density: np.ndarray,
    log_likelihood: np.ndarray | None,
    groups: Sequence[Exchangeable],
) -> dict[str, np.ndarray]:
    """Give quantities that no relabelling changes, name → (chain, draw, …).

    The log joint density, the log likelihood, sites without labels, and one number a component (the weights)
    sorted. Chains that disagree on these disagree on the posterior, not on names.
    """
    labelled = {site for group in groups for site in group.axes}
    found = {"log density": log_density}
    if log_likelihood is not None:
        found["log likelihood"] = log_likelihood
    for group in groups:
        for site, axes in group.axes.items():
            if samples[site].ndim == 3 and axes == (0,):
                found[f"sorted {site}"] = np.sort(samples[site], axis=-1)
    return found | {site: values for site, values in samples.items() if site not in labelled}


def diagnose(
    invariant: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    statistics: Mapping[str, np.ndarray],
    *,
    max_tree_depth: int | None,
) -> Diagnosis:
    """Check chains, and say what is wrong with its cure.

    Parameters
    ----------
    invariant : from `invariants`.
    samples : site → (chain, draw, …), labels aligned.
    statistics : `diverging`, `tree_depth` and `energy`, (chain, draw), of a Hamiltonian sampler.
    max_tree_depth : of a trajectory; `None` for a sampler without trajectories.
    """
    chains, count = next(iter(samples.values())).shape[:2]
    r_hat, ess = rhat_and_ess(_two_chains(invariant))
    aligned_r_hat, aligned_ess = rhat_and_ess(_two_chains(samples))
    findings: list[Finding] = []
    statuses: list[Status] = []
    if chains == 1:
        text = "One chain cannot show that it has missed a mode: R-hat compares its halves. Use 4 chains."
        findings.append(Finding("ONE_CHAIN", text))
    if not r_hat <= WORST_RHAT:
        statuses.append(Status.NOT_MIXED)
        findings.append(Finding("NOT_MIXED", f"R-hat is {r_hat:.3f}. {Status.NOT_MIXED.value}"))
    elif not aligned_r_hat <= WORST_RHAT:
        text = (
            f"R-hat is {aligned_r_hat:.3f} on a parameter after its labels were aligned, though the chains "
            "agree on everything that labels cannot change: the components overlap, or the draws are few. "
            "Raise `draws`; read single components with care."
        )
        findings.append(Finding("PARAMETERS_NOT_MIXED", text))
    divergent = int(np.sum(statistics.get("diverging", 0)))
    if divergent:
        if divergent > DIVERGENT_SHARE * chains * count:
            statuses.append(Status.DIVERGED)
        text = f"{divergent} of {chains * count} transitions diverged. {Status.DIVERGED.value}"
        findings.append(Finding("DIVERGED", text))
    # Parameters whose labels still move have a low ESS for that reason, which is said above.
    least = float(np.nanmin([ess, aligned_ess])) if aligned_r_hat <= WORST_RHAT else ess
    if not least >= LEAST_ESS * min(chains, 4):
        statuses.append(Status.FEW_DRAWS)
        findings.append(Finding("FEW_DRAWS", f"The smallest ESS is {least:.0f}. {Status.FEW_DRAWS.value}"))
    if max_tree_depth is not None:
        findings += _trajectories(statistics, max_tree_depth)
    return Diagnosis(statuses[0] if statuses else Status.CONVERGED, tuple(findings), r_hat, ess)


def _trajectories(statistics: Mapping[str, np.ndarray], max_tree_depth: int) -> list[Finding]:
    findings = []
    deep = float(np.mean(statistics["tree_depth"] >= max_tree_depth))
    if deep > DEEP_SHARE:
        text = (
            f"{100 * deep:.0f} % of the trajectories were cut at the largest tree depth, {max_tree_depth}: "
            "slow, not wrong. Raise `max_tree_depth`, or rescale the program's parameters."
        )
        findings.append(Finding("TREE_DEPTH", text))
    energy = statistics["energy"]
    if energy.shape[1] > 3:
        change = np.mean(np.diff(energy, axis=1) ** 2, axis=1)
        spread = np.var(energy, axis=1)
        fraction = float(np.min(change / np.where(spread > 0, spread, np.inf), initial=np.inf))
        if np.any(spread > 0) and fraction < LEAST_BFMI:
            text = (
                f"E-BFMI is {fraction:.2f}, below {LEAST_BFMI:g}: the chains explore the tails slowly. "
                "Raise `warmup` and `draws`, or reparameterise the program."
            )
            findings.append(Finding("LOW_ENERGY_FRACTION", text))
    return findings


def _two_chains(samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read one chain as its two halves, so that it has an R-hat."""

    def halves(values: np.ndarray) -> np.ndarray:
        chains, count = values.shape[:2]
        if chains > 1 or count < 8:
            return values
        half = count // 2
        return values[:, : 2 * half].reshape(2, half, *values.shape[2:])

    return {name: halves(np.asarray(values)) for name, values in samples.items()}
