"""The three answers side by side: labels aligned, distances measured, the verdict in words."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from triptych.inference import terminal
from triptych.inference.balance import COLUMNS, routes
from triptych.inference.distances import distances, elements, noise_floor
from triptych.inference.fit import Fit
from triptych.inference.heldout import held_out_rows, held_out_words
from triptych.inference.method_rows import method_rows
from triptych.inference.posterior import draws
from triptych.inference.relabel import groups_of, to_reference
from triptych.inference.verdict import sentences, title
from triptych.models.errors import InputError

__all__ = ["Comparison", "compare"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the answers are from the reference, and what that means.

    Attributes
    ----------
    reference : name of the fit that the others are measured against.
    parameters : one row a scalar parameter and method: parameter, site, method, estimate (EM's optimum, else
        the posterior mean), mean, sd, lower, upper (95 % equal-tailed), mean_error = (mean − reference mean)
        / reference sd, sd_ratio, wasserstein (W₁, in reference sds), tail (the larger error of the 5 % and
        95 % quantiles, in reference sds), noise (Monte Carlo error of mean_error), floor (W₁ between two
        halves of the reference).
    methods : one row a fit, indexed by its name: method, status, ok, log_likelihood at the estimate; the
        ledger log_evidence = elbo + kl (`kl` against the best evidence of all, `evidence`), each with its
        error, and how the evidence was had; bic, icl, aic (−2 log scale) and free parameters of EM; elpd by
        PSIS-LOO with elpd_se, elpd_diff from the reference, elpd_diff_se, bad_k (rows with too large a
        Pareto k); c2st, the accuracy of a classifier that tells the draws from the reference's, and
        c2st_floor, that between its halves; r_hat (worst), ess (smallest); k_hat, and k_limit, what so many
        weights let it be; compile and run (seconds). Where rows were held out: held_out, their log
        predictive density, with held_out_se (over rows) and held_out_error (Monte Carlo), held_out_diff from
        the reference with held_out_diff_se, and held_out_plug_in at the point estimate.
    evidence : one row a way to log p(x): fit ("exact" for a closed form), how, log_evidence, standard_error,
        k_hat; the first is the best, against which every KL is taken.
    sentences : the verdict in words, worst first.
    alignment : what is to be known of the labels' alignment; empty when nothing is.
    fits : the fits, labels aligned to the reference's.
    """

    reference: str
    parameters: pd.DataFrame
    methods: pd.DataFrame
    sentences: tuple[str, ...]
    alignment: tuple[str, ...]
    fits: Mapping[str, Fit]
    evidence: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)

    def as_dict(self) -> dict[str, Any]:
        """Give everything but the fits in plain types; what is not known is `None`."""
        return {
            "reference": self.reference,
            "sentences": list(self.sentences),
            "alignment": list(self.alignment),
            "methods": _records(self.methods.reset_index(names="name")),
            "evidence": _records(self.evidence),
            "parameters": _records(self.parameters),
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """Give `as_dict` as strict JSON (no NaN)."""
        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        return terminal.as_text(self)

    def __rich__(self) -> Any:
        """Give the tables for a rich console."""
        return terminal.as_tables(self)


def compare(
    fits: Mapping[str, Fit], reference: str = "mcmc", *, held_out: Sequence[Any] | None = None
) -> Comparison:
    """Put fits of one model to one data set side by side.

    Labels of exchangeable components are aligned to the reference's, one permutation a fit, by assignment on
    the responsibilities at the point estimates.

    Parameters
    ----------
    fits : name → fit.
    reference : the name of the fit to measure the others against.
    held_out : what the program is called with for rows that no fit was given; the fits predict them.

    Raises
    ------
    InputError : no fits, no such reference, or fits of different data.
    """
    if not fits:
        raise InputError("`compare` needs at least one fit: give a dict such as {'em': fit, 'mcmc': fit}.")
    if reference not in fits:
        names = ", ".join(map(repr, fits))
        raise InputError(f"The reference {reference!r} is not among the fits: they are {names}.")
    _same_data(fits, reference)
    aligned, notes = dict(fits), []
    if len(fits) > 1:
        groups = groups_of(fits[reference])
        if isinstance(groups, str):
            notes.append(groups)
        else:
            for name in (name for name in fits if name != reference):
                aligned[name], found = to_reference(fits[name], fits[reference], groups)
                notes += [f"{title(name)}: {note}" for note in found]
    parameters = _parameter_rows(aligned, reference)
    ways = routes(aligned, reference)
    methods = method_rows(aligned, reference, ways)
    if held_out is not None:
        predicted = held_out_rows(aligned, reference, held_out)
        methods = {name: row | predicted[name] for name, row in methods.items()}
        notes_of_rows = held_out_words(predicted, reference, len(held_out[0]))
    else:
        notes_of_rows = []
    return Comparison(
        reference=reference,
        parameters=pd.DataFrame(parameters),
        methods=pd.DataFrame.from_dict(methods, orient="index"),
        sentences=(*sentences(aligned, reference, parameters, methods, ways), *notes_of_rows, *notes),
        alignment=tuple(notes),
        fits=aligned,
        evidence=pd.DataFrame(ways, columns=list(COLUMNS)),
    )


def _same_data(fits: Mapping[str, Fit], reference: str) -> None:
    def data_of(fit: Fit) -> dict[str, np.ndarray]:
        if "observed_data" not in fit.data.children:
            return {}
        return {str(name): values.values for name, values in fit.data["observed_data"].data_vars.items()}

    ours = data_of(fits[reference])
    for name, fit in fits.items():
        for site, values in data_of(fit).items():
            if site not in ours:
                continue
            # Fits in float32 and in float64 of the same data may be compared.
            if values.shape != ours[site].shape or not np.allclose(
                values, ours[site], rtol=1e-5, equal_nan=True
            ):
                raise InputError(
                    f"The fits {name!r} and {reference!r} are of different data (site {site!r}): "
                    "compare fits of the same rows."
                )


def _parameter_rows(fits: Mapping[str, Fit], reference: str) -> list[dict[str, Any]]:
    scalars = {name: elements(draws(fit)) for name, fit in fits.items()}
    estimates = {
        name: elements({site: np.asarray(value)[None, None] for site, value in fit.parameters.items()})
        for name, fit in fits.items()
    }
    order = [reference, *(name for name in fits if name != reference)]
    parameters = list(dict.fromkeys(parameter for name in order for parameter in scalars[name]))
    floors = {parameter: noise_floor(values) for parameter, values in scalars[reference].items()}
    rows = []
    for parameter in parameters:
        for name in fits:
            if parameter in scalars[name]:
                row = distances(scalars[name][parameter], scalars[reference].get(parameter))
                row["floor"] = floors.get(parameter, float("nan"))
                estimate = float(estimates[name][parameter].item())
                labels = {"parameter": parameter, "site": parameter.split("[")[0], "method": name}
                rows.append(labels | {"estimate": estimate} | row)
    return rows


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    def plain(value: Any) -> Any:
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{str(k): plain(v) for k, v in row.items()} for row in frame.to_dict(orient="records")]
