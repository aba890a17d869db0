"""The ledger of EM: log p(x | θ) = ELBO(q, θ) + KL(q ‖ p(z | x, θ)), each of the three had on its own.

    ELBO(q, θ) = E_q[log p(x, z | θ)] + H(q)

The E-step sets q to the posterior, so that KL is 0 and the bound touches; the M-step raises the bound with q
held, and a gap opens: KL(p(z | x, θ_t) ‖ p(z | x, θ_t+1)) > 0 (Neal & Hinton 1998). Nothing here is had by
subtracting the others, so that how well the three close says how well each was computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.arguments import checked
from triptych.inference.batches import in_batches
from triptych.inference.effort import briefly, cells
from triptych.inference.em import latent_graph
from triptych.inference.em.expected import Joint, joint_of
from triptych.inference.em.family import Parameters
from triptych.inference.em.regression_ledger import regression_ledger
from triptych.inference.precision import double_precision
from triptych.inference.survey import survey
from triptych.models.errors import InputError
from triptych.models.linear_regression import BayesianLinearRegression

__all__ = ["Ledger", "Path", "ledger", "path"]

LEDGER_BATCH = 8  # points whose tables are held at a time
CLOSED = 1e-8  # relative to log p(x | θ): what the three may be apart before the latents' graph has a loop


class Ledger(NamedTuple):
    """log p(x | θ), ELBO(q, θ) and KL(q ‖ p(z | x, θ)), in nats; `residual` is what they fail to close by."""

    log_likelihood: float
    elbo: float
    kl: float

    @property
    def residual(self) -> float:
        """Log p(x | θ) − ELBO − KL, nats: rounding."""
        return self.log_likelihood - self.elbo - self.kl


class Path(NamedTuple):
    """The ledger along EM: row t after the E-step and the M-step of step t, arrays (T,), nats.

    `log_likelihood` (T + 1,) is at θ_0 … θ_T; after the E-step the ELBO is at (q_t, θ_t), after the M-step at
    (q_t, θ_t+1), q_t = p(z | x, θ_t). `parameters`: site → (T + 1, …).
    """

    log_likelihood: np.ndarray
    elbo_after_e: np.ndarray
    kl_after_e: np.ndarray
    elbo_after_m: np.ndarray
    kl_after_m: np.ndarray
    parameters: Mapping[str, np.ndarray]


def ledger(
    model: Callable[..., Any],
    parameters: Mapping[str, Any],
    *args: Any,
    q: Mapping[str, Any] | Any = None,
    **kwargs: Any,
) -> Ledger:
    """Give the ledger of a program at θ for a q.

    Parameters
    ----------
    model : any program with discrete latents whose graph has no loop, or `BayesianLinearRegression` (its
        latent is w).
    parameters : site → θ, every continuous site.
    *args, **kwargs : what the program is called with.
    q : `None`: the posterior at θ, so KL is 0; site → another θ: the posterior there; latent → (plates…, K)
        responsibilities, or the array itself where there is one latent; for a regression {"mean": (D,),
        "covariance": (D, D)} of w.

    Raises
    ------
    InputError : no discrete latent, latents whose graph has a loop, or a q that is none of these.
    """
    args, kwargs = checked(model, args, kwargs)
    with double_precision():
        if isinstance(model, BayesianLinearRegression):
            return Ledger(*regression_ledger(model, parameters, *args, q=q))
        program = _Program.bind(model, parameters, args, kwargs)
        theta = program.inward(parameters)
        given = program.read(q, theta)
        numbers = np.asarray(jax.jit(program.entry)(theta, given), float)
    _check(numbers[:, None])
    return Ledger(*map(float, numbers[:3]))


def path(
    model: Callable[..., Any],
    parameters: Mapping[str, Any],
    *args: Any,
    steps: int = 50,
    objective: str = "map",
    **kwargs: Any,
) -> Path:
    """Take EM's steps from a point, and give the ledger at each half-step.

    Parameters
    ----------
    parameters : site → start.
    steps : T.
    objective : "map" or "mle"; under "map" the M-step raises the ELBO plus log p(θ).

    Raises
    ------
    InputError : as `ledger`.
    """
    from triptych.inference.em.algorithm import EM

    kernel = EM(model, objective=objective).bind(*args, **kwargs)
    args, kwargs = checked(model, args, kwargs)
    with double_precision():
        inner = kernel.inward(parameters)
        step = briefly(lambda problem, point: problem.step(point)[0], cells(args, kwargs) * steps)
        points = [kernel.outward(inner)]
        for _ in range(steps):
            inner = step(kernel.problem, inner)
            points.append(kernel.outward(inner))
        stacked = {site: np.stack([np.asarray(point[site]) for point in points]) for site in points[0]}
        if isinstance(model, BayesianLinearRegression):
            held = np.array([regression_ledger(model, point, *args) for point in points]).T
            opened = np.array(
                [regression_ledger(model, points[t + 1], *args, q=points[t]) for t in range(steps)]
            ).reshape(steps, 3)
            return Path(held[0], held[1, :-1], held[2, :-1], opened[:, 1], opened[:, 2], stacked)
        program = _Program.bind(model, points[0], args, kwargs)
        theta = {site: np.asarray(stacked[site], np.float64) for site in program.shapes}
        before, after = ({site: value[part] for site, value in theta.items()} for part in _SHIFTED)
        here = {site: np.concatenate([value, after[site]]) for site, value in theta.items()}
        there = {site: np.concatenate([value, before[site]]) for site, value in theta.items()}
        numbers = cells(args, kwargs)
        found = in_batches(lambda both: program.entry(*both), (here, there), LEDGER_BATCH, numbers=numbers).T
        held, opened = found[:, : steps + 1], found[:, steps + 1 :]
    _check(held)
    _check(opened)
    return Path(held[0], held[1, :-1], held[2, :-1], opened[1], opened[2], stacked)


_SHIFTED = (slice(None, -1), slice(1, None))


@dataclasses.dataclass(frozen=True)
class _Program:
    """A program bound to its data, its priors on θ left out: what the three numbers are read off."""

    joint: Joint
    graph: latent_graph.Graph
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def bind(
        cls, model: Callable[..., Any], parameters: Mapping[str, Any], args: Any, kwargs: Any
    ) -> _Program:
        sites = survey(model, args, kwargs)
        if not sites.latents:
            raise InputError(
                "The program has no discrete latent: the ledger of EM is for discrete latents (and for "
                "BayesianLinearRegression)."
            )
        missing = [site for site in sites.parameters if site not in parameters]
        if missing:
            raise InputError(f"`parameters` has no {missing[0]!r}: give a value for every continuous site.")
        joint = joint_of(model, args, kwargs, frozenset(sites.parameters))
        shapes = {site: parameter.shape for site, parameter in sites.parameters.items()}
        point = {site: np.zeros(shape) for site, shape in shapes.items()}
        return cls(joint, latent_graph.graph_of(joint, point, args, kwargs), args, kwargs, shapes)

    def inward(self, parameters: Mapping[str, Any]) -> dict[str, jax.Array]:
        return {site: jnp.asarray(parameters[site], jnp.float64) for site in self.shapes}

    def read(self, q: Any, theta: Parameters) -> Parameters:
        """Give q as another θ, or as {latent: responsibilities}."""
        latents = self.joint.sites.latents
        if q is None:
            return theta
        if not isinstance(q, Mapping):
            if len(latents) != 1:
                raise InputError(f"`q` is an array, but there are latents {', '.join(latents)}: give a dict.")
            q = {next(iter(latents)): q}
        if not set(latents) <= set(q):
            lacking = [site for site in self.shapes if site not in q]
            if lacking:
                raise InputError(
                    f"`q` has neither every latent ({', '.join(latents)}) nor every parameter: it lacks "
                    f"{lacking[0]!r}."
                )
            return self.inward(q)
        given = {}
        for name, latent in latents.items():
            table = np.asarray(q[name], float)
            if table.shape != (*latent.shape, latent.size):
                raise InputError(
                    f"`q` of {name!r} has shape {table.shape}: it must have {(*latent.shape, latent.size)}."
                )
            if np.any(table < 0) or not np.allclose(table.sum(axis=-1), 1, atol=1e-6):
                raise InputError(f"`q` of {name!r} must be probabilities that sum to 1 along the last axis.")
            given[name] = jnp.asarray(table / table.sum(axis=-1, keepdims=True))
        return given

    def entry(self, theta: Parameters, given: Parameters) -> jax.Array:
        """Give log p(x | θ), ELBO, KL, and by how much the posterior's tables miss the posterior, (4,)."""
        joint, graph, sites = self.joint, self.graph, self.joint.sites
        own, value = latent_graph.posterior(joint, graph, theta, self.args, self.kwargs)
        if set(given) == set(sites.latents):
            q = latent_graph.product(graph, sites, given)
        else:
            q, _ = latent_graph.posterior(joint, graph, given, self.args, self.kwargs)
        negentropy = latent_graph.contrast(graph, sites, q, q)
        elbo = latent_graph.expected(joint, graph, q, theta, self.args, self.kwargs) - negentropy
        kl = negentropy - latent_graph.contrast(graph, sites, q, own)
        tight = latent_graph.expected(joint, graph, own, theta, self.args, self.kwargs)
        loop = value - tight + latent_graph.contrast(graph, sites, own, own)
        return jnp.stack([value, elbo, kl, loop])


def _check(numbers: np.ndarray) -> None:
    """Refuse tables that are not the posterior: with them the identity could not hold."""
    if np.any(np.abs(numbers[3]) > CLOSED * (1 + np.abs(numbers[0]))):
        raise InputError(
            "The latents' graph has a loop (latents that meet in a circle, or three in a factor): their "
            "posterior is no product of its cliques, and the ledger of EM cannot be had. Observe one of them."
        )
