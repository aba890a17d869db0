"""A mixture bound to rows that are read in blocks: moments and a sample in one pass, then EM on all of them.

The sample (20 000 rows) stands for the data where a few rows do as well: it sets the units of the arithmetic,
the starts and the short first runs. The prior is that of all rows, and so are the E-steps of the climb.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from triptych.inference.em import degeneracy
from triptych.inference.em.checkpoint import Checkpoint
from triptych.inference.em.company import gathered
from triptych.inference.em.family import Parameters
from triptych.inference.em.fold import MixtureProblem
from triptych.inference.em.gaussian import GaussianHyper
from triptych.inference.em.kernel import Call, Kernel, Review, Start, bind
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.em.search import SHORT_ROWS
from triptych.inference.em.standardise import weighted_prior
from triptych.inference.em.streamed import StreamedProblem
from triptych.inference.rows import Rows
from triptych.models.bernoulli_mixture import BernoulliMixture
from triptych.models.errors import InputError
from triptych.models.gaussian_mixture import GaussianMixture

__all__ = ["Moments", "StreamedKernel", "binary", "look", "merged", "moments_of", "stream"]

PIECE = 2**13  # rows whose moments are had at once


class Moments(NamedTuple):
    """Number of rows, means (D,) and covariance (D, D) with that number as divisor, in float64."""

    number: float
    mean: np.ndarray
    covariance: np.ndarray


def merged(first: Moments, second: Moments) -> Moments:
    """Give the moments of two sets of rows together (Chan, Golub & LeVeque 1983)."""
    if first.number == 0:
        return second
    number = first.number + second.number
    apart, share = second.mean - first.mean, second.number / number
    between = np.outer(apart, apart) * share * (1.0 - share)
    within = first.covariance * (1.0 - share) + second.covariance * share
    return Moments(number, first.mean + apart * share, within + between)


def moments_of(block: np.ndarray) -> Moments:
    """Give the moments of a block (n, D), in pieces that fit the cache, each about its own mean."""
    found = Moments(0.0, np.zeros(block.shape[1]), np.zeros((block.shape[1],) * 2))
    with np.errstate(invalid="ignore"):  # a cell that is not finite is refused by `look`
        for start in range(0, len(block), PIECE):
            piece = block[start : start + PIECE].astype(np.float64)
            mean = piece.mean(axis=0)
            piece -= mean
            found = merged(found, Moments(float(len(piece)), mean, piece.T @ piece / len(piece)))
    return found


def look(rows: Rows, check: Callable[[np.ndarray], np.ndarray], sample: int) -> tuple[Moments, np.ndarray]:
    """Read all rows once: check them, and give their moments and a random sample of them.

    Parameters
    ----------
    check : block (n, D) → whether each cell may be there, (n, D).
    sample : rows of the sample, at most; the same ones for the same number of rows.

    Raises
    ------
    InputError : a cell that may not be there, by row and column.
    """
    chosen = np.random.default_rng(0).choice(rows.total, min(sample, rows.total), replace=False)
    mine = np.sort(chosen[(chosen >= rows.first) & (chosen < rows.last)]) - rows.first
    found = Moments(0.0, np.zeros(rows.columns), np.zeros((rows.columns, rows.columns)))
    taken, start = [], 0
    for block in rows.blocks(rows.block_rows()):
        moments = moments_of(block)
        # Finite moments are those of finite cells: each need not be looked at.
        if check is not np.isfinite or not np.isfinite(np.diagonal(moments.covariance)).all():
            good = check(block)
            if not good.all():
                n, d = np.unravel_index(int(np.argmin(good)), good.shape)
                cell = f"Row {rows.first + start + n:,}, column {rows.names[d]!r} holds {block[n, d]}"
                raise InputError(
                    f"{cell}: rows that are read in blocks must be finite (0 or 1 for a Bernoulli mixture); "
                    "mend or drop that row."
                )
        found = merged(found, moments)
        taken.append(block[mine[(mine >= start) & (mine < start + len(block))] - start])
        start += len(block)
    return _everywhere(found, np.concatenate(taken), rows, len(chosen))


def _everywhere(found: Moments, taken: np.ndarray, rows: Rows, size: int) -> tuple[Moments, np.ndarray]:
    """Put together what the processes saw, the same on each."""
    if not rows.shared or jax.process_count() == 1:
        return found, taken
    padded = np.full((size, taken.shape[1]), np.nan, taken.dtype)
    padded[: len(taken)] = taken
    moments, samples = gathered((Moments(*map(np.asarray, found)), padded))  # type: ignore[arg-type]
    whole = Moments(*(part[0] for part in moments))
    for index in range(1, jax.process_count()):
        whole = merged(whole, Moments(*(part[index] for part in moments)))
    samples = samples.reshape(-1, taken.shape[1])
    return whole, samples[~np.isnan(samples[:, 0])]


@dataclasses.dataclass(frozen=True)
class StreamedKernel:
    """EM's view of a mixture on streamed rows; `small` is the same model bound to the sample."""

    small: MixtureKernel
    problem: StreamedProblem
    count: float
    jacobian: float

    @property
    def model(self) -> Callable[..., Any]:
        """The model with the prior it has for all rows."""
        return self.small.model

    @property
    def epsilon(self) -> float:
        """Machine precision of the rows."""
        return self.small.epsilon

    @property
    def integrated(self) -> dict[str, str]:
        """Latent → how the E-step takes it."""
        return self.small.integrated

    @property
    def supports(self) -> dict[str, Any]:
        """Site → NumPyro constraint."""
        return self.small.supports

    @property
    def hessian_work(self) -> float:
        """Without bound: the program's own density needs its rows in memory."""
        return np.inf

    def writing(self, checkpoint: Checkpoint) -> StreamedKernel:
        """Give the same kernel, whose climb writes where it stands."""
        return dataclasses.replace(self, problem=dataclasses.replace(self.problem, checkpoint=checkpoint))

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Make starting points from the sample."""
        return self.small.starts(key, number, init)

    def sample(self, key: jax.Array, rows: int) -> Kernel:
        """Give the sample, whatever the key: it was drawn when the rows were read."""
        return self.small

    def inward(self, parameters: Mapping[str, Any]) -> Parameters:
        """Standardise parameters given in the data's units."""
        return self.small.inward(parameters)

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Give parameters in the data's units."""
        return self.small.outward(parameters)

    def natural_errors(self, errors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Give standard errors in the data's units."""
        return self.small.natural_errors(errors)

    def approximate(self, parameters: Any, objective: str, key: jax.Array, draws: int) -> Any:
        """Refuse: see `hessian_work`."""
        raise InputError("There is no Laplace approximation of rows that are not in memory.")

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Give log p(x | θ), and name the components that collapsed, emptied or coincide: one pass."""
        sums, values = self.problem.expect(parameters)
        light = self.problem.light
        naturals, bases = (np.asarray(leaf) for leaf in _seen(light, parameters))
        found = degeneracy.findings(light, parameters, np.asarray(sums)[:, 0], naturals)
        heights = np.asarray(values) + bases + self.jacobian
        return [Review(float(height), each) for height, each in zip(heights, found, strict=True)]


@jax.jit
def _seen(light: MixtureProblem, parameters: Parameters) -> tuple[Any, Any]:
    """Natural parameters (R, F, K) of stacked points, and what their components share (R,), nats."""

    def one(point: Parameters) -> tuple[Any, Any]:
        return light.family.natural(point), light.family.base(point, light.totals)

    return jax.vmap(one)(parameters)


def stream(model: Any, call: Call) -> StreamedKernel:
    """Bind a mixture to rows that are read in blocks.

    Raises
    ------
    InputError : another model, labels or weights, a cell that is not finite, or a sample of the rows that the
        model cannot take.
    """
    if not isinstance(model, GaussianMixture | BernoulliMixture):
        raise InputError(
            f"{getattr(model, '__name__', type(model).__name__)} needs its rows in memory: EM reads them in "
            "blocks for a GaussianMixture or a BernoulliMixture."
        )
    rows: Rows = call.args[0]
    if len(call.args) > 1 or call.kwargs or call.sample_weight is not None:
        raise InputError("Rows that are read in blocks have no labels and no weights: give them in memory.")
    check = binary if isinstance(model, BernoulliMixture) else np.isfinite
    moments, sample = look(rows, check, SHORT_ROWS)
    table = pd.DataFrame(sample, columns=pd.Index(rows.names))  # what is refused is called by name
    _of_sample(lambda: model.validate(table), rows, sample)
    fixed: Any = model
    if isinstance(model, GaussianMixture):
        fixed = weighted_prior(model, moments.mean, moments.covariance, moments.number)
    small: Any = _of_sample(lambda: bind(fixed, call._replace(args=(table,))), rows, sample)
    part: Any = small.problem
    hyper = part.hyper
    if isinstance(hyper, GaussianHyper):
        pooled = moments.covariance / np.outer(small.scale, small.scale)
        shape = {0: np.asarray(np.mean(np.diagonal(pooled))), 1: np.diagonal(pooled)}
        hyper = hyper._replace(pooled=jnp.asarray(shape.get(hyper.pooled.ndim, pooled)))
    jacobian = small.jacobian * moments.number / small.count
    light = dataclasses.replace(
        part,
        rows=part.rows[:0],
        hyper=hyper,
        constant=part.constant + (jacobian - small.jacobian),
    )
    devices = jax.local_device_count()
    size = -(-rows.block_rows() // devices) * devices
    problem = StreamedProblem(rows, light, size)
    if np.ndim(part.totals):
        problem = dataclasses.replace(
            problem, light=dataclasses.replace(light, totals=problem.totals().astype(jnp.float64))
        )
    small = dataclasses.replace(small, problem=dataclasses.replace(part, hyper=hyper))
    return StreamedKernel(small, problem, moments.number, jacobian)


def _of_sample(work: Callable[[], Any], rows: Rows, sample: np.ndarray) -> Any:
    """Do what only needs the sample, and say so where it is refused."""
    try:
        return work()
    except InputError as error:
        if len(sample) == rows.total:
            raise
        raise InputError(f"{len(sample):,} of the {rows.total:,} rows, drawn as a sample: {error}") from None


def binary(block: np.ndarray) -> np.ndarray:
    """Tell of each cell whether it is 0 or 1."""
    return (block == 0) | (block == 1)
