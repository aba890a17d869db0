"""How a fit ended: one enumeration for all methods, each text with its cause and its cure."""

from __future__ import annotations

import enum
import warnings
from typing import NamedTuple

from triptych.models.errors import InferenceWarning

__all__ = ["Finding", "Status", "say"]


class Status(enum.Enum):
    """How a fit ended; the value is the text a person reads."""

    CONVERGED = "Converged."
    STEP_LIMIT = (
        "The step limit came before convergence: the answer is where the steps ran out. "
        "Raise `max_steps` (EM) or `steps` (SVI), or loosen `tol`."
    )
    SEEN_ONCE = (
        "The rows were seen once, in a stream: no rule tells how far the optimum still is. Give more rows, "
        "or rows that can be read again (`triptych.rows`), from these parameters, for exact iterations."
    )
    DECREASED = (
        "The objective fell, which exact EM cannot do: the arithmetic lost too many digits. "
        "Give the data in float64, rescale its columns, or use fewer components."
    )
    NON_FINITE = (
        "The objective became infinite or NaN. Look for extreme values in the data, rescale its columns, "
        "or strengthen the prior."
    )
    NO_MODE = (
        "No mode was reached: the Gaussian is centred on a point of the slope. Look for a parameter that "
        "neither the data nor a prior hold, or use MCMC."
    )
    NOT_MIXED = (
        "The chains disagree (R-hat above 1.01 on a label-invariant quantity): these draws are not yet the "
        "posterior. Raise `warmup` and `draws`, or look for several modes in the report."
    )
    DIVERGED = (
        "Divergent transitions: NUTS could not follow the posterior everywhere, so the draws may be biased. "
        "Raise `target_accept` towards 0.99, or reparameterise the program."
    )
    FEW_DRAWS = (
        "The effective sample size is below 100 a chain: means and intervals are noisy. Raise `draws`."
    )

    @property
    def ok(self) -> bool:
        """Whether the fit ended as it should."""
        return self is Status.CONVERGED


class Finding(NamedTuple):
    """Something a reader of a fit must know: a stable `code` and a `text` with its cure."""

    code: str
    text: str


def say(finding: Finding) -> Finding:
    """Warn of a finding aloud (as an `InferenceWarning`) and hand it back to be kept in the fit."""
    warnings.warn(f"[{finding.code}] {finding.text}", InferenceWarning, stacklevel=3)
    return finding
