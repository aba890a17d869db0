"""The bootstrap of EM: the optimum found again on data drawn again, all replicates in one compiled run.

Nonparametric: rows drawn with replacement, as counts c_n that each row's log-likelihood is multiplied by.
Parametric: data drawn from p(x | θ̂). Every climb starts at θ̂, so that what is spread out is one optimum and
not the search for it (Efron & Tibshirani 1993, chapter 6; McLachlan & Peel 2000, section 2.16).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from triptych.inference.arguments import checked
from triptych.inference.em.derived import DerivedKernel
from triptych.inference.em.replicates import climb_each
from triptych.inference.em.starts import generator
from triptych.inference.em.uncertainty import dataset
from triptych.inference.fit import Seconds
from triptych.inference.labels import align_all
from triptych.inference.marginal import marginal
from triptych.inference.precision import double_precision
from triptych.inference.replicate import Replicator
from triptych.inference.status import Finding, say
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM
    from triptych.inference.fit import Fit

__all__ = ["Bootstrap", "bootstrap", "with_bootstrap"]

KINDS = ("nonparametric", "parametric")
FEW_ARRIVED = 0.9  # share of the climbs that must converge for the errors to be believed


class Bootstrap(NamedTuple):
    """Where EM's optimum goes when the data are drawn again.

    Attributes
    ----------
    kind : "nonparametric" or "parametric".
    draws : site → (B, …), the optima that converged, labels aligned to the fit's.
    standard_errors : site → array, their standard deviations.
    lower, upper : site → array, percentiles 2.5 and 97.5.
    arrived : share of the climbs that converged; the others are left out.
    ambiguous : share of the optima whose labels could as well be others (a second assignment within 1 nat).
    findings : what a reader must know.
    """

    kind: str
    draws: dict[str, np.ndarray]
    standard_errors: dict[str, np.ndarray]
    lower: dict[str, np.ndarray]
    upper: dict[str, np.ndarray]
    arrived: float
    ambiguous: float
    findings: tuple[Finding, ...]


def bootstrap(
    em: EM,
    key: jax.Array,
    *args: Any,
    replicates: int = 200,
    kind: str = "nonparametric",
    fit: Fit | None = None,
    **kwargs: Any,
) -> Bootstrap:
    """Find EM's optimum again on `replicates` data sets drawn again, from the optimum.

    Parameters
    ----------
    em : the algorithm; its objective, tolerance and acceleration are those of the climbs.
    key : random key.
    *args, **kwargs : what the program is called with.
    replicates : B.
    kind : "nonparametric" (rows with replacement) or "parametric" (data from p(x | θ̂), integrated latents
        drawn anew).
    fit : of `em` to the same data, where there is one; else it is run.

    Raises
    ------
    InputError : settings out of range; rows that cannot be drawn again (a chain); no exact E-step.
    """
    whole_number("replicates", replicates, 2)
    if kind not in KINDS:
        raise InputError(f"`kind` is {kind!r}: choose {' or '.join(map(repr, KINDS))}.")
    args, kwargs = checked(em.model, args, kwargs)
    first, second = jax.random.split(key)
    if fit is None:
        fit = dataclasses.replace(em, draws=0, bootstrap=0).run(first, *args, **kwargs)
    with double_precision():
        kernel = em.bind(*args, **kwargs)
        if not getattr(kernel, "exact", True):
            raise InputError("The bootstrap climbs a fixed objective: it needs e_step='exact'.")
        again = _resampled if kind == "nonparametric" else _simulated
        kernels = again(em, kernel, second, fit.parameters, args, kwargs, int(replicates))
        ends, good = climb_each(em, kernels, fit.parameters)
        return _summary(kind, em, ends, good, fit.parameters, args, kwargs)


def _resampled(
    em: EM,
    kernel: Any,
    key: jax.Array,
    parameters: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    number: int,
) -> list[Any]:
    """Bind the problem to rows drawn with replacement: as counts, or as rows where counts are not taken."""
    del parameters
    random, rows = generator(key), int(kernel.count)
    if not isinstance(kernel, DerivedKernel):
        counts = random.multinomial(rows, np.full(rows, 1 / rows), size=number).astype(float)
        return [em.bind(*args, sample_weight=one, **kwargs) for one in counts]
    structure = marginal(em.model).structure(*args, **kwargs)
    chained = any(latent.chain is not None for latent in structure.latents.values())
    shapes = list(structure.observed.values())
    if chained or any(shape[:1] != (rows,) for shape in shapes):
        raise InputError(
            "The program's data are not independent rows, which alone can be drawn with replacement: choose "
            "kind='parametric'." + (" (A chain cannot be drawn again either.)" if chained else "")
        )
    arrays = kernel.problem.args
    picks = random.integers(rows, size=(number, rows))
    return [
        _rebound(kernel, [a[jnp.asarray(pick)] if np.shape(a)[:1] == (rows,) else a for a in arrays])
        for pick in picks
    ]


def _rebound(kernel: Any, arrays: Sequence[Any]) -> Any:
    """Give a derived kernel other data of the same shape: what was proved of the program holds for them."""
    problem = kernel.problem.on(tuple(jnp.asarray(array) for array in arrays))
    return dataclasses.replace(kernel, problem=problem)


def _simulated(
    em: EM,
    kernel: Any,
    key: jax.Array,
    parameters: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    number: int,
) -> list[Any]:
    """Bind the problem to data drawn at θ̂; what EM integrates out is drawn anew, a flat intercept is held."""
    from triptych.inference.posterior import observed

    held = {site: parameters[site] for site in (*kernel.supports, "intercept") if site in parameters}
    thetas = {site: jnp.asarray(np.tile(v, (number, *[1] * np.ndim(v)))) for site, v in held.items()}
    drawn = jax.tree.map(np.asarray, Replicator.of(em.model, *args, **kwargs).run(key, thetas))
    data = observed(marginal(em.model), args, kwargs)
    leaves, tree = jax.tree.flatten((tuple(args), dict(kwargs)))
    places = {
        site: place
        for site, values in data.items()
        for place, leaf in enumerate(leaves)
        if np.shape(leaf) == np.shape(values) and np.array_equal(np.asarray(leaf), values, equal_nan=True)
    }
    if set(places) != set(drawn):
        raise InputError("The data are not arguments of the program as they are: they cannot be exchanged.")
    kernels = []
    for index in range(number):
        filled = list(leaves)
        for site, place in places.items():
            example = np.asarray(leaves[place])
            value = drawn[site][index].astype(example.dtype)
            filled[place] = np.where(np.isnan(example), np.nan, value) if example.dtype.kind == "f" else value
        if isinstance(kernel, DerivedKernel):
            arrays = [a for a in filled if isinstance(a, np.ndarray | np.generic | jax.Array)]
            kernels.append(_rebound(kernel, arrays))
        else:
            given, named = jax.tree.unflatten(tree, filled)
            kernels.append(em.bind(*given, **named))
    return kernels


def _summary(
    kind: str,
    em: EM,
    ends: dict[str, np.ndarray],
    good: np.ndarray,
    parameters: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Bootstrap:
    """Align the optima to the fit's labels and take their spread."""
    arrived = float(np.mean(good))
    if np.sum(good) < 2:
        raise InputError("Fewer than two of the climbs converged: raise `max_steps`, or look at the fit.")
    findings = []
    if arrived < FEW_ARRIVED:
        text = (
            f"{np.sum(~good)} of {len(good)} bootstrap climbs did not converge and are left out: the errors "
            "are of the easy ones. Raise `max_steps`."
        )
        findings.append(say(Finding("BOOTSTRAP_NOT_CONVERGED", text)))
    kept = {site: value[good] for site, value in ends.items()}
    pivot = {site: np.asarray(parameters[site]) for site in kept}
    kept, groups = align_all(marginal(em.model), kept, pivot, *args, **kwargs)
    ambiguous = max((found.close for _, found in groups), default=0.0)
    if any(found.ambiguous for _, found in groups):
        text = (
            f"The labels of {ambiguous:.0%} of the bootstrap's optima could as well be others: its errors of "
            "single components mix them up. Read those of sorted or summed quantities instead."
        )
        findings.append(say(Finding("BOOTSTRAP_AMBIGUOUS", text)))

    def each(of: Any) -> dict[str, np.ndarray]:
        return {site: np.asarray(of(value)) for site, value in kept.items()}

    return Bootstrap(
        kind,
        kept,
        each(lambda value: value.std(axis=0, ddof=1)),
        each(lambda value: np.quantile(value, 0.025, axis=0)),
        each(lambda value: np.quantile(value, 0.975, axis=0)),
        arrived,
        ambiguous,
        tuple(findings),
    )


def with_bootstrap(em: EM, key: jax.Array, fit: Fit, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Fit:
    """Give the fit with the bootstrap that its algorithm asks for, as the group `bootstrap` of its data.

    Site → standard error; how they were had is among the group's attributes.
    """
    with stopwatch() as watch:
        found = bootstrap(em, key, *args, replicates=em.bootstrap, fit=fit, **kwargs)
    spent = Seconds(fit.seconds.compile + watch.seconds.compile, fit.seconds.run + watch.seconds.run)
    group = dataset(found.standard_errors)
    count = len(next(iter(found.draws.values())))
    group.attrs = {
        "kind": found.kind,
        "replicates": count,
        "arrived": found.arrived,
        "ambiguous": found.ambiguous,
    }
    tree = fit.data.copy()
    tree["bootstrap"] = xr.DataTree(group)
    return dataclasses.replace(fit, data=tree, seconds=spent, findings=(*fit.findings, *found.findings))
