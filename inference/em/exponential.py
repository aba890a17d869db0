"""Exponential families among NumPyro's distributions: what of a row they read, and with which coefficients.

    log p(x | φ) = A(φ) + Σ_j c_j(φ) T_j(x) + h(x)

A family names columns computed from x (x itself, log x, …), the statistics of each column ("linear": the
column; "squares"; "outer": products of two; "codes": one indicator a level), A and the c_j, and h. Columns
come as y = (x − centre) · scale, and A and c are those of y, so that squares of far-off rows do not cancel: a
normal's are (with m = (μ − centre) scale, P = 1/(σ scale)²)

    A = −½ P m² − log σ − ½ log 2π,        c = (P m, −½ P)        for T = (y, y²)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import betaln, gammaln
from numpyro.distributions.util import clamp_probs

from triptych.inference.em.family import Array
from triptych.models.distributions import BernoulliVector, GaussianVector
from triptych.models.matrices import inverse_by_factors

__all__ = ["FAMILIES", "Exponential", "NotRecognisedError", "Peeled", "log_levels", "peel"]


class NotRecognisedError(Exception):
    """Why a program is no table of features times natural parameters, in words."""


LOG_2PI = float(np.log(2 * np.pi))
Natural = Callable[[Any, tuple[Array, ...], tuple[Array, ...]], tuple[Array, tuple[Array, ...]]]


@dataclasses.dataclass(frozen=True)
class Exponential:
    """One family, its elements independent (each `x` a number, or a vector for `event` = 1).

    `columns(fn, x)` gives arrays of the shape of x; `statistics` are pairs (kind, index of the column);
    `natural(fn, centres, scales)` gives A and one coefficient array for each statistic ("outer": (…, D, D),
    "codes": (…, levels)), of the shape of the parameters; `base(fn, x)` is h. `moved`: whether columns are
    centred and scaled: those of zeros and ones are not.
    """

    name: str
    reads: str
    columns: Callable[[Any, Array], tuple[Array, ...]]
    statistics: tuple[tuple[str, int], ...]
    natural: Natural
    base: Callable[[Any, Array], Array] | None = None
    moved: bool = True
    event: int = 0

    @property
    def number(self) -> int:
        """How many columns each element gives."""
        return 1 + max(index for _, index in self.statistics)


def _linear(of: Callable[[Any], tuple[Array, tuple[Array, ...]]]) -> Natural:
    """Take A and c of the columns as they are to those of y = (x − centre) · scale."""

    def natural(fn: Any, centres: tuple[Array, ...], scales: tuple[Array, ...]) -> Any:
        constant, coefficients = of(fn)
        moved = []
        for coefficient, centre, scale in zip(coefficients, centres, scales, strict=True):
            constant = constant + coefficient * centre
            moved.append(coefficient / scale)
        return constant, tuple(moved)

    return natural


def _normal(fn: Any, centres: tuple[Array, ...], scales: tuple[Array, ...]) -> Any:
    mean, deviation = (fn.loc - centres[0]) * scales[0], fn.scale * scales[0]
    precision = 1.0 / (deviation * deviation)
    linear = precision * mean
    constant = -0.5 * linear * mean - jnp.log(fn.scale) - 0.5 * LOG_2PI
    return constant, (linear, -0.5 * precision)


def _gaussian(fn: Any, centres: tuple[Array, ...], scales: tuple[Array, ...]) -> Any:
    """Give the normal's with P = (S Σ S)⁻¹ in place of 1/(σ scale)²."""
    inverse, log_det = inverse_by_factors(jnp.asarray(fn.scale_tril))
    mean = (fn.loc - centres[0]) * scales[0]
    precision = inverse / scales[0][..., :, None] / scales[0][..., None, :]
    linear = jnp.sum(precision * mean[..., None, :], axis=-1)
    constant = 0.5 * (log_det - jnp.sum(linear * mean, axis=-1) - mean.shape[-1] * LOG_2PI)
    return constant, (linear, -0.5 * precision)


def _bernoulli_probs(fn: Any) -> Any:
    probs = clamp_probs(fn.probs)
    none = jnp.log1p(-probs)
    return none, (jnp.log(probs) - none,)


def _binomial_logits(fn: Any) -> Any:
    return jnp.zeros(()), (fn.logits, -jax.nn.softplus(fn.logits))


def _binomial_probs(fn: Any) -> Any:
    probs = clamp_probs(fn.probs)
    none = jnp.log1p(-probs)
    return jnp.zeros(()), (jnp.log(probs) - none, none)


def _trials(fn: Any, x: Array) -> tuple[Array, ...]:
    """Give successes and trials, which may change with the row, but with no latent."""
    trials, x = jnp.asarray(fn.total_count, float), jnp.asarray(x)
    more = max(trials.ndim - x.ndim, 0)
    if any(size > 1 for size in trials.shape[:more]):
        raise NotRecognisedError("the number of trials of a Binomial hangs on a latent")
    return x, jnp.broadcast_to(trials.reshape(trials.shape[more:]), x.shape)


def _choices(fn: Any, x: Array) -> Array:
    _, n = _trials(fn, x)
    return gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)


