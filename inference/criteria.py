"""Information criteria of a maximum: how many parameters were free, and what the fit costs for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from triptych.inference.fit import Fit

__all__ = ["Criteria", "criteria", "free_parameters", "of_fit"]

GROUP = "criteria"  # of an EM fit's data


class Criteria(NamedTuple):
    """AIC, BIC and ICL on the −2 log scale: smaller is better. −½ BIC and −½ ICL are in nats.

    Attributes
    ----------
    free : number of free parameters, p.
    aic : −2 log p(x | θ̂) + 2 p (Akaike 1974).
    bic : −2 log p(x | θ̂) + p log N (Schwarz 1978); −½ BIC approximates log p(x) as N grows.
    icl : BIC − 2 Σ_n log max_k r_nk (Biernacki, Celeux & Govaert 2000): it charges for components that
        overlap. NaN where there is no latent a row.
    """

    free: int
    aic: float
    bic: float
    icl: float


def free_parameters(sites: Mapping[str, tuple[tuple[int, ...], Any]]) -> int:
    """Count free parameters from supports: K − 1 of a simplex, D (D + 1) / 2 of a covariance matrix.

    Parameters
    ----------
    sites : name → (shape, NumPyro constraint).
    """
    from numpyro.distributions import biject_to

    return sum(
        int(np.prod(biject_to(support).inverse_shape(tuple(shape)))) for shape, support in sites.values()
    )


def criteria(
    log_likelihood: float, free: int, rows: float, responsibilities: np.ndarray | None = None
) -> Criteria:
    """Give the criteria at a maximum of the likelihood (or of the log joint, where a prior was climbed too).

    Parameters
    ----------
    log_likelihood : log p(x | θ̂), nats.
    free : number of free parameters.
    rows : N, or Σ w of weighted rows.
    responsibilities : (N, K) of the rows' latents.
    """
    deviance = -2 * float(log_likelihood)
    bic = deviance + free * float(np.log(rows))
    icl = float("nan")
    if responsibilities is not None:
        largest = np.max(np.asarray(responsibilities, float), axis=-1)
        icl = bic - 2 * float(np.sum(np.log(largest)))
    return Criteria(int(free), deviance + 2 * free, bic, icl)


def of_fit(fit: Fit) -> Criteria | None:
    """Give the criteria of an EM fit; `None` for any other, whose parameters are not a point.

    ICL needs a discrete latent a row, and the call that the fit was made by; it is NaN without.
    """
    if GROUP not in fit.data.children:
        return None
    from triptych.inference.arguments import recall
    from triptych.models.errors import InputError

    counts = fit.data[GROUP].dataset
    rows, table = float(counts["rows"]), None
    call = recall(fit.data)
    if call is not None:
        try:
            table = fit.responsibilities(*call[0], **call[1])
        except InputError:  # no discrete latent
            table = None
    if not isinstance(table, np.ndarray) or table.ndim != 2 or len(table) != rows:
        table = None
    return criteria(fit.log_likelihood, int(counts["free"]), rows, table)
