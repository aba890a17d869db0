"""From the end points of EM to the `Fit` that is kept: the best one, its status, its draws, the landscape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import xarray as xr

from triptych.inference.criteria import free_parameters
from triptych.inference.em.explain import Explanation, explain
from triptych.inference.em.kernel import Kernel, Start
from triptych.inference.em.landscape import best_of, landscape
from triptych.inference.em.loop import Run
from triptych.inference.em.posterior import HESSIAN_WORK, laplace_posterior
from triptych.inference.em.uncertainty import curvature_groups
from triptych.inference.fit import Fit
from triptych.inference.status import Finding, Status, say
from triptych.inference.timing import Stopwatch
from triptych.models.errors import InputError
from triptych.models.linear_regression import BayesianLinearRegression

if TYPE_CHECKING:
    from triptych.inference.em.algorithm import EM

__all__ = ["assemble_fit", "plan"]


def assemble_fit(
    em: EM,
    kernel: Kernel,
    start: Start,
    run: Run,
    key: jax.Array,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    watch: Stopwatch,
) -> Fit:
    """Keep the best end point, say what is wrong with it, and add the draws around it."""
    best = best_of(run)
    parameters = {name: value[best] for name, value in run.parameters.items()}
    status = run.status[best]
    if status is Status.NON_FINITE:
        raise InputError(
            "EM found no point with a finite objective, from any start: look for extreme values in the data, "
            "rescale the columns, or use objective='map'."
        )
    natural = kernel.outward(parameters)
    reviews = kernel.review(run.parameters)
    found = [say(finding) for finding in reviews[best].findings]
    if not status.ok:
        found.append(say(Finding(status.name, status.value)))
    posterior, evidence, more = laplace_posterior(em, kernel, natural, key, args, kwargs)
    found += [say(finding) for finding in more]
    groups: dict[str, xr.Dataset | Callable[[], xr.Dataset]] = {}
    if em.draws and kernel.hessian_work <= HESSIAN_WORK:
        curvature, more = curvature_groups(kernel, parameters, status.ok)
        found += [say(finding) for finding in more]
        groups |= curvature
    groups["plan"] = partial(plan, explain(kernel, em.objective))
    groups["restarts"] = partial(landscape, start, run, reviews)
    groups["criteria"] = partial(xr.Dataset, _counts(kernel, natural))
    return Fit(
        method=em.method,
        model=kernel.model,
        status=status,
        seconds=watch.seconds,
        parameters=natural,
        log_likelihood=reviews[best].log_likelihood,
        objective=np.concatenate([*start.history[best : best + 1], run.traces[best]]),
        data=partial(_tree, posterior, groups),
        evidence=evidence,
        findings=tuple(found),
        settings=em.settings,
    )


def _tree(
    posterior: Callable[[], xr.DataTree], groups: Mapping[str, xr.Dataset | Callable[[], xr.Dataset]]
) -> xr.DataTree:
    """Lay out the posterior and the tables that go with it, some of which are made only now."""
    tree = posterior()
    for name, group in groups.items():
        tree[name] = xr.DataTree(group if isinstance(group, xr.Dataset) else group())
    return tree


def plan(explanation: Explanation) -> xr.Dataset:
    """Tabulate what was done with each site: role, step, why."""
    columns = zip(*explanation.lines, strict=True) if explanation.lines else [[]] * 4
    names = ("site", "role", "step", "why")
    values = {
        name: ("line", np.array(list(one), dtype=str)) for name, one in zip(names, columns, strict=True)
    }
    return xr.Dataset(values, attrs={"objective": explanation.objective, "kernel": explanation.kernel})


def _counts(kernel: Kernel, natural: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Count the free parameters of the sites that EM maximised, and the rows: what BIC charges for."""
    free = free_parameters({site: (np.shape(natural[site]), how) for site, how in kernel.supports.items()})
    # A regression's intercept is maximised too, in closed form.
    free += isinstance(kernel.model, BayesianLinearRegression) and "intercept" in natural
    return {"free": free, "rows": kernel.count}
