"""Where SVI, MCMC and others begin: the best of several climbs from the prior, and the scales there."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.curvature import principal_factor
from triptych.inference.effort import briefly, cells, normals, split
from triptych.inference.laplace import LARGEST_HESSIAN, climb, find_mode
from triptych.inference.precision import double_precision
from triptych.inference.sharing import shared
from triptych.inference.target import Target, target, unconstrained
from triptych.inference.unconstrained import Coordinates
from triptych.models.errors import InferenceWarning, InputError

__all__ = ["Start", "Target", "around", "best_of_climbs", "find_start", "target"]

CANDIDATES = 256  # prior draws whose density is looked at
CLIMBS = (4, 16)  # of them, the best are climbed from: from `LARGE` coordinates on the first number
FINALISTS = (1, 3)  # of the climbs' ends, the best get a Hessian and an ELBO
LARGE = 200  # coordinates
LATENT_POINTS = 16  # where there are more than that, points that suit random posteriors of the latents
ELBO_DRAWS = 64
SAME_MODE = 1e-3  # nats


@dataclasses.dataclass(frozen=True)
class Start:
    """A point to begin from and the scales of the posterior around it, in the unconstrained space.

    Attributes
    ----------
    posterior : of which this is a point.
    centre : (p,), a mode of log p(x, θ) + log |det ∂θ/∂u|.
    scale : (p,), standard deviation of each coordinate given the others, 1 / √(−∂²/∂u_i²).
    factor : (p, r), F Fᵀ is Laplace's covariance; `None` where p is too large for it.
    elbo : of Laplace's Gaussian there, nats.
    """

    posterior: Target
    centre: np.ndarray
    scale: np.ndarray
    factor: np.ndarray | None
    elbo: float

    @property
    def space(self) -> Coordinates:
        """The change of variables."""
        return self.posterior.space

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The point in the natural parameters, site → array."""
        return {s: value[0, 0] for s, value in self.space.natural(self.centre[None, None]).items()}

    @property
    def whole(self) -> bool:
        """Whether Laplace's covariance is there and has full rank."""
        return self.factor is not None and self.factor.shape[1] == len(self.centre)

    @property
    def whitening(self) -> np.ndarray:
        """W (p, p), u = centre + W z: Laplace's factor, or the scales alone where it is not whole."""
        return np.asarray(self.factor) if self.whole else np.diag(self.scale)

    @property
    def density(self) -> Callable[[Any], jax.Array]:
        """Log density of u, nats."""
        return self.posterior.density


def find_start(
    key: jax.Array,
    m: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    parameters: Mapping[str, Any] | None,
) -> Start:
    """Find the mode to start around: from what is given, from EM's optimum, or by climbing from the prior."""
    from triptych.inference.em import EM, has_kernel

    key_search, key_mode = split(key, 2)
    if parameters is None and has_kernel(m.program) and args:
        with warnings.catch_warnings():
            # What EM has to say of its own answer is not said of this one.
            warnings.simplefilter("ignore", InferenceWarning)
            parameters = EM(m.program, draws=0).run(key_search, *args, **kwargs).parameters
    if parameters is None:
        return best_of_climbs(key_search, m, args, kwargs)
    posterior = target(m, args, kwargs)
    missing = [site for site in posterior.space.sites if site not in parameters]
    if missing:
        raise InputError(f"`parameters` has no {missing[0]!r}: give a value for every site.")
    given = {site: np.asarray(parameters[site]) for site in posterior.space.sites}
    point = np.asarray(unconstrained(posterior.space)(given), float)
    return around(key_mode, posterior, point)