def log_levels(fn: Any) -> Array:
    """Give a categorical's log probabilities, (…, levels); like NumPyro, do not normalise `probs`."""
    logits: Any = fn.logits
    return logits if type(fn) is dist.CategoricalProbs else jax.nn.log_softmax(logits, axis=-1)


def _categorical(fn: Any, *_: Any) -> Any:
    return jnp.zeros(()), (log_levels(fn),)


def _gamma(fn: Any) -> Any:
    a, b = jnp.asarray(fn.concentration), jnp.asarray(fn.rate)
    return a * jnp.log(b) - gammaln(a), (-b, a)


def _beta(fn: Any) -> Any:
    a, b = jnp.asarray(fn.concentration1), jnp.asarray(fn.concentration0)
    return -betaln(a, b), (a, b)


def _itself(fn: Any, x: Array) -> tuple[Array, ...]:
    del fn
    return (x,)


ONE, TWO = (("linear", 0),), (("linear", 0), ("linear", 1))
MOMENTS = (("linear", 0), ("squares", 0))
NORMAL = Exponential("Normal", "x, x²", _itself, MOMENTS, _normal)
GAUSSIAN = Exponential(
    "MultivariateNormal", "x, x xᵀ", _itself, (("linear", 0), ("outer", 0)), _gaussian, event=1
)
LOG_NORMAL = Exponential(
    "LogNormal",
    "log x, (log x)²",
    lambda fn, x: (jnp.log(x),),
    MOMENTS,
    _normal,
    base=lambda fn, x: -jnp.log(x),
)
POISSON = Exponential(
    "Poisson",
    "x",
    _itself,
    ONE,
    _linear(lambda fn: (-jnp.asarray(fn.rate), (jnp.log(fn.rate),))),
    base=lambda fn, x: -gammaln(x + 1),
)
EXPONENTIAL = Exponential(
    "Exponential", "x", _itself, ONE, _linear(lambda fn: (jnp.log(fn.rate), (-jnp.asarray(fn.rate),)))
)
GAMMA = Exponential(
    "Gamma", "x, log x", lambda fn, x: (x, jnp.log(x)), TWO, _linear(_gamma), lambda fn, x: -jnp.log(x)
)
INVERSE_GAMMA = Exponential(
    "InverseGamma",
    "1/x, log x",
    lambda fn, x: (1 / x, -jnp.log(x)),
    TWO,
    _linear(_gamma),
    lambda fn, x: -jnp.log(x),
)
BETA = Exponential(
    "Beta",
    "log x, log(1 − x)",
    lambda fn, x: (jnp.log(x), jnp.log1p(-x)),
    TWO,
    _linear(_beta),
    lambda fn, x: -jnp.log(x) - jnp.log1p(-x),
)
FAMILIES: Mapping[type, Exponential] = {
    dist.Normal: NORMAL,
    dist.MultivariateNormal: GAUSSIAN,
    GaussianVector: GAUSSIAN,
    dist.LogNormal: LOG_NORMAL,
    dist.Poisson: POISSON,
    dist.Exponential: EXPONENTIAL,
    dist.Gamma: GAMMA,
    dist.InverseGamma: INVERSE_GAMMA,
    dist.Beta: BETA,
    dist.BernoulliProbs: Exponential("Bernoulli", "x", _itself, ONE, _linear(_bernoulli_probs), moved=False),
    dist.BernoulliLogits: Exponential(
        "Bernoulli",
        "x",
        _itself,
        ONE,
        _linear(lambda fn: (-jax.nn.softplus(fn.logits), (jnp.asarray(fn.logits),))),
        moved=False,
    ),
    dist.BinomialProbs: Exponential("Binomial", "x, count", _trials, TWO, _linear(_binomial_probs), _choices),
    dist.BinomialLogits: Exponential(
        "Binomial", "x, count", _trials, TWO, _linear(_binomial_logits), _choices
    ),
    dist.CategoricalProbs: Exponential(
        "Categorical", "its levels", _itself, (("codes", 0),), _categorical, moved=False
    ),
    dist.CategoricalLogits: Exponential(
        "Categorical", "its levels", _itself, (("codes", 0),), _categorical, moved=False
    ),
}


@dataclasses.dataclass(frozen=True)
class Peeled:
    """A site's distribution without its expansions: `fn`, and how many of its batch dimensions are events."""

    fn: Any
    events: int
    masked: bool

    @property
    def family(self) -> Exponential | None:
        """The family, if it is one that is known."""
        return FAMILIES.get(type(self.fn))


def peel(fn: Any) -> Peeled:
    """Take `expand`, `to_event` and `mask` off a distribution: its parameters are then as few as they are."""
    events, masked = 0, False
    while True:
        if isinstance(fn, dist.Independent):
            events += fn.reinterpreted_batch_ndims
        elif isinstance(fn, dist.MaskedDistribution):
            masked = masked or fn._mask is not True
        elif isinstance(fn, BernoulliVector):
            return Peeled(dist.BernoulliProbs(fn.probs), events + 1, masked)
        elif not isinstance(fn, dist.ExpandedDistribution):
            return Peeled(fn, events, masked)
        fn = fn.base_dist
