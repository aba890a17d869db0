"""From chains to the `Fit` that is kept: labels aligned, evidence, diagnosis; one way for every sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from triptych.inference.diagnostics import diagnose, invariants
from triptych.inference.effort import cells
from triptych.inference.evidence import of_chains, walk
from triptych.inference.fit import Fit
from triptych.inference.labels import align_all
from triptych.inference.marginal import Marginal
from triptych.inference.posterior import assemble, batch_size, log_likelihood_at, point_estimate
from triptych.inference.status import Finding, say
from triptych.inference.timing import Stopwatch
from triptych.inference.unconstrained import Coordinates

__all__ = ["Chains", "block_length", "fit_of_chains"]

BLOCK = 50  # transitions compiled as one loop; the progress bar looks between blocks


@dataclasses.dataclass(frozen=True)
class Chains:
    """Draws as a sampler leaves them.

    Attributes
    ----------
    samples : site → (chain, draw, …).
    u : (chain, draw, p), the same in the unconstrained space.
    statistics : name → (chain, draw); `lp` is log p(x, θ) in nats, without a Jacobian, so that no relabelling
        changes it.
    space, density : the change of variables, and the log density of one u, nats.
    """

    samples: Mapping[str, np.ndarray]
    u: np.ndarray
    statistics: Mapping[str, np.ndarray]
    space: Coordinates
    density: Callable[[Any], jax.Array]


def fit_of_chains(
    key: jax.Array,
    method: Any,
    m: Marginal,
    chains: Chains,
    pivot: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    watch: Stopwatch,
    *,
    max_tree_depth: int | None = None,
) -> Fit:
    """Align the labels of chains, estimate log p(x) by a bridge, judge convergence, and build the fit.

    Parameters
    ----------
    key : random key, of the bridge's proposals.
    method : the frozen settings of the sampler, with `model` and the class variable `method`.
    m : the marginal of the program.
    chains : what the sampler left.
    pivot : site → value whose labels the draws take.
    max_tree_depth : of a trajectory, for a sampler that has them.
    """
    statistics = dict(chains.statistics)
    shape = statistics["lp"].shape
    flat = {site: values.reshape(-1, *values.shape[2:]) for site, values in chains.samples.items()}
    flat, groups = align_all(m, flat, pivot, *args, **kwargs)
    samples = {site: values.reshape(*shape, *values.shape[1:]) for site, values in flat.items()}
    structure = m.structure(*args, **kwargs)
    estimate = point_estimate(samples, {site: p.support for site, p in structure.parameters.items()})
    tree, findings = assemble(m, samples, args, kwargs, sample_stats=statistics)
    total = log_likelihood_at(m, estimate, args, kwargs)
    walked = walk(chains.space, chains.density, chains.u, statistics["lp"], samples, groups)
    evidence, doubts = of_chains(key, walked, batch_size(structure), cells(args, kwargs))
    rows: np.ndarray | None = None
    if "log_likelihood" in tree.children:
        units = tree["log_likelihood"].data_vars.values()
        rows = np.sum([unit.values.reshape(*unit.shape[:2], -1).sum(axis=-1) for unit in units], axis=0)
    invariant = invariants(samples, statistics["lp"], rows, [group for group, _ in groups])
    for group, found in groups:
        if found.together is not None:
            invariant[f"co-clustering of {group.latent}"] = found.together.reshape(shape)
    diagnosis = diagnose(invariant, samples, statistics, max_tree_depth=max_tree_depth)
    for group, found in groups:
        if found.ambiguous:
            text = (
                f"The labels of {group.latent} could as well be others in {found.close:.0%} of the "
                "draws (a second assignment within 1 nat): read its components' rows with care."
            )
            findings += (Finding("LABELS_AMBIGUOUS", text),)
    settings = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    del settings["model"]
    return Fit(
        method=method.method,
        model=method.model,
        status=diagnosis.status,
        seconds=watch.seconds,
        parameters=estimate,
        log_likelihood=total,
        objective=np.zeros(0),
        data=tree,
        evidence=evidence,
        findings=tuple(say(finding) for finding in (*diagnosis.findings, *findings, *doubts)),
        settings=settings,
    )


def block_length(warmup: int, draws: int) -> int:
    """Give the longest block, at most `BLOCK`, that both the warm-up and the draws are a multiple of."""
    return max(n for n in range(1, BLOCK + 1) if warmup % n == 0 and draws % n == 0)
