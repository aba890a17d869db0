"""Gibbs sampling as a frozen object of settings: chains by `vmap`, sweeps by `scan`, compiled once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.arguments import checked
from triptych.inference.batches import in_batches
from triptych.inference.chained import Chains, block_length, fit_of_chains
from triptych.inference.conjugate import conjugate_kernel, optimum
from triptych.inference.effort import cells, in_order
from triptych.inference.em import MixtureKernel, RegressionKernel
from triptych.inference.em.family import Parameters
from triptych.inference.fit import Fit
from triptych.inference.gibbs.mixture import MixtureSweep
from triptych.inference.gibbs.regression import RegressionSweep
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.posterior import batch_size
from triptych.inference.precision import double_precision
from triptych.inference.remembered import remembering
from triptych.inference.sharing import shared
from triptych.inference.starts import target
from triptych.inference.timing import stopwatch
from triptych.models.hyperparameters import whole_number

__all__ = ["Gibbs", "Sweep", "bound", "chains_of"]

INSTEAD = "MCMC or SVI"


class Sweep(Protocol):
    """A model bound to its data, a pytree that knows its full conditionals."""

    def start(self, key: jax.Array, optimum: Any) -> Any:
        """Draw an overdispersed point around an optimum."""
        ...

    def sweep(self, key: jax.Array, parameters: Any) -> Any:
        """Draw each block given the others, once."""
        ...


@dataclasses.dataclass(frozen=True)
class Gibbs:
    """Draw from the posterior of a conjugate model by the textbook's blocked Gibbs sampler.

    Mixtures: all labels given the parameters, then all parameters given the labels. Regression: the weights
    and the intercept given both precisions, then the precisions given the weights. Each block is drawn
    exactly: there is nothing to tune, and nothing in common with NUTS, for which it is a second opinion.
    Chains start overdispersed around EM's optimum; they can be slow where components overlap.

    Parameters
    ----------
    model : GaussianMixture, BernoulliMixture or BayesianLinearRegression.
    warmup, draws : of a chain, thrown away and kept.
    chains : how many, run side by side.
    thin : sweeps a draw.

    Raises
    ------
    InputError : a setting out of range; on `run`, another model, or missing cells.

    References
    ----------
    J. Diebolt and C. P. Robert (1994), Estimation of finite mixture distributions through Bayesian sampling,
    JRSS B 56, 363–375. A. E. Gelfand and A. F. M. Smith (1990), Sampling-based approaches to calculating
    marginal densities, JASA 85, 398–409.
    """

    method: ClassVar[str] = "gibbs"

    model: Callable[..., Any]
    warmup: int = 500
    draws: int = 1000
    chains: int = 4
    thin: int = 5

    def __post_init__(self) -> None:
        for name in ("warmup", "draws", "chains", "thin"):
            whole_number(name, getattr(self, name))

    def run(
        self,
        key: jax.Array,
        *args: Any,
        progress: Callable[[int, int, float], None] | None = None,
        **kwargs: Any,
    ) -> Fit:
        """Draw from the posterior.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.
        progress : called after each block with (draws done, in all, NaN: no draw is ever refused).

        Raises
        ------
        InputError : a model without closed-form conditionals, missing cells, data that the model refuses.
        """
        args, kwargs = checked(self.model, args, kwargs)
        key_start, key_run, key_bridge = jax.random.split(key, 3)
        m, double = marginal(self.model), double_precision()
        with stopwatch() as watch, double, remembering(m, args, kwargs) as (args, kwargs):
            kernel = conjugate_kernel("Gibbs", INSTEAD, self.model, args, kwargs)
            pivot = optimum(key_start, self.model, args, kwargs)
            inside = kernel.inward(pivot) if isinstance(kernel, MixtureKernel) else pivot
            states = sample(self, bound(kernel), inside, key_run, progress)
            samples = kernel.outward(states) if isinstance(kernel, MixtureKernel) else states
            chains = chains_of(m, {site: samples[site] for site in pivot}, args, kwargs)
            return fit_of_chains(key_bridge, self, m, chains, pivot, args, kwargs, watch)


def bound(kernel: MixtureKernel | RegressionKernel) -> Sweep:
    """Give the full conditionals of a model bound to its data."""
    if isinstance(kernel, MixtureKernel):
        return MixtureSweep.of(kernel.problem)  # type: ignore[arg-type]
    model: Any = kernel.model
    hyper = kernel.problem.hyper
    prior = jnp.stack([hyper.lambda_shape + 1, hyper.lambda_rate, hyper.beta_shape + 1, hyper.beta_rate])
    return RegressionSweep(
        kernel.problem.moments,
        jnp.asarray(kernel.rotation),
        prior,
        jnp.asarray(kernel.centre),
        jnp.asarray(kernel.level),
        bool(model.intercept),
    )


def sample(
    settings: Gibbs,
    sweep: Sweep,
    inside: Parameters,
    key: jax.Array,
    progress: Callable[[int, int, float], None] | None,
) -> dict[str, np.ndarray]:
    """Run the chains from overdispersed points: site → (chain, draw, …), in the units of the sweep."""
    key_start, key_run = jax.random.split(key)
    point = {site: jnp.asarray(value, float) for site, value in inside.items()}
    states = begin(sweep, jax.random.split(key_start, settings.chains), point)
    length = block_length(settings.warmup, settings.draws)
    total, kept = settings.warmup + settings.draws, []
    for done in range(length, total + 1, length):
        keys = jax.random.split(jax.random.fold_in(key_run, done), settings.chains)
        states, drawn = block(sweep, keys, states, length=length, thin=settings.thin)
        if done > settings.warmup:
            kept.append(jax.tree.map(np.asarray, drawn))
        if progress is not None:
            progress(done, total, float("nan"))
    return {site: np.concatenate([part[site] for part in kept], axis=1) for site in kept[0]}


@jax.jit
def begin(sweep: Any, keys: jax.Array, point: Any) -> Any:
    """Give a starting point for each chain."""
    return jax.vmap(sweep.start, in_axes=(0, None))(keys, point)


@partial(in_order, static_argnames=("length", "thin"))
def block(sweep: Any, keys: jax.Array, states: Any, *, length: int, thin: int) -> tuple[Any, Any]:
    """Take `length` draws of each chain, `thin` sweeps apart: the last states, and all of them."""

    def one(state: Any, key: jax.Array) -> tuple[Any, Any]:
        state = jax.lax.fori_loop(
            0, thin, lambda i, inner: sweep.sweep(jax.random.fold_in(key, i), inner), state
        )
        return state, state

    def chain(key: jax.Array, state: Any) -> tuple[Any, Any]:
        return jax.lax.scan(one, state, jax.random.split(key, length))

    return jax.vmap(chain)(keys, states)


def chains_of(
    m: Marginal, samples: Mapping[str, np.ndarray], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Chains:
    """Give draws, site → (chain, draw, …), with their place in the unconstrained space and log p(x, θ)."""
    posterior = target(m, args, kwargs)
    space = posterior.space
    shape = next(iter(samples.values())).shape[:2]
    flat = {site: samples[site].reshape(-1, *samples[site].shape[2:]) for site in space.sites}

    def one(theta: Any) -> tuple[jax.Array, jax.Array]:
        return space.unconstrain(theta), m.log_density(theta, *args, **kwargs)

    batch = batch_size(m.structure(*args, **kwargs))
    same = shared("place and density", m, args, kwargs, lambda: one)
    u, lp = in_batches(same, flat, batch=batch, numbers=cells(args, kwargs))
    statistics = {"lp": lp.reshape(shape)}
    return Chains(dict(samples), u.reshape(*shape, -1), statistics, space, posterior.density)
