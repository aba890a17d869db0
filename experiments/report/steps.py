"""The section on EM's steps: what was done with each site, and what the curvature at the answer says."""

from __future__ import annotations

import numpy as np

from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import fixed, number
from triptych.experiments.report.parts import Pens, Section, Table
from triptych.inference.fit import Fit
from triptych.inference.unconstrained import element_names

__all__ = ["steps_taken"]

MOST_ELEMENTS = 60


def steps_taken(run: Run, pens: Pens) -> Section | None:
    """Show the plan of every EM fit, and the standard errors of its answer."""
    del pens
    tables = []
    for name, fit in run.fits.items():
        tables += [table for table in (_plan(name, fit), _errors(run, name, fit)) if table is not None]
    if not tables:
        return None
    intro = "Which sites were integrated out and which maximised, by which step; and the standard errors "
    intro += "from the curvature of the objective at the answer."
    return Section("steps", "What EM did", intro, tables=tuple(tables))


def _plan(name: str, fit: Fit) -> Table | None:
    if "plan" not in fit.data.children:
        return None
    found = fit.data["plan"].dataset
    columns = [[str(value) for value in found[column].values] for column in ("site", "role", "step", "why")]
    if not columns[0]:
        return None
    note = f"Climbed: the {found.attrs['objective']}, by {found.attrs['kernel']}."
    return Table(name, ("site", "role", "step", "why"), tuple(zip(*columns, strict=True)), note)


def _errors(run: Run, name: str, fit: Fit) -> Table | None:
    """Tabulate estimate and standard error beside the reference's posterior sd."""
    if "standard_errors" not in fit.data.children:
        return None
    reference = run.fits.get(run.reference)
    spreads = {} if reference is None else _spreads(reference)
    again = _bootstrap(fit)
    rows = []
    for site, errors in fit.data["standard_errors"].data_vars.items():
        estimate = np.ravel(fit.parameters[str(site)])
        names = element_names(str(site), np.shape(errors))
        for element, value, error in zip(names, estimate, np.ravel(errors.values), strict=True):
            spread = spreads.get(element)
            shown = number(error) if np.isfinite(error) else "none"
            beside = (number(again[element]),) if element in again else ("",) if again else ()
            if reference is not None and reference is not fit:
                beside += ("" if spread is None else number(spread),)
            rows.append((element, number(value), shown, *beside))
    heads = ("parameter", "estimate", "standard error", *(("bootstrap",) if again else ()))
    if reference is not None and reference is not fit:
        heads += (f"posterior sd, {run.reference}",)
    return Table(name, heads, tuple(rows[:MOST_ELEMENTS]), _missing(fit, len(rows) - MOST_ELEMENTS))


def _bootstrap(fit: Fit) -> dict[str, float]:
    if "bootstrap" not in fit.data.children:
        return {}
    errors = {}
    for site, values in fit.data["bootstrap"].data_vars.items():
        errors |= dict(zip(element_names(str(site), values.shape), np.ravel(values.values), strict=True))
    return errors


def _missing(fit: Fit, left_out: int) -> str:
    """Say how much of the information the latents hide, and how sure the answer is."""
    words = []
    if "information" in fit.data.children:
        found = fit.data["information"].dataset
        if found["missing"].size:
            share = 100 * float(found["missing"].max())
            words.append(
                f"The latents hide up to {fixed(share, 1)} % of the information along one direction."
            )
        if "gain" in found:
            words.append(f"A Newton step from the answer would gain {number(float(found['gain']), 2)} nats.")
    if "monte_carlo_errors" in fit.data.children:
        shares = [
            np.ravel(error.values / fit.data["standard_errors"][str(site)].values)
            for site, error in fit.data["monte_carlo_errors"].data_vars.items()
        ]
        largest = 100 * float(np.nanmax(np.concatenate(shares)))
        words.append(f"The Monte Carlo error is at most {fixed(largest, 1)} % of a standard error.")
    if "bootstrap" in fit.data.children:
        how = fit.data["bootstrap"].attrs
        said = f"Bootstrap: {fixed(how['replicates'], 0)} {how['kind']} replicates from the optimum"
        lost = 100 * (1 - float(how["arrived"]))
        said += f", {fixed(lost, 0)} % of the climbs did not converge" if lost >= 0.5 else ""
        close = 100 * float(how["ambiguous"])
        words.append(said + (f", labels in doubt in {fixed(close, 0)} %." if close >= 0.5 else "."))
    if left_out > 0:
        words.append(f"{fixed(left_out, 0)} more are not shown.")
    return " ".join(words)


def _spreads(fit: Fit) -> dict[str, float]:
    spreads = {}
    for site, values in fit.data["posterior"].data_vars.items():
        sd = values.std(("chain", "draw")).values
        spreads |= dict(zip(element_names(str(site), np.shape(sd)), np.ravel(sd).tolist(), strict=True))
    return spreads
