"""A guide and what it approximates: how SVI is set up, and how a fitted guide is drawn from and weighed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.batches import in_batches
from triptych.inference.effort import briefly
from triptych.inference.guides import (
    Resolved,
    is_point,
    place_of,
    resolve,
    set_up,
    shape_of,
    unchecked,
    whitened,
    whitening,
)
from triptych.inference.marginal import Marginal
from triptych.inference.sharing import shared
from triptych.inference.starts import Start, target
from triptych.inference.symmetry import Relabellings

if TYPE_CHECKING:
    from triptych.inference.svi import SVI

__all__ = ["GAUSSIAN", "Problem", "optimiser_of"]

# Guides whose density is a Gaussian's in closed form.
GAUSSIAN = ("AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal")
SHAPED = (*GAUSSIAN, "AutoNormal")  # that are set up from the shape of a program


@dataclasses.dataclass(frozen=True)
class Shaped:
    """A guide that keeps nothing of the program but its shape: it serves every run of the program."""

    resolved: Resolved
    svi: Any
    begin: Callable[[jax.Array], Any]  # key → the state before the first step
    draw: Callable[..., jax.Array]  # (number of the draw, key, the guide's parameters) → z

    @classmethod
    def make(cls, settings: SVI, start: Start, program: Callable[..., Any]) -> Shaped:
        """Build the guide, and NumPyro's SVI around it."""
        from numpyro import handlers

        shape = shape_of(start.space.size)
        resolved = resolve(settings.guide, shape, start, settings.guide_options)
        guide = unchecked(resolved.guide)
        svi = optimiser_of(settings, program, guide)
        # Operation by operation NumPyro would compile the density, its gradient, and a hundred small things.
        first = optimiser_of(settings, shape, guide)
        init = briefly(first.init, 0)

        def begin(key: jax.Array) -> Any:
            if resolved.guide.prototype_trace is None:
                set_up(resolved.guide)
            state = init(key)
            svi.constrain_fn = first.constrain_fn
            return state

        def draw(index: Any, key: jax.Array, parameters: Any) -> jax.Array:
            seeded = handlers.seed(guide, jax.random.fold_in(key, index))
            drawn = handlers.trace(handlers.substitute(seeded, parameters)).get_trace()
            return drawn["z"]["value"]

        return cls(resolved, svi, begin, draw)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A guide and the program it approximates: the whitened one, or the marginal for a guide of one's own."""

    program: Callable[..., Any]
    resolved: Resolved
    m: Marginal
    start: Start
    matrix: np.ndarray  # u = centre + matrix · z
    call: tuple[tuple[Any, ...], dict[str, Any]]  # of `program` and guide
    svi: Any
    shaped: Shaped | None = None  # where the guide needs no more of the program than its shape

    @classmethod
    def make(
        cls, settings: SVI, m: Marginal, start: Start, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Problem:
        """Build NumPyro's SVI around a guide."""
        point = is_point(settings.guide)
        # A point has no volume: its optimum is the mode in the natural parameters, as in NumPyro.
        density = target(m, args, kwargs, jacobian=False).density if point else start.density
        matrix = whitening(start, settings.guide)
        program = partial(whitened(start.space.size), density)
        resolved = resolve(settings.guide, program, start, settings.guide_options)
        if resolved.own:
            call = (tuple(args), dict(kwargs))
            return cls(m, resolved, m, start, matrix, call, optimiser_of(settings, m, resolved.guide))
        call = (place_of(start, matrix, volume=not point), {})
        if resolved.name not in SHAPED:
            svi = optimiser_of(settings, program, resolved.guide)
            return cls(program, resolved, m, start, matrix, call, svi)
        options = tuple(sorted(settings.guide_options.items()))
        what = ("guide", settings.guide, options, settings.learning_rate, settings.particles)
        shaped = shared(what, m, args, kwargs, lambda: Shaped.make(settings, start, program))
        return cls(program, shaped.resolved, m, start, matrix, call, shaped.svi, shaped)

    def begin(self, key: jax.Array) -> Any:
        """Give the state before the first step."""
        args, kwargs = self.call
        return self.svi.init(key, *args, **kwargs) if self.shaped is None else self.shaped.begin(key)

    def draw(
        self,
        key: jax.Array,
        parameters: Mapping[str, Any],
        *,
        keep: int,
        count: int,
        labels: Relabellings,
        batch: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Draw from the guide.

        Returns
        -------
        Site → (1, keep, …); and `lp` and `log_weight` = lp − log q of `count` draws, the kept ones first,
        (1, count), nats: q is the guide with its labels exchanged (`symmetry.py`).
        """
        from numpyro import handlers
        from numpyro.infer.autoguide import AutoLaplaceApproximation
        from numpyro.infer.util import log_density

        args, kwargs = self.call
        guide, own = self.resolved.guide, self.resolved.own
        if self.resolved.name in GAUSSIAN and self.shaped is not None:
            size = {"keep": keep, "count": count, "batch": batch}
            return self._draw_gaussian(self.shaped, key, parameters, labels=labels, **size)
        sites = self.start.space.sites if own else ("z",)
        gaussian = None
        if isinstance(guide, AutoLaplaceApproximation) and not own:
            gaussian = guide.get_posterior(parameters)
        centre, matrix = jnp.asarray(self.start.centre, float), jnp.asarray(self.matrix, float)
        inverse = 1 / matrix if matrix.ndim == 1 else jnp.linalg.inv(matrix)

        def log_q_at(u: Any) -> Any:
            z = (u - centre) * inverse if inverse.ndim == 1 else inverse @ (u - centre)
            if gaussian is not None:
                return gaussian.log_prob(z)
            # An autoguide draws all sites at once, as "_auto_latent", or each by its name.
            seeded = handlers.seed(handlers.substitute(guide, {"z": z, "_auto_latent": z}), key)
            return log_density(seeded, args, kwargs, dict(parameters))[0]

        def one(index: Any) -> tuple[Any, Any, Any]:
            chosen = jax.random.fold_in(key, index)
            if gaussian is not None:
                values = {"z": gaussian.sample(chosen)}
                log_q = gaussian.log_prob(values["z"])
            else:
                seeded = handlers.seed(guide, chosen)
                log_q, trace = log_density(seeded, args, kwargs, dict(parameters))
                values = {site: trace[site]["value"] for site in sites}
            if labels.size > 1:
                log_q = labels.exchanged(self.start.space, log_q_at, self._unwhitened(values["z"]))
            else:
                log_q -= labels.separate
            lp = log_density(handlers.seed(self.program, 0), args, kwargs, values)[0]
            return values, lp, log_q

        values, lp, log_q = in_batches(one, np.arange(count), batch, numbers=self.start.posterior.numbers)
        statistics = (
            {"lp": lp[None]} if is_point(guide) else {"lp": lp[None], "log_weight": (lp - log_q)[None]}
        )
        if own:
            return {site: value[None, :keep] for site, value in values.items()}, statistics
        kept = values["z"][:keep]
        return self.start.space.natural(np.asarray(self._unwhitened(kept))[None]), statistics

    def _draw_gaussian(
        self,
        shaped: Shaped,
        key: jax.Array,
        parameters: Mapping[str, Any],
        *,
        keep: int,
        count: int,
        labels: Relabellings,
        batch: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Draw from a guide whose density is a Gaussian's: only its draws have to be compiled for it."""
        from numpyro import validation_enabled

        with validation_enabled(False):
            closed: Any = shaped.resolved.guide.get_posterior(dict(parameters))
        closed = closed.to_event(len(closed.batch_shape))  # of a diagonal guide: one density a draw

        matrix = self.matrix
        inverse = 1 / matrix if matrix.ndim == 1 else np.linalg.inv(matrix)
        volume = np.sum(np.log(matrix)) if matrix.ndim == 1 else np.linalg.slogdet(matrix)[1]

        def log_q(u: np.ndarray) -> np.ndarray:
            z = (u - self.start.centre) * inverse if matrix.ndim == 1 else (u - self.start.centre) @ inverse.T
            return in_batches(closed.log_prob, z)

        z = in_batches(shaped.draw, np.arange(count), given=(key, dict(parameters)))
        u = self._unwhitened(z)
        lp = in_batches(self.start.density, u, batch, numbers=self.start.posterior.numbers) + volume
        log_weight = lp - labels.exchanged_at(self.start.space, log_q, u)
        return self.start.space.natural(u[None, :keep]), {"lp": lp[None], "log_weight": log_weight[None]}

    def _unwhitened(self, z: Any) -> Any:
        """Give u = centre + W z, for one z (p,) or many (n, p)."""
        return self.start.centre + (z * self.matrix if self.matrix.ndim == 1 else z @ self.matrix.T)


def optimiser_of(settings: SVI, program: Callable[..., Any], guide: Any) -> Any:
    """Give NumPyro's SVI of a guide: Adam, whose rate is set block by block, on the averaged ELBO."""
    import optax
    from numpyro.infer import SVI as NumPyroSVI  # noqa: N811
    from numpyro.infer import Trace_ELBO
    from numpyro.optim import optax_to_numpyro

    optimiser = optax_to_numpyro(optax.inject_hyperparams(optax.adam)(learning_rate=settings.learning_rate))
    return NumPyroSVI(program, guide, optimiser, Trace_ELBO(num_particles=settings.particles))
