"""Variational inference: any autoguide on the marginal, run until the ELBO has stopped improving."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from triptych.inference.arguments import checked
from triptych.inference.effort import briefly, split
from triptych.inference.fit import Evidence, Fit
from triptych.inference.guide_problem import GAUSSIAN, Problem
from triptych.inference.guides import Resolved, is_point, resolve
from triptych.inference.importance import from_weights
from triptych.inference.labels import align_all
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.posterior import assemble, batch_size, log_likelihood_at, point_estimate
from triptych.inference.precision import matching_precision
from triptych.inference.program import Structure
from triptych.inference.remembered import remembering
from triptych.inference.schedule import Schedule
from triptych.inference.sharing import kept
from triptych.inference.starts import Start, best_of_climbs
from triptych.inference.status import Finding, Status, say
from triptych.inference.symmetry import NO_LABELS, Relabellings, labels_of, relabellings
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["SVI"]

BLOCK = 250  # steps compiled as one loop; between blocks the schedule and the progress bar look
WEIGHTS = 10_000  # ten blocks of the importance-weighted bound of 1000
WORK = 10**7  # numbers observed × weights, above which the guide's own draws have to do
# Guides with one mode in the unconstrained space: their draws cannot switch labels.
UNIMODAL = (*GAUSSIAN, "AutoNormal", "AutoDelta", "AutoLaplaceApproximation")


class Optimised(NamedTuple):
    """What the optimisation leaves: the guide's parameters, averaged over the last block, and the trace."""

    parameters: Mapping[str, Any]
    trace: np.ndarray
    rates: np.ndarray
    status: Status


@dataclasses.dataclass(frozen=True)
class SVI:
    """Maximise ELBO = E_q[log p(x, θ) − log q(θ)] over a guide q, by Adam.

    The search begins at the best of several climbs from the prior (judged by the ELBO of a Gaussian there),
    in coordinates scaled by the posterior's own curvature, so that the units of the data change nothing.
    The learning rate falls at each plateau of the ELBO; the smallest one's plateau ends the run.

    Parameters
    ----------
    model : any NumPyro program; discrete latents are summed out.
    guide : name or class of an autoguide, a function that makes one from a program, an autoguide made on
        `marginal(model)`, or a guide program of your own.
    steps : at most.
    draws : from the guide, kept in the fit.
    learning_rate : of the first stage, in posterior standard deviations a step.
    particles : draws a step that the ELBO's gradient is averaged over.
    tol : nats a parameter; a window that gains less is a plateau.
    guide_options : keyword arguments of the autoguide, such as `rank`.

    Raises
    ------
    InputError : a setting out of range, an unknown guide (they are listed).
    """

    model: Callable[..., Any]
    guide: Any = "AutoMultivariateNormal"
    steps: int = 20_000
    draws: int = 1000
    learning_rate: float = 0.02
    particles: int = 8
    tol: float = 0.003
    guide_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "draws", "particles"):
            whole_number(name, getattr(self, name))
        for name in ("learning_rate", "tol"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and np.isfinite(value) and value > 0):
                raise InputError(f"`{name}` is {value!r}: give a number above 0.")
        if isinstance(self.guide, str):
            resolve(self.guide, lambda: None, None, self.guide_options)

    def run(
        self,
        key: jax.Array,
        *args: Any,
        progress: Callable[[int, int, float], None] | None = None,
        **kwargs: Any,
    ) -> Fit:
        """Fit the guide and draw from it.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.
        progress : called after each block with (steps done, steps at most, its mean ELBO).

        Raises
        ------
        InputError : data that the model refuses, a program that cannot be traced.
        """
        args, kwargs = checked(self.model, args, kwargs)
        m = marginal(self.model)
        precision = matching_precision(args, kwargs)
        with stopwatch() as watch, precision, remembering(m, args, kwargs) as (args, kwargs):
            key_start, key_run, key_draws = split(key, 3)
            start = best_of_climbs(key_start, m, args, kwargs)
            problem = Problem.make(self, m, start, args, kwargs)
            optimised = optimise(self, problem, key_run, progress)
            structure = m.structure(*args, **kwargs)
            labels = _labels(problem, m, args, kwargs)
            number = max(self.draws, weights_wanted(structure))
            samples, statistics = problem.draw(
                key_draws,
                optimised.parameters,
                keep=self.draws,
                count=number,
                labels=labels,
                batch=batch_size(structure),
            )
            weights, symmetry = statistics.get("log_weight"), labels.separate
            statistics = {name: value[:, : self.draws] for name, value in statistics.items()}
            findings: list[Finding] = []
            if problem.resolved.name not in UNIMODAL:
                samples, findings, symmetry = _aligned(m, samples, start, args, kwargs)
                weights = None if weights is None else weights + symmetry
                statistics |= {n: v + symmetry for n, v in statistics.items() if n == "log_weight"}
            estimate = point_estimate(samples, {site: p.support for site, p in structure.parameters.items()})
            tree, more = assemble(m, samples, args, kwargs, sample_stats=statistics)
            total = log_likelihood_at(m, estimate, args, kwargs)
        tree["optimization"] = xr.DataTree(
            xr.Dataset({"elbo": ("step", optimised.trace), "learning_rate": ("step", optimised.rates)})
        )
        if not optimised.status.ok:
            findings.append(Finding(optimised.status.name, optimised.status.value))
        return Fit(
            method="svi",
            model=self.model,
            status=optimised.status,
            seconds=watch.seconds,
            parameters=estimate,
            log_likelihood=total,
            objective=optimised.trace,
            data=tree,
            evidence=_evidence(problem.resolved, weights, symmetry),
            findings=tuple(say(finding) for finding in (*findings, *more)),
            settings=self._settings(problem.resolved),
        )

    def _settings(self, resolved: Resolved) -> dict[str, Any]:
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del settings["model"]
        return settings | {"guide": resolved.name, "guide_options": dict(self.guide_options)}


