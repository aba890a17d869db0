"""Multi-path Pathfinder: Gaussians along L-BFGS paths, pooled, weighed and resampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.tree_util import Partial

from triptych.inference.arguments import checked
from triptych.inference.batches import in_batches
from triptych.inference.effort import cells, in_order
from triptych.inference.em.starts import generator
from triptych.inference.fit import Fit
from triptych.inference.gaussian_fit import settings_of
from triptych.inference.importance import from_weights, smoothed
from triptych.inference.labels import align_all
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.posterior import assemble, batch_size, log_likelihood_at, point_estimate
from triptych.inference.precision import double_precision
from triptych.inference.remembered import remembering
from triptych.inference.sharing import kept
from triptych.inference.starts import prior_points, target
from triptych.inference.status import Status, say
from triptych.inference.svi import weights_wanted
from triptych.inference.symmetry import labels_of
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["Pathfinder", "Paths"]

LARGEST = 1000  # coordinates; the pooled density holds a dense matrix a path
ELBO_DRAWS = 50  # by which the best Gaussian of a path is chosen
POOL = 5  # times the draws, from which they are resampled without replacement


class Paths(NamedTuple):
    """The best Gaussian of each path, in u: mean (paths, p), root (paths, p, p), and its ELBO, nats."""

    mean: np.ndarray
    root: np.ndarray
    elbo: np.ndarray
    steps: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pathfinder:
    """Follow L-BFGS from many points, take the Gaussian with the best ELBO on each path, pool and resample.

    The Gaussian of a point on a path has L-BFGS' own inverse Hessian. Draws of all paths are weighed against
    their mixture, labels exchanged, and resampled by Pareto-smoothed importance weights. Quick and rough: it
    says where the posterior is, and k-hat says how far to trust it. The paths are BlackJAX's.

    Parameters
    ----------
    model : any NumPyro program; discrete latents are summed out.
    paths : how many, from the densest of 256 draws of the prior.
    steps : of L-BFGS on a path, at most.
    draws : resampled, kept in the fit.

    Raises
    ------
    InputError : a setting out of range; on `run`, more than 1000 coordinates, or no path with a finite ELBO.

    References
    ----------
    L. Zhang, B. Carpenter, A. Gelman and A. Vehtari (2022), Pathfinder: parallel quasi-Newton variational
    inference, JMLR 23(306).
    """

    method: ClassVar[str] = "pathfinder"

    model: Callable[..., Any]
    paths: int = 8
    steps: int = 200
    draws: int = 1000

    def __post_init__(self) -> None:
        for name in ("paths", "steps", "draws"):
            whole_number(name, getattr(self, name))

    def run(self, key: jax.Array, *args: Any, **kwargs: Any) -> Fit:
        """Follow the paths and draw.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.

        Raises
        ------
        InputError : data that the model refuses, a program that cannot be traced or is too large.
        """
        args, kwargs = checked(self.model, args, kwargs)
        m = marginal(self.model)
        key_start, key_path, key_draw, key_pick = jax.random.split(key, 4)
        double = double_precision()
        with stopwatch() as watch, double, remembering(m, args, kwargs) as (args, kwargs):
            posterior = target(m, args, kwargs)
            if posterior.space.size > LARGEST:
                raise InputError(
                    f"{posterior.space.size} coordinates are too many for Pathfinder's pool (limit "
                    f"{LARGEST}): use SVI with guide='AutoLowRankMultivariateNormal'."
                )
            points = prior_points(key_start, m, args, kwargs, posterior.space)
            paths = follow(key_path, posterior.density, points, self.paths, self.steps)
            structure = m.structure(*args, **kwargs)
            u, lp, weights, separate = pool(
                key_draw, posterior, paths, max(POOL * self.draws, weights_wanted(structure)), m, args, kwargs
            )
            chosen = resampled(key_pick, weights, self.draws)
            samples = posterior.space.natural(u[chosen][None])
            best = posterior.space.constrain(jnp.asarray(paths.mean[np.argmax(paths.elbo)]))
            pivot = {site: np.asarray(value) for site, value in best.items()}
            flat, _ = align_all(m, {s: value[0] for s, value in samples.items()}, pivot, *args, **kwargs)
            samples = {site: value[None] for site, value in flat.items()}
            estimate = point_estimate(samples, {site: p.support for site, p in structure.parameters.items()})
            statistics = {"lp": lp[chosen][None], "log_weight": weights[chosen][None]}
            tree, findings = assemble(m, samples, args, kwargs, sample_stats=statistics)
            tree["optimization"] = xr.DataTree(
                xr.Dataset({"elbo": ("path", paths.elbo), "steps": ("path", paths.steps)})
            )
            return Fit(
                method=self.method,
                model=self.model,
                status=Status.CONVERGED,
                seconds=watch.seconds,
                parameters=estimate,
                log_likelihood=log_likelihood_at(m, estimate, args, kwargs),
                objective=np.zeros(0),
                data=tree,
                evidence=from_weights(weights, "multi-path Pathfinder", symmetry=separate),
                findings=tuple(say(finding) for finding in findings),
                settings=settings_of(self),
            )


def follow(
    key: jax.Array, density: Callable[[Any], jax.Array], points: np.ndarray, paths: int, steps: int
) -> Paths:
    """Follow L-BFGS from the densest of some points (n, p), in the units of their spread.

    Raises
    ------
    InputError : no path has a point whose Gaussian has a finite ELBO.
    """
    spread = np.median(np.abs(points - np.median(points, axis=0)), axis=0)
    unit = np.where(spread > 0, spread, 1.0)
    values = in_batches(density, points)
    ranked = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")[:paths]

    # Its own program, as in `matching.py`.
    follow_all = kept(("follow", density, steps), lambda: in_order(partial(_follow, steps=steps)))
    best = follow_all(Partial(density), key, jnp.asarray(points[ranked] / unit), jnp.asarray(unit))
    mean, root, elbo, count = (np.asarray(part) for part in best)
    fine = np.isfinite(elbo) & np.all(np.isfinite(root), axis=(1, 2)) & np.all(np.isfinite(mean), axis=1)
    if not np.any(fine):
        raise InputError(
            "No path of Pathfinder reached a point with a finite ELBO: check the priors' scales, or use SVI."
        )
    return Paths(unit * mean[fine], unit[:, None] * root[fine], elbo[fine], count[fine])


def _follow(
    density: Partial, key: jax.Array, starts: jax.Array, unit: jax.Array, *, steps: int
) -> tuple[jax.Array, ...]:
    """Follow a path from each start z (k, p), u = unit · z: the fields of `Paths`, in z."""
    from blackjax.vi.pathfinder import approximate

    def scaled(z: Any) -> jax.Array:
        return density(unit * z)

    def path(key: jax.Array, start: jax.Array) -> tuple[Any, jax.Array]:
        best, info = approximate(key, scaled, start, ELBO_DRAWS, maxiter=steps)
        return best, jnp.sum(jnp.isfinite(info.path.elbo))

    best, taken = jax.vmap(path)(jax.random.split(key, len(starts)), starts)
    H = jax.vmap(lambda a, b, c: jnp.diag(a) + b @ c @ b.T)(best.alpha, best.beta, best.gamma)
    # BlackJAX keeps the gradient of the log density.
    mean = best.position + jnp.einsum("kij,kj->ki", H, best.grad_position)
    return mean, jnp.linalg.cholesky(H), best.elbo, taken


def pool(
    key: jax.Array,
    posterior: Any,
    paths: Paths,
    number: int,
    m: Marginal,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Draw u (n, p) from the mixture of all paths' Gaussians, with log p and log p − log q of each, nats.

    q is the mixture with its labels exchanged. Paths far below the best one's ELBO hold nothing, and are
    left out: they would only be drawn in vain.
    """
    space, density = posterior.space, posterior.density
    near = paths.elbo > np.max(paths.elbo) - 10.0
    mean, root = paths.mean[near], paths.root[near]
    size = mean.shape[1]
    log_det = np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1)
    constant = -0.5 * size * np.log(2 * np.pi) - log_det
    best = space.constrain(jnp.asarray(mean[np.argmax(paths.elbo[near])]))
    labels = labels_of(m, {site: np.asarray(value) for site, value in best.items()}, args, kwargs)

    def one(index: Any, key: jax.Array, mean: Any, root: Any, inverse: Any, constant: Any) -> tuple[Any, ...]:
        def log_q(u: Any) -> jax.Array:
            white = jnp.einsum("kij,kj->ki", inverse, u - mean)
            return jax.nn.logsumexp(constant - 0.5 * jnp.sum(white**2, axis=1)) - np.log(len(mean))

        which = index % len(mean)
        noise = jax.random.normal(jax.random.fold_in(key, index), (size,), mean.dtype)
        u = mean[which] + root[which] @ noise
        lp = density(u)
        return u, lp - space.log_jacobian(u), lp - labels.exchanged(space, log_q, u)

    same = kept(("pool", density, repr(labels)), lambda: one)
    given = (key, mean, root, np.linalg.inv(root), constant)
    batch, numbers = batch_size(m.structure(*args, **kwargs)), cells(args, kwargs)
    u, lp, weights = in_batches(same, np.arange(number), batch, numbers=numbers, given=given)
    return u, lp, weights, labels.separate


def resampled(key: jax.Array, log_weights: np.ndarray, draws: int) -> np.ndarray:
    """Choose draws in proportion to their Pareto-smoothed weights, without replacement: indices (draws,)."""
    finite = np.flatnonzero(np.isfinite(log_weights))
    weights, _ = smoothed(log_weights[finite])
    gumbel = generator(key).gumbel(size=len(finite))
    order = np.argsort(-(weights + gumbel), kind="stable")[:draws]
    return generator(jax.random.fold_in(key, 1)).permutation(finite[order])