def best_of_climbs(key: jax.Array, m: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Start:
    """Search the posterior for the mode that holds the most of it.

    Many draws of the prior, the densest of them climbed from by L-BFGS, and of the highest ends the one whose
    Gaussian has the best ELBO: a spike on a few rows is higher than the posterior's bulk, but holds little.

    Raises
    ------
    InputError : no draw of the prior has a finite density.
    """
    with double_precision():
        posterior = target(m, args, kwargs)
        key_prior, key_elbo = split(key, 2)
        points = prior_points(key_prior, m, args, kwargs, posterior.space)
        if posterior.space.size >= LARGE:
            # Where parameters are many a draw of the prior is far from any good mode.
            points = np.concatenate([points, latent_points(key_prior, m, args, kwargs, posterior.space)])
    return best_of_points(key_elbo, posterior, points)


def best_of_points(key: jax.Array, posterior: Target, points: np.ndarray) -> Start:
    """Climb from the densest of some points (n, p), and give the end whose Gaussian has the best ELBO.

    Raises
    ------
    InputError : no point has a finite density.
    """
    with double_precision():
        small = posterior.space.size < LARGE
        climbs, most = CLIMBS[small], FINALISTS[small]
        values = posterior.values(points)
        if not np.any(np.isfinite(values)):
            raise InputError(
                "The log density is not finite at any of "
                f"{len(points)} draws from the program's priors: check that the data lie in the support of "
                "their distribution, and the priors' scales."
            )
        ranked = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")[:climbs]
        ranked = ranked[np.isfinite(values[ranked])]
        # Coordinates in the prior's own units, so that climbing does not depend on the units of the data.
        spread = np.median(np.abs(points - np.median(points, axis=0)), axis=0)
        unit = np.diag(np.where(spread > 0, spread, 1.0))
        ends = [climb(posterior.value_and_grad, points[i], unit) for i in ranked]
        heights = posterior.values(np.stack(ends))
        order = np.argsort(-np.where(np.isfinite(heights), heights, -np.inf), kind="stable")
        finalists: list[int] = []
        for i in order:
            if len(finalists) < most and all(heights[j] - heights[i] > SAME_MODE for j in finalists):
                finalists.append(int(i))
        starts = [around(key, posterior, ends[i]) for i in finalists]
    return max(starts, key=lambda start: start.elbo)


def around(key: jax.Array, posterior: Target, point: np.ndarray) -> Start:
    """Climb to the mode next to a point, and measure the posterior's scales and Laplace's ELBO there."""
    with double_precision():
        if posterior.space.size > LARGEST_HESSIAN:
            point = climb(posterior.value_and_grad, point, np.eye(len(point)))
            height = float(posterior.value_and_grad(jnp.asarray(point))[0])
            return Start(posterior, point, np.ones(len(point)), None, height)
        centre, precision, _ = find_mode(posterior.value_and_grad, posterior.curvature, point)
        factor, log_determinant, _ = principal_factor(precision, posterior.space)
        diagonal = np.diag(precision)
        scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 1.0)
        noise = normals(key, (ELBO_DRAWS, factor.shape[1]))
        values = posterior.values(centre + noise @ factor.T)
        entropy = 0.5 * factor.shape[1] * (1 + np.log(2 * np.pi)) - 0.5 * log_determinant
        elbo = float(np.mean(values) + entropy)
    return Start(posterior, centre, scale, factor, elbo if np.isfinite(elbo) else -np.inf)


def latent_points(
    key: jax.Array, m: Any, args: Sequence[Any], kwargs: Mapping[str, Any], space: Coordinates
) -> np.ndarray:
    """Give parameters that suit random posteriors of the discrete latents: (n, p), unconstrained.

    One M-step of EM derived from the program; nothing, (0, p), where there is no such latent or step.
    """
    from triptych.inference.em.derived import derive
    from triptych.inference.em.kernel import Call

    none = np.empty((0, space.size))
    try:
        if not m.structure(*args, **kwargs).latents:
            return none
        kernel = derive(m.program, Call(tuple(args), dict(kwargs), None, "map", "em"))
    except InputError:
        return none
    stacked = kernel.starts(key, LATENT_POINTS, "portfolio").parameters
    points = jax.jit(jax.vmap(space.unconstrain))(stacked)
    return np.nan_to_num(np.asarray(points))


def prior_points(
    key: jax.Array,
    m: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    space: Coordinates,
    count: int = CANDIDATES,
) -> np.ndarray:
    """Draw parameters from the program's priors, in the unconstrained space, (count, p).

    A prior that cannot be drawn from (improper) gives unconstrained values in (−2, 2), as in NumPyro.
    """

    def one(key: jax.Array) -> jax.Array:
        return prior_draw(key, m, args, kwargs, space)

    def make() -> Callable[[jax.Array], jax.Array]:
        work = cells(args, kwargs) * count
        return briefly(lambda key: jax.lax.map(one, jax.random.split(key, count)), work)

    draw = shared(("prior points", count), m, args, kwargs, make)
    return np.nan_to_num(np.asarray(draw(key)))


def prior_draw(
    key: jax.Array, m: Any, args: Sequence[Any], kwargs: Mapping[str, Any], space: Coordinates
) -> jax.Array:
    """Draw parameters from the program's priors, (p,); may be traced."""
    from numpyro import handlers
    from numpyro.infer.initialization import init_to_sample

    program = handlers.substitute(handlers.seed(m, key), substitute_fn=init_to_sample)
    trace = handlers.trace(program).get_trace(*args, **kwargs)
    return space.unconstrain({site: trace[site]["value"] for site in space.sites})