def block_length(steps: int) -> int:
    """Say how many steps are compiled as one loop."""
    return max(1, min(BLOCK, steps // 16))


def optimise(
    settings: SVI,
    problem: Problem,
    key: jax.Array,
    progress: Callable[[int, int, float], None] | None,
    block: Callable[[Any, Any], Any] | None = None,
) -> Optimised:
    """Run blocks of steps until the schedule is done, the steps are, or nothing finite is left.

    `block` is `run_block` of `block_length(steps)` steps, where it is compiled already: (state, rate) → …
    """
    svi = problem.svi
    state = problem.begin(key)
    length = block_length(settings.steps)
    blocks = max(1, settings.steps // length)
    work = problem.start.posterior.numbers * settings.particles * settings.steps
    take = _blocks(problem, length, work) if block is None else block
    size = problem.start.space.size
    schedule = Schedule(settings.learning_rate, settings.tol * max(size, 1), blocks * length)
    trace: list[np.ndarray] = []
    rates: list[float] = []
    average, status = None, Status.STEP_LIMIT
    for done in range(1, blocks + 1):
        rate = schedule.current
        state, mean, elbo = take(state, np.asarray(rate, jnp.result_type(float)))
        elbo = np.asarray(elbo)
        trace.append(elbo)
        rates += [rate] * length
        if np.mean(np.isfinite(elbo)) < 0.5 or not _finite(mean):
            status = Status.NON_FINITE
            average = mean if average is None else average
            break
        average = mean
        if progress is not None:
            progress(done * length, blocks * length, float(np.nanmean(elbo)))
        if schedule.update(np.concatenate(trace)):
            status = Status.STEP_LIMIT if schedule.cut else Status.CONVERGED
            break
    # One program rather than one for each operation; but NumPyro's function is a new one for each `init`, so
    # where a block serves many data sets the operations, compiled once for all, are the fewer.
    constrain = svi.constrain_fn
    if block is None:
        constrain = kept(("constrain", constrain), lambda: briefly(svi.constrain_fn, 0))
    # NumPy's, which NumPyro checks by NumPy: of JAX's it would compile each step of the check.
    parameters = jax.tree.map(np.asarray, constrain(average))
    return Optimised(parameters, np.concatenate(trace), np.asarray(rates), status)


def _blocks(problem: Problem, length: int, work: float) -> Callable[[Any, Any], Any]:
    """Compile `length` steps, (state, rate) → …; a guide that serves every run of the program, once."""
    svi, (args, kwargs) = problem.svi, problem.call

    def steps(args: Sequence[Any], state: Any, rate: Any) -> Any:
        return run_block(svi, args, kwargs, state, rate, length)

    if problem.resolved.own:  # what the user's program is called with need not be arrays
        return briefly(partial(steps, args), work)
    make = partial(briefly, steps, work)
    return partial(make() if problem.shaped is None else kept(("steps", svi, length), make), args)


def run_block(
    svi: Any, args: Sequence[Any], kwargs: Mapping[str, Any], state: Any, rate: Any, length: int
) -> tuple[Any, Any, jax.Array]:
    """Take `length` steps: the new state, the mean of the guide's unconstrained parameters, each ELBO.

    A step whose loss is not finite is not taken. Averaging the iterates removes the noise of the last steps
    (Polyak & Juditsky 1992; for variational inference, Dhaka et al. 2020).
    """
    count, (parameters, inner) = state.optim_state
    inner = inner._replace(hyperparams={**inner.hyperparams, "learning_rate": rate})
    state = state._replace(optim_state=(count, (parameters, inner)))

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        state, total = carry
        state, loss = svi.stable_update(state, *args, **kwargs)
        total = jax.tree.map(jnp.add, total, svi.optim.get_params(state.optim_state))
        return (state, total), -loss

    zeros = jax.tree.map(jnp.zeros_like, svi.optim.get_params(state.optim_state))
    (state, total), elbo = jax.lax.scan(step, (state, zeros), None, length=length)
    return state, jax.tree.map(lambda value: value / length, total), elbo


def _finite(tree: Any) -> bool:
    return all(bool(np.all(np.isfinite(np.asarray(leaf)))) for leaf in jax.tree.leaves(tree))


def weights_wanted(structure: Structure) -> int:
    """Say how many importance weights to draw: enough for the bound of 1000, fewer where rows are many."""
    numbers = sum(int(np.prod(shape)) for shape in structure.observed.values())
    return int(min(WEIGHTS, WORK // max(numbers, 1)))


def _labels(problem: Problem, m: Marginal, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Relabellings:
    """Find the labels that a guide with one mode has to be exchanged over."""
    if problem.resolved.name not in UNIMODAL or problem.resolved.own or is_point(problem.resolved.guide):
        return NO_LABELS
    return labels_of(m, problem.start.parameters, args, kwargs)


def _aligned(
    m: Marginal,
    samples: Mapping[str, np.ndarray],
    start: Start,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], list[Finding], float]:
    """Align draws that may have switched labels; also log K! where none had: the guide holds one mode."""
    draws = {site: value[0] for site, value in samples.items()}
    flat, groups = align_all(m, draws, start.parameters, *args, **kwargs)
    findings = [
        Finding("LABELS_AMBIGUOUS", f"The labels of {group.latent} could as well be others in many draws.")
        for group, found in groups
        if found.ambiguous
    ]
    one_mode = [group for group, found in groups if found.relabelled == 0 and not found.ambiguous]
    return {site: value[None] for site, value in flat.items()}, findings, relabellings(one_mode).log_count


def _evidence(resolved: Resolved, weights: np.ndarray | None, symmetry: float) -> Evidence:
    if weights is None:
        return Evidence(method=f"{resolved.name} is a point: its objective bounds nothing")
    return from_weights(weights, resolved.name, symmetry=symmetry)
