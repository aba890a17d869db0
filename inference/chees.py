"""Many short chains side by side: Hamiltonian Monte Carlo that learns its trajectory length from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from triptych.inference.arguments import checked
from triptych.inference.batch_and_match import whitened
from triptych.inference.batches import in_batches
from triptych.inference.chained import Chains, fit_of_chains
from triptych.inference.fit import Fit
from triptych.inference.marginal import marginal
from triptych.inference.mcmc import overdispersed
from triptych.inference.precision import double_precision
from triptych.inference.remembered import remembering
from triptych.inference.sharing import kept
from triptych.inference.starts import find_start
from triptych.inference.timing import stopwatch
from triptych.models.hyperparameters import whole_number

__all__ = ["ChEES"]

LEARNING_RATE = 0.02  # of the log trajectory length
FIRST_STEP = 0.1  # in posterior standard deviations
LONGEST = 500  # leapfrog steps of a trajectory


@dataclasses.dataclass(frozen=True)
class ChEES:
    """Walk the posterior by many chains that learn one step size and one trajectory length together.

    The length maximises the change in the estimator of the expected square (ChEES), which any chain's next
    draw is to differ by; each trajectory takes a random share of it. All chains do the same number of steps,
    so that many of them cost little more than one where the hardware is wide. Made for few parameters; with
    many, NUTS (`MCMC`) adapts better. The sampler is BlackJAX's.

    Parameters
    ----------
    model : any NumPyro program; discrete latents are summed out.
    warmup, draws : transitions a chain, to adapt and to keep. R-hat is judged chain by chain: shorter ones
        than these may agree and not show it.
    chains : how many; they adapt together, so 16 at least is wise.

    Raises
    ------
    InputError : a setting out of range.

    References
    ----------
    M. D. Hoffman, A. Radul and P. Sountsov (2021), An adaptive MCMC scheme for setting trajectory lengths in
    Hamiltonian Monte Carlo, AISTATS.
    """

    method: ClassVar[str] = "chees"

    model: Callable[..., Any]
    warmup: int = 300
    draws: int = 500
    chains: int = 32

    def __post_init__(self) -> None:
        for name, least in (("warmup", 10), ("draws", 4), ("chains", 2)):
            whole_number(name, getattr(self, name), least)

    def run(
        self, key: jax.Array, *args: Any, parameters: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Fit:
        """Draw from the posterior.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.
        parameters : site → value to start around, instead of searching for an optimum.

        Raises
        ------
        InputError : data that the model refuses, a program that cannot be traced.
        """
        args, kwargs = checked(self.model, args, kwargs)
        m = marginal(self.model)
        key_start, key_jitter, key_run, key_bridge = jax.random.split(key, 4)
        double = double_precision()
        with stopwatch() as watch, double, remembering(m, args, kwargs) as (args, kwargs):
            start = find_start(key_start, m, args, kwargs, parameters)
            matrix = start.whitening
            points = overdispersed(key_jitter, start, self.chains) * start.scale @ np.linalg.inv(matrix).T
            density = whitened(start, matrix)
            z, statistics = sample(self, density, jnp.asarray(points), key_run)
            u = start.centre + z @ matrix.T
            jacobian = in_batches(start.space.log_jacobian, u.reshape(-1, u.shape[-1]))
            volume = np.linalg.slogdet(matrix)[1]
            statistics["lp"] = statistics["lp"] - volume - jacobian.reshape(u.shape[:2])
            pivot = {s: np.asarray(v) for s, v in start.space.constrain(jnp.asarray(start.centre)).items()}
            chains = Chains(start.space.natural(u), u, statistics, start.space, start.density)
            return fit_of_chains(key_bridge, self, m, chains, pivot, args, kwargs, watch)


def sample(
    settings: ChEES, value_and_grad: Partial, points: jax.Array, key: jax.Array
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Adapt and run the chains from points (chain, p): z (chain, draw, p) and statistics (chain, draw)."""
    count = {"warmup": settings.warmup, "draws": settings.draws}
    # Its own program, as in `matching.py`.
    what = ("chees", value_and_grad.func, *count.values())
    found = kept(what, lambda: jax.jit(partial(_run, **count)))(value_and_grad, points, key)
    shown = {name: np.swapaxes(np.asarray(value), 0, 1) for name, value in found.items()}
    return shown.pop("z"), shown


def _run(
    value_and_grad: Partial, points: jax.Array, key: jax.Array, *, warmup: int, draws: int
) -> dict[str, jax.Array]:
    """Adapt, walk, and show each transition, (draw, chain, …)."""
    import blackjax
    import optax
    from blackjax.adaptation.base import get_filter_adapt_info_fn

    def density(z: Any) -> jax.Array:
        return value_and_grad(z)[0]

    chains = len(points)
    adaptation: Any = blackjax.chees_adaptation(
        density,
        chains,
        max_leapfrog_steps=LONGEST,
        adaptation_info_fn=get_filter_adapt_info_fn(),
    )
    key_adapt, key_walk = jax.random.split(key)

    (states, parameters), _ = adaptation.run(
        key_adapt, points, FIRST_STEP, optax.adam(LEARNING_RATE), warmup, max_sampling_steps=draws
    )
    kernel = blackjax.dynamic_hmc(density, **parameters).step

    def transition(states: Any, key: jax.Array) -> Any:
        moved: Any = jax.vmap(kernel)(jax.random.split(key, chains), states)
        states, info = moved
        shown = {
            "z": states.position,
            "lp": states.logdensity,
            "energy": info.energy,
            "diverging": info.is_divergent,
            "n_steps": info.num_integration_steps,
            "acceptance_rate": info.acceptance_rate,
        }
        return states, shown

    return jax.lax.scan(transition, states, jax.random.split(key_walk, draws))[1]
