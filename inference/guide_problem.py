"""A guide and what it approximates: how SVI is set up, and how a fitted guide is drawn from and weighed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.guides import Resolved, is_point, resolve, whitened, whitening
from triptych.inference.marginal import Marginal
from triptych.inference.posterior import in_batches
from triptych.inference.starts import Start, target
from triptych.inference.symmetry import Relabellings

if TYPE_CHECKING:
    from triptych.inference.svi import SVI

__all__ = ["GAUSSIAN", "Problem", "optimiser_of"]

# Guides whose density is a Gaussian's in closed form.
GAUSSIAN = ("AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal")


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

    @classmethod
    def make(
        cls, settings: SVI, m: Marginal, start: Start, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Problem:
        """Build NumPyro's SVI around a guide."""
        point = is_point(settings.guide)
        # A point has no volume: its optimum is the mode in the natural parameters, as in NumPyro.
        density = target(m, args, kwargs, jacobian=False).density if point else start.density
        matrix = whitening(start, settings.guide)
        program = whitened(start, matrix, density, jacobian=not point)
        resolved = resolve(settings.guide, program, start, settings.guide_options)
        call = (tuple(args), dict(kwargs)) if resolved.own else ((), {})
        fitted = m if resolved.own else program
        svi = optimiser_of(settings, fitted, resolved.guide)
        return cls(fitted, resolved, m, start, matrix, call, svi)

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
        sites = self.start.space.sites if own else ("z",)
        gaussian = None
        if isinstance(guide, AutoLaplaceApproximation) and not own:
            gaussian = guide.get_posterior(parameters)
        # The same density in closed form, where there is one: quicker to compile than the guide's program.
        closed = guide.get_posterior(parameters) if self.resolved.name in GAUSSIAN and not own else gaussian
        centre, matrix = jnp.asarray(self.start.centre, float), jnp.asarray(self.matrix, float)
        inverse = 1 / matrix if matrix.ndim == 1 else jnp.linalg.inv(matrix)

        def log_q_at(u: Any) -> Any:
            z = (u - centre) * inverse if inverse.ndim == 1 else inverse @ (u - centre)
            if closed is not None:
                return closed.log_prob(z)
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

        values, lp, log_q = in_batches(one, np.arange(count), batch=batch)
        statistics = (
            {"lp": lp[None]} if is_point(guide) else {"lp": lp[None], "log_weight": (lp - log_q)[None]}
        )
        if own:
            return {site: value[None, :keep] for site, value in values.items()}, statistics
        kept = values["z"][:keep]
        return self.start.space.natural(np.asarray(self._unwhitened(kept))[None]), statistics

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
