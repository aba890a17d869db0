"""The hand-written EM kernel of Bayesian linear regression: data in, λ and β climbed, w and intercept out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from scipy.special import gammaln

from triptych.inference.em.family import Parameters
from triptych.inference.em.kernel import Call, Kernel, Review, Start, bind
from triptych.inference.em.regression import (
    CAP,
    STEPS,
    RegressionHyper,
    RegressionProblem,
    decompose,
    evidence,
    log_joint,
)
from triptych.inference.em.starts import generator
from triptych.inference.laplace import GaussianApproximation, laplace_from_density
from triptych.inference.status import Finding
from triptych.models.errors import InputError
from triptych.models.linear_regression import BayesianLinearRegression

__all__ = ["RegressionKernel"]

NONE_DETERMINED = 0.05  # well-determined weights (MacKay's γ) below which w counts as 0


@dataclasses.dataclass(frozen=True)
class RegressionKernel:
    """A regression bound to its data: X = U S Vᵀ about `centre`, y about `level`."""

    model: Callable[..., Any]
    problem: RegressionProblem
    rotation: np.ndarray  # V, (D, r)
    centre: np.ndarray  # (D,)
    level: float
    intercept: bool
    epsilon: float
    target: np.ndarray  # y (N,), as it was given

    @property
    def observed(self) -> dict[str, np.ndarray]:
        """Observed site → its values."""
        return {"y": self.target}

    @property
    def count(self) -> float:
        """Effective number of rows, Σ w."""
        return float(self.problem.moments.rows)

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Start from λ and β between a flat line and a perfect fit: the evidence can have two tops."""
        if init != "portfolio":
            raise InputError(f"`init={init!r}` is for mixtures: a regression starts from 'portfolio'.")
        moments = jax.tree.map(np.asarray, self.problem.moments)
        variance = (np.sum(moments.projected**2) + moments.residual) / moments.rows
        unit = np.sum(moments.singular**2) / moments.rows / variance  # of λ
        explained = np.linspace(0.05, 0.95, number)
        jitter = np.exp(0.1 * generator(key).standard_normal((2, number)))
        noise = jitter[0] / (variance * (1.0 - explained))
        precision = jitter[1] * unit / explained
        return Start({"lambda": precision, "beta": noise}, ("explained share",) * number)

    def sample(self, key: jax.Array, rows: int) -> Kernel:
        """Give the problem itself: an iteration does not depend on the number of rows."""
        del key, rows
        return self

    def inward(self, parameters: Mapping[str, Any]) -> Parameters:
        """Keep λ and β: w and the intercept follow from them."""
        if not {"lambda", "beta"} <= set(parameters):
            raise InputError("`parameters` must give a start for `lambda` and `beta`.")
        return {name: jnp.asarray(parameters[name], jnp.float64) for name in ("lambda", "beta")}

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Add the posterior mean of w, and the intercept at X = 0."""
        mean, _ = self.weights_posterior(parameters["lambda"], parameters["beta"])
        sites = {
            "lambda": np.asarray(parameters["lambda"]),
            "beta": np.asarray(parameters["beta"]),
            "w": mean,
        }
        if self.intercept:
            sites["intercept"] = np.asarray(self.level - mean @ self.centre)
        return sites

    def weights_posterior(self, precision: Any, noise: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and covariance (D, D) of p(w | y, λ, β)."""
        singular, projected = (
            np.asarray(self.problem.moments.singular),
            np.asarray(self.problem.moments.projected),
        )
        precision, noise = float(precision), float(noise)
        total = precision + noise * singular**2
        mean = self.rotation @ (noise * singular * projected / total)
        shrink = (1.0 / total - 1.0 / precision) * self.rotation
        return mean, np.eye(len(self.rotation)) / precision + shrink @ self.rotation.T

    @property
    def integrated(self) -> dict[str, str]:
        """Latent → how the E-step takes it."""
        return dict.fromkeys(("w", "intercept") if self.intercept else ("w",), "exact Gaussian")

    @property
    def supports(self) -> dict[str, Any]:
        """Site → NumPyro constraint."""
        return {"lambda": constraints.positive, "beta": constraints.positive}

    def natural_errors(self, errors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Give standard errors in the data's units: they are."""
        return dict(errors)

    @property
    def hessian_work(self) -> float:
        """Nothing: two parameters, and no row is read again."""
        return 0.0

    def approximate(
        self, parameters: Mapping[str, np.ndarray], objective: str, key: jax.Array, draws: int
    ) -> tuple[GaussianApproximation, dict[str, np.ndarray]]:
        """λ and β from Laplace on the log evidence; w and the intercept exactly, given each draw of them."""
        log_density = partial(log_posterior, self.problem, self.intercept)
        gaussian = laplace_from_density(log_density, parameters, self.supports, objective=objective)
        samples = {site: np.asarray(value) for site, value in gaussian.draws(key, draws).items()}
        return gaussian, self.with_weights(key, samples)

    def with_weights(self, key: jax.Array, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add exact draws of w and the intercept to draws of λ and β, each (1, draws)."""
        moments, samples = self.problem.moments, dict(samples)
        random, singular = generator(jax.random.fold_in(key, 1)), np.asarray(moments.singular)
        precision, noise = samples["lambda"][0][:, None], samples["beta"][0][:, None]
        total = precision + noise * singular**2
        mean = noise * singular * np.asarray(moments.projected) / total
        wide = random.standard_normal((len(precision), len(self.rotation))) / np.sqrt(precision)
        inside = wide @ self.rotation
        # Outside the design's row space w keeps its prior; inside it is the posterior.
        w = wide + (mean + inside * (np.sqrt(precision / total) - 1.0)) @ self.rotation.T
        samples["w"] = w[None]
        if self.intercept:
            noises = noise[:, 0] * float(moments.rows)
            level = self.level + random.standard_normal(len(w)) / np.sqrt(noises)
            samples["intercept"] = (level - w @ self.centre)[None]
        return samples

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Give the log evidence, w integrated out; say when the weights vanished or the fit is perfect."""
        values = np.asarray(_evidences(self.problem, parameters))
        precisions, noises = np.asarray(parameters["lambda"]), np.asarray(parameters["beta"])
        singular, reviews = np.asarray(self.problem.moments.singular), []
        for value, precision, noise in zip(values, precisions, noises, strict=True):
            found = []
            determined = float(np.sum(noise * singular**2 / (precision + noise * singular**2)))
            if determined < NONE_DETERMINED:
                text = (
                    f"The data determine {determined:.1g} of {len(self.rotation)} weights: λ grew without "
                    "bound, the columns explain nothing of y, and w is 0. Check the columns and y."
                )
                found.append(Finding("WEIGHTS_VANISH", text))
            if noise >= float(self.problem.hyper.beta_cap) * 1e-3:
                text = (
                    "β grew without bound: the columns fit y perfectly. "
                    "Use objective='map', or fewer columns."
                )
                found.append(Finding("PERFECT_FIT", text))
            reviews.append(Review(float(value), tuple(found)))
        return reviews


def log_posterior(problem: RegressionProblem, intercept: bool, theta: Mapping[str, Any]) -> jax.Array:
    """Give log p(y, λ, β), w and the intercept integrated out, in nats."""
    moments = problem.moments
    value = log_joint(moments, problem.hyper, theta["lambda"], theta["beta"]) + problem.constant
    # The evidence at b = ȳ; integrating b over its flat prior multiplies it by √(2π/(βN)).
    flat = 0.5 * jnp.log(2 * jnp.pi / (theta["beta"] * moments.rows))
    return jnp.asarray(value + (flat if intercept else 0.0))


@jax.jit
def _evidences(problem: RegressionProblem, parameters: Parameters) -> Any:
    return jax.vmap(partial(evidence, problem.moments))(parameters["lambda"], parameters["beta"])


@bind.register
def bind_regression(model: BayesianLinearRegression, call: Call) -> RegressionKernel:
    """Bind a regression: X (N, D), y (N,)."""
    if len(call.args) != 2 or call.kwargs:
        raise InputError("BayesianLinearRegression is fitted to a design and a target, `run(key, X, y)`.")
    if call.update not in STEPS:
        raise InputError(f"`update` is {call.update!r}: choose one of {', '.join(map(repr, STEPS))}.")
    X, target = model.validate(*call.args)
    X, y = X.astype(np.float64, copy=False), target.astype(np.float64, copy=False)
    weights = np.ones(len(y)) if call.sample_weight is None else call.sample_weight.astype(np.float64)
    rows = float(np.sum(weights))
    centre, level = np.zeros(X.shape[1]), 0.0
    if model.intercept:
        centre, level = weights @ X / rows, float(weights @ y / rows)
    centred, offset = X - centre, y - level
    if call.sample_weight is not None:
        centred, offset = centred * np.sqrt(weights)[:, None], offset * np.sqrt(weights)
    moments, rotation = decompose(centred, offset)
    # Σ w stands for N, and a weight w for w equal rows: each row's density to the power w.
    moments = moments._replace(rows=np.asarray(rows))
    with_prior = call.objective == "map"
    variance = max(float(np.var(y)), np.finfo(np.float64).tiny)
    unit = float(np.sum(moments.singular**2)) / (rows * X.shape[1]) / variance  # of λ
    gamma = [float(value) for value in model.prior(X, y)] if with_prior else [0.0] * 4
    shapes = [gamma[0] - 1.0, gamma[2] - 1.0] if with_prior else [0.0, 0.0]
    numbers = (shapes[0], gamma[1], shapes[1], gamma[3], CAP * max(unit, 1e-300), CAP / variance)
    hyper = RegressionHyper(*(jnp.asarray(number, jnp.float64) for number in numbers))
    constant = 0.0
    if with_prior:
        for shape, rate in ((gamma[0], gamma[1]), (gamma[2], gamma[3])):
            constant += shape * np.log(rate) - gammaln(shape)
    problem = RegressionProblem(
        jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), moments),
        hyper,
        jnp.asarray(constant, jnp.float64),
        call.update,
    )
    epsilon = float(np.finfo(np.float64).eps)
    return RegressionKernel(model, problem, rotation, centre, level, model.intercept, epsilon, target)
