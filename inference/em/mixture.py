"""The hand-written EM kernel of Gaussian and Bernoulli mixtures: data and priors in standardised units.

Raw second moments cancel badly, so a row enters the arithmetic as (x − centre)/scale: column means and
standard deviations for diagonal, full and tied covariances, one common scale for spherical ones (which a
scale a column would deform). The objective is carried back to the data's units by the log-Jacobian of this
affine map.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from triptych.inference.effort import by_work, cells
from triptych.inference.em import degeneracy
from triptych.inference.em.bernoulli import BernoulliFamily, BernoulliHyper
from triptych.inference.em.cellwise import CellwiseGaussianFamily
from triptych.inference.em.family import Parameters
from triptych.inference.em.fold import MixtureProblem, collect_totals
from triptych.inference.em.gaussian import GaussianFamily, GaussianHyper
from triptych.inference.em.incomplete import IncompleteProblem, incomplete_problem
from triptych.inference.em.kernel import Call, Kernel, Review, Start, bind
from triptych.inference.em.posterior import around_marginal
from triptych.inference.em.standardise import (
    complete_moments,
    covariance_factor,
    known_variances,
    prior_powers,
    weighted_prior,
)
from triptych.inference.em.starts import generator, mixture_starts
from triptych.inference.em.transposed_rows import transposed
from triptych.inference.laplace import GaussianApproximation
from triptych.models.bernoulli_mixture import BernoulliMixture
from triptych.models.errors import InputError
from triptych.models.gaussian_mixture import GaussianMixture
from triptych.models.missing import moments

__all__ = ["MixtureKernel"]

FLOOR = 1e-6  # smallest relative eigenvalue of a covariance under maximum likelihood
EDGE = 1e-12  # nearest a Bernoulli probability comes to 0 or 1 under maximum likelihood


@dataclasses.dataclass(frozen=True)
class MixtureKernel:
    """A mixture bound to its data; `scale` is 1/inverse_scale of the problem, (D,)."""

    model: Callable[..., Any]
    problem: MixtureProblem | IncompleteProblem
    centre: np.ndarray
    scale: np.ndarray
    count: float
    jacobian: float  # log |d standardised rows / d rows|, Σ_n w_n
    support: tuple[str, ...]
    args: tuple[np.ndarray, ...]

    @property
    def epsilon(self) -> float:
        """Machine precision of the rows."""
        return float(np.finfo(np.dtype(self.problem.inverse_scale.dtype)).eps)

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Make starting points from the rows (see `starts.py`)."""
        return mixture_starts(key, self.problem, number, init)

    def sample(self, key: jax.Array, rows: int) -> Kernel:
        """Give the same problem on a random subset of the rows."""
        total = self.problem.rows.shape[0]
        if total <= rows:
            return self
        chosen = np.sort(generator(key).choice(total, rows, replace=False))
        return dataclasses.replace(self, problem=self.problem.take(chosen))

    def inward(self, parameters: Mapping[str, Any]) -> Parameters:
        """Standardise parameters given in the data's units."""
        missing = [name for name in self.support if name not in parameters]
        if missing:
            raise InputError(f"`parameters` lacks {', '.join(missing)}: give a start for every site.")
        given = {name: np.asarray(parameters[name], np.float64) for name in self.support}
        return self._rescale(given, -self.centre / self.scale, 1.0 / self.scale)

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Give parameters in the data's units."""
        return self._rescale(
            {name: np.asarray(value) for name, value in parameters.items()}, self.centre, self.scale
        )

    @property
    def observed(self) -> dict[str, np.ndarray]:
        """Observed site → its values."""
        return {"x": self.args[0]}

    @property
    def integrated(self) -> dict[str, str]:
        """Latent → how the E-step takes it."""
        return {"z": f"enumeration over {self.problem.family.components} values"}

    @property
    def supports(self) -> dict[str, Any]:
        """Site → NumPyro constraint."""
        matrices = getattr(self.problem.family, "covariance", "") in ("full", "tied")
        supports = {
            "weights": constraints.simplex,
            "means": constraints.real,
            "probs": constraints.unit_interval,
            "covariances": constraints.positive_definite if matrices else constraints.positive,
        }
        return {site: supports[site] for site in self.support}

    def natural_errors(self, errors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Give standard errors in the data's units."""
        return self._rescale(errors, 0.0, self.scale)

    @property
    def hessian_work(self) -> float:
        """Rows × parameters²."""
        family = self.problem.family
        return self.count * float((family.feature_count + 1) * family.components) ** 2

    def approximate(
        self, parameters: Mapping[str, np.ndarray], objective: str, key: jax.Array, draws: int
    ) -> tuple[GaussianApproximation, dict[str, np.ndarray]]:
        """Laplace on the program's marginal."""
        weights = self.problem.weights
        return around_marginal(self.model, parameters, self.args, {}, objective, key, draws, weights)

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Give Σ_n w_n log p(x_n | θ), and name the components that collapsed, emptied or coincide."""
        work = cells(self.problem) * 10
        values, counts, naturals = (np.asarray(leaf) for leaf in _look(self.problem, parameters, work=work))
        found = degeneracy.findings(self.problem, parameters, counts, naturals)
        return [Review(float(value) + self.jacobian, each) for value, each in zip(values, found, strict=True)]

    def _rescale(self, parameters: Mapping[str, np.ndarray], shift: Any, scale: np.ndarray) -> dict[str, Any]:
        moved = dict(parameters)
        if "means" in moved:
            moved["means"] = parameters["means"] * scale + shift
        if "covariances" in moved:
            factor = covariance_factor(getattr(self.problem.family, "covariance", ""), scale)
            moved["covariances"] = parameters["covariances"] * factor
        return moved


@by_work
def _look(problem: MixtureProblem | IncompleteProblem, parameters: Parameters) -> tuple[Any, Any, Any]:
    """Log-likelihoods (R,), effective counts (R, K) and natural parameters (R, F, K) of stacked points."""

    def one(point: Parameters) -> tuple[Any, Any, Any]:
        statistics, value = problem.expect(point)
        return value, statistics.sums[0], problem.family.natural(point)

    return jax.vmap(one)(parameters)


@bind.register
def bind_gaussian_mixture(model: GaussianMixture, call: Call) -> MixtureKernel:
    """Bind a Gaussian mixture: x (N, D), and labels z (N,) where there are some."""
    args, weights = _arguments(model, call)
    rows, labels = args[0], args[1] if len(args) > 1 else None
    gaps = model.missing and bool(np.any(np.isnan(rows)))
    count, centre, deviations, covariance = complete_moments(rows, weights)
    cells: Any = count
    if gaps:
        cells, centre, deviations, covariance = moments(rows, weights)
    columns, spherical = rows.shape[1], model.covariance == "spherical"
    scale = np.full(columns, np.sqrt(np.mean(deviations**2))) if spherical else deviations
    scale = np.where(scale > 0, scale, 1.0)  # only known variances let a constant column through
    centre = centre.astype(rows.dtype).astype(np.float64)
    if weights is not None:
        model = weighted_prior(model, centre, covariance, cells)
    prior = model.prior(rows)
    factor = covariance_factor(model.covariance, scale)
    known = None if model.scale is None else known_variances(model.scale, scale[0], model.components)
    shape = {"spherical": np.ones(()), "diagonal": np.ones(columns)}
    pooled = shape.get(model.covariance, covariance / np.outer(scale, scale))
    with_prior = call.objective == "map"
    hyper = GaussianHyper(
        concentration=prior.concentration if with_prior else np.ones(model.components),
        location=(prior.location - centre) / scale,
        mean_precision=prior.mean_precision if with_prior else np.zeros(()),
        degrees=prior.degrees_of_freedom if with_prior else np.zeros(()),
        spread=prior.spread / factor if with_prior else np.zeros_like(pooled),
        pooled=pooled,
        floor=np.asarray(0.0 if with_prior else FLOOR),
    )
    separable = gaps and model.covariance in ("spherical", "diagonal")
    make = CellwiseGaussianFamily if separable else GaussianFamily
    family = make(model.components, columns, model.covariance, known)
    constant = jacobian = -float(np.sum(cells * np.log(scale)))
    if with_prior:
        constant -= prior_powers(family) * float(np.sum(np.log(scale)))
    bound = incomplete_problem if gaps and not separable else _problem
    problem = bound(
        rows,
        weights,
        labels,
        centre=jnp.asarray(centre, rows.dtype),
        inverse_scale=jnp.asarray(1.0 / scale, rows.dtype),
        hyper=GaussianHyper(*(jnp.asarray(value, jnp.float64) for value in hyper)),
        constant=jnp.asarray(constant, jnp.float64),
        family=family,
        with_prior=with_prior,
    )
    support = ("weights", "means") if known else ("weights", "means", "covariances")
    return MixtureKernel(model, problem, centre, scale, count, jacobian, support, args)


@bind.register
def bind_bernoulli_mixture(model: BernoulliMixture, call: Call) -> MixtureKernel:
    """Bind a Bernoulli mixture: x (N, D) of 0 and 1, which need no standardising."""
    args, weights = _arguments(model, call)
    rows = args[0]
    count = float(len(rows) if weights is None else np.sum(weights))
    prior = model.prior(rows)
    with_prior = call.objective == "map"
    ones, zeros = np.asarray(prior.probs_concentration, np.float64)
    hyper = BernoulliHyper(
        concentration=prior.concentration if with_prior else np.ones(model.components),
        ones=ones if with_prior else np.ones(()),
        zeros=zeros if with_prior else np.ones(()),
        floor=np.asarray(EDGE),
    )
    columns = rows.shape[1]
    family = BernoulliFamily(model.components, columns)
    centre, scale = np.zeros(columns), np.ones(columns)
    problem = _problem(
        rows.astype(np.uint8),  # an eighth of the memory, and of what an iteration reads
        weights,
        None,
        centre=jnp.asarray(centre, rows.dtype),
        inverse_scale=jnp.asarray(scale, rows.dtype),
        hyper=BernoulliHyper(*(jnp.asarray(value, jnp.float64) for value in hyper)),
        constant=jnp.zeros((), jnp.float64),
        family=family,
        with_prior=with_prior,
    )
    return MixtureKernel(model, problem, centre, scale, count, 0.0, ("weights", "probs"), args)


def _arguments(model: Any, call: Call) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """Give (x,) or, with labels, (x, z), checked; and the rows' weights."""
    labelled = isinstance(model, GaussianMixture)
    try:
        bound = inspect.signature(model.validate).bind(*call.args, **call.kwargs).args
    except TypeError:
        bound = ()
    if not 1 <= len(bound) <= 1 + labelled:
        how = "`run(key, x)`, and labels, `run(key, x, z)`" if labelled else "`run(key, x)`"
        raise InputError(f"{type(model).__name__} is fitted to one table, {how}.")
    if call.update != "em":
        raise InputError(f"`update={call.update!r}` is for regression: a mixture has update='em' only.")
    args = model.validate(*bound)
    return args, None if call.sample_weight is None else call.sample_weight.astype(args[0].dtype)


def _problem(
    rows: np.ndarray, weights: np.ndarray | None, labels: np.ndarray | None, **same: Any
) -> MixtureProblem:
    """Bind rows, transposed unless they are read as they lie; `same` are the problem's other fields."""
    units = np.asarray(same["centre"]), np.asarray(same["inverse_scale"])
    problem = MixtureProblem(
        rows=jnp.asarray(rows) if same["family"].plain else transposed(rows, *units),
        weights=None if weights is None else jnp.asarray(weights),
        labels=None if labels is None else jnp.asarray(labels),
        totals=jnp.zeros(()),
        **same,
    )
    return dataclasses.replace(problem, totals=collect_totals(problem))
