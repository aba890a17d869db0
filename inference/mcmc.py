"""NUTS on the marginal, from overdispersed points around an optimum, with its chains checked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from triptych.inference.arguments import checked
from triptych.inference.batches import in_batches
from triptych.inference.chained import Chains, fit_of_chains
from triptych.inference.effort import normals, split
from triptych.inference.fit import Fit
from triptych.inference.marginal import marginal
from triptych.inference.nuts import Walk, walk
from triptych.inference.precision import matching_precision
from triptych.inference.remembered import remembering
from triptych.inference.starts import Start, find_start
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["MCMC"]

JITTER = 2.0  # Laplace standard deviations around the optimum that the chains start in


@dataclasses.dataclass(frozen=True)
class MCMC:
    """Walk the posterior p(θ | x) by the No-U-Turn sampler, discrete latents summed out.

    Chains start at overdispersed points around one optimum, EM's where there is a hand-written EM and else
    the best of several climbs: in one labelled mode, so they explore the posterior up to labels. That other
    modes may exist shows in R-hat only if a chain finds them; EM's restarts and SVI's search show them too.
    The mass matrix is Laplace's at first, and that of all chains' draws at the ends of Stan's windows.

    Parameters
    ----------
    model : any NumPyro program.
    warmup, draws : transitions a chain, to adapt and to keep.
    chains : how many.
    target_accept : acceptance probability that the step size is adapted to.
    max_tree_depth : a trajectory has at most 2^this steps.
    chain_method : "vectorized" (all chains in one program, adapting together) or "sequential" (each alone).

    Raises
    ------
    InputError : a setting out of range.

    References
    ----------
    M. D. Hoffman and A. Gelman (2014), The No-U-Turn sampler, JMLR 15, 1593–1623.
    """

    method: ClassVar[str] = "mcmc"

    model: Callable[..., Any]
    warmup: int = 1000
    draws: int = 1000
    chains: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 10
    chain_method: str = "vectorized"

    def __post_init__(self) -> None:
        for name, least in (("warmup", 1), ("draws", 1), ("chains", 1), ("max_tree_depth", 1)):
            whole_number(name, getattr(self, name), least)
        if not (isinstance(self.target_accept, int | float) and 0 < self.target_accept < 1):
            raise InputError(f"`target_accept` is {self.target_accept!r}: give a number between 0 and 1.")
        if self.chain_method not in ("vectorized", "sequential"):
            raise InputError(f"`chain_method` is {self.chain_method!r}: choose 'vectorized' or 'sequential'.")

    def run(
        self,
        key: jax.Array,
        *args: Any,
        parameters: Mapping[str, Any] | None = None,
        progress: Callable[[int, int, float], None] | None = None,
        **kwargs: Any,
    ) -> Fit:
        """Draw from the posterior.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.
        parameters : site → value to start around, instead of searching for an optimum.
        progress : called after each block with (transitions done, in all, mean acceptance probability).

        Raises
        ------
        InputError : data that the model refuses, a program that cannot be traced.
        """
        args, kwargs = checked(self.model, args, kwargs)
        m = marginal(self.model)
        precision = matching_precision(args, kwargs)
        with stopwatch() as watch, precision, remembering(m, args, kwargs) as (args, kwargs):
            key_start, key_jitter, key_run = split(key, 3)
            start = find_start(key_start, m, args, kwargs, parameters)
            chains = sample(self, start, key_jitter, key_run, progress)
            u, statistics = chains.u, chains.statistics
            statistics = statistics | {"lp": _log_joint(start, u, statistics["lp"])}
            walked = Chains(start.space.natural(u), u, statistics, start.space, start.density)
            key_bridge = jax.random.fold_in(key, 3)
            depth = self.max_tree_depth
            return fit_of_chains(
                key_bridge, self, m, walked, start.parameters, args, kwargs, watch, max_tree_depth=depth
            )


def sample(
    settings: MCMC,
    start: Start,
    key_jitter: jax.Array,
    key: jax.Array,
    progress: Callable[[int, int, float], None] | None,
) -> Walk:
    """Run NUTS, all chains together or one after the other."""
    points = start.centre + start.scale * overdispersed(key_jitter, start, settings.chains)
    keys = jax.random.split(key, settings.chains)
    if settings.chain_method == "vectorized":
        return walk(settings, start, keys, points, progress)
    runs = []
    for chain in range(settings.chains):
        show = None if progress is None else functools.partial(_show_chain, progress, chain, settings.chains)
        one = slice(chain, chain + 1)
        runs.append(walk(settings, start, keys[one], points[one], show))
    names = runs[0].statistics
    return Walk(
        np.concatenate([run.u for run in runs]),
        {name: np.concatenate([run.statistics[name] for run in runs]) for name in names},
    )


def _show_chain(
    progress: Callable[[int, int, float], None], chain: int, chains: int, done: int, total: int, accept: float
) -> None:
    progress(chain * total + done, chains * total, accept)


def overdispersed(key: jax.Array, start: Start, chains: int) -> np.ndarray:
    """Give starting points z (chain, p): twice Laplace's spread around the mode, or less."""
    size = len(start.centre)
    factor = np.eye(size) if start.factor is None else start.factor / start.scale[:, None]
    noise = np.asarray(normals(key, (chains, factor.shape[1])), float) @ factor.T

    def value(z: np.ndarray) -> float:
        at = np.asarray(start.centre + start.scale * z)
        return float(start.posterior.value_and_grad(at)[0])

    # At k standard deviations a Gaussian is k²p/2 nats below its mode; far below that is off the posterior.
    lowest = value(np.zeros(size)) - 10 * (JITTER**2 * size / 2 + 5)
    points = []
    for direction in noise:
        width = JITTER
        while width > 1e-3 and not value(width * direction) > lowest:
            width /= 2
        points.append(width * direction)
    return np.stack(points)


def _log_joint(start: Start, u: np.ndarray, lp: np.ndarray) -> np.ndarray:
    """Give log p(x, θ) from the density of u: without the Jacobian, so that no relabelling changes it."""
    return lp - in_batches(start.space.log_jacobian, u.reshape(-1, u.shape[-1])).reshape(lp.shape)
