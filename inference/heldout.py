"""How well a fit predicts rows that it was not given: Σ_n log E_posterior p(x_n | θ), nats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import logsumexp

from triptych.inference.arguments import checked
from triptych.inference.balance_words import title
from triptych.inference.fit import Fit
from triptych.inference.marginal import marginal
from triptych.inference.posterior import draws, pointwise
from triptych.inference.precision import matching_precision
from triptych.models.errors import InputError

__all__ = ["HeldOut", "check_rows", "held_out", "held_out_rows", "held_out_words"]

MOST = 10_000_000  # draws × held-out rows; above, draws are thinned
PLAIN = 2.0  # standard errors from which a difference is worth a sentence


class HeldOut(NamedTuple):
    """The log predictive density of held-out rows, nats.

    Attributes
    ----------
    elpd : Σ_n log (1/S) Σ_s p(x_n | θ_s), discrete latents summed out.
    se : its standard error over rows, √(N Var_n).
    error : its Monte Carlo error over the draws, as if they were independent.
    plug_in : Σ_n log p(x_n | θ̂) at the point estimate; averaging over the posterior gains elpd − plug_in.
    pointwise : (N,).
    """

    elpd: float
    se: float
    error: float
    plug_in: float
    pointwise: np.ndarray


def check_rows(program: Callable[..., Any], fitted: Sequence[Any], held: Sequence[Any]) -> None:
    """Check that some rows of a program's data can be predicted from a fit to the others.

    Raises
    ------
    InputError : the rows are steps of a chain, a parameter belongs to rows, or the program does not see rows.
    """
    why = "Leave out `data.holdout`; PSIS-LOO is in the comparison where rows are independent."
    m = marginal(program)
    ours, theirs = m.structure(*fitted), m.structure(*held)
    if any(latent.chain is not None for latent in ours.latents.values()):
        raise InputError(
            "data.holdout: the rows are steps of one chain (`scan`): given θ they are not independent, and "
            f"without some of them the chain is another one. {why}"
        )
    for site, parameter in ours.parameters.items():
        other = theirs.parameters.get(site)
        if other is None or other.shape != parameter.shape:
            raise InputError(
                f"data.holdout: site {site!r} has a value a row (shape {parameter.shape}), which the "
                f"held-out rows have none of in the fit. {why}"
            )
    point = jax.eval_shape(lambda: {s: np.zeros(p.shape) for s, p in theirs.parameters.items()})
    units = jax.eval_shape(lambda theta: m.log_likelihood(theta, *held), point)
    rows = len(held[0])
    for unit, shape in units.items():
        if shape.shape[:1] != (rows,):
            raise InputError(
                f"data.holdout: the likelihood of {unit!r} has shape {shape.shape}, not one term for each of "
                f"the {rows} held-out rows. {why}"
            )


def held_out(fit: Fit, *args: Any) -> HeldOut:
    """Predict rows that a fit was not given, by its own posterior draws.

    Parameters
    ----------
    fit : of any method; EM's draws are those around its optimum.
    *args : what the program is called with, for these rows.
    """
    args, kwargs = checked(fit.model, args, {}, new=True)
    m = marginal(fit.model)
    samples = draws(fit)
    chains, count = next(iter(samples.values())).shape[:2]
    step = -(-chains * count * len(args[0]) // MOST)
    thinned = {site: values[:, ::step] for site, values in samples.items()}
    table = _terms(m, thinned, args, kwargs).reshape(-1, len(args[0]))
    point = {site: np.asarray(value)[None, None] for site, value in fit.parameters.items()}
    plug_in = float(np.sum(_terms(m, point, args, kwargs)))
    top = table.max(axis=0)
    ratio = np.exp(table - top)
    terms = logsumexp(table, axis=0) - np.log(len(table))
    mean = ratio.mean(axis=0)
    # Of Σ_n log mean_n by the delta method, the same draws serving every row.
    each = (ratio / mean).sum(axis=1)
    error = float(each.std() / np.sqrt(len(table))) if len(table) > 1 else 0.0
    return HeldOut(float(terms.sum()), _error(terms), error, plug_in, terms)


def _terms(
    m: Any, samples: Mapping[str, np.ndarray], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> np.ndarray:
    """Give log p(x_n | θ_s), (chain, draw, rows), every data site and cell of a row together."""
    with matching_precision(samples, args):
        units, _ = pointwise(m, samples, args, kwargs)
    if units is None:
        raise InputError("The held-out rows have no pointwise log-likelihood: give fewer of them.")
    rows = len(args[0])
    parts = [np.asarray(v, float).reshape(*v.shape[:2], rows, -1).sum(axis=-1) for v in units.values()]
    return np.sum(parts, axis=0)


def _error(terms: np.ndarray) -> float:
    return float(np.sqrt(len(terms) * np.var(terms, ddof=1))) if len(terms) > 1 else float("nan")


def held_out_rows(
    fits: Mapping[str, Fit], reference: str, args: Sequence[Any]
) -> dict[str, dict[str, float]]:
    """Give name → the columns `held_out…` of `Comparison.methods`, differences paired by row."""
    found = {name: held_out(fit, *args) for name, fit in fits.items()}
    rows = {}
    for name, one in found.items():
        difference = one.pointwise - found[reference].pointwise
        rows[name] = {
            "held_out": one.elpd,
            "held_out_se": one.se,
            "held_out_error": one.error,
            "held_out_plug_in": one.plug_in,
            "held_out_diff": float(difference.sum()),
            "held_out_diff_se": _error(difference) if name != reference else 0.0,
        }
    return rows


def held_out_words(rows: Mapping[str, Mapping[str, float]], reference: str, count: int) -> list[str]:
    """Say which fits predict held-out rows better or worse than the reference, beyond two standard errors."""
    said = []
    for name, row in rows.items():
        difference, error = row["held_out_diff"], row["held_out_diff_se"]
        # As much as a tenth of a nat in all, or it does not matter however sure it is.
        if name != reference and abs(difference) > max(PLAIN * error, 0.1):
            worse = "worse" if difference < 0 else "better"
            said.append(
                f"{title(name)} predicts the {count} held-out rows {worse} than {title(reference)}, by "
                f"{abs(difference):.2f} ± {error:.2f} nats."
            )
    if not said and len(rows) > 1:
        said.append(f"All fits predict the {count} held-out rows equally well, within the noise of the rows.")
    return said
