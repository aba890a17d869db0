"""Labels counted: an approximation with its labels exchanged, so that it stands for the whole posterior.

A posterior whose K labels may be exchanged has K! copies of every mode; draws with aligned labels, and a
guide with one mode, see one. With q_sym(θ) = (1/G) Σ_π q(π θ) over all G relabellings the others are counted
without a word on whether the copies are separate or run into each other: draws of q, relabelled at random,
are draws of q_sym, and log p(x, θ) − log q_sym(θ) does not change with the labels of θ. Where G is too large
to sum over, the copies are taken to be separate: then q_sym = q / G, and log G is added instead.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from triptych.inference.batches import batches
from triptych.inference.exchangeable import Exchangeable, exchangeable, permute
from triptych.inference.marginal import Marginal
from triptych.inference.sharing import kept
from triptych.inference.unconstrained import Coordinates
from triptych.models.errors import InputError

__all__ = ["NO_LABELS", "Relabellings", "labels_of", "relabellings"]

MOST = 720  # relabellings summed over one by one: 6!


@dataclasses.dataclass(frozen=True)
class Relabellings:
    """The label symmetry of a posterior.

    Attributes
    ----------
    groups : the exchangeable labels.
    choices : the relabellings summed over, one permutation a group each; the identity first.
    separate : log of how many copies of the mode are taken to be separate instead, nats.
    """

    groups: tuple[Exchangeable, ...]
    choices: tuple[tuple[tuple[int, ...], ...], ...]
    separate: float

    @property
    def size(self) -> int:
        """How many relabellings are summed over, G."""
        return len(self.choices)

    @property
    def log_count(self) -> float:
        """Log of how many copies a mode has, itself among them, nats."""
        return math.log(self.size) + self.separate

    def orbit(self, space: Coordinates, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Give every relabelling of u, (G, p), and the log-Jacobian log |∂θ/∂u| at each, (G,)."""
        theta = space.constrain(u)
        points = [u]
        for choice in self.choices[1:]:
            moved = theta
            for group, permutation in zip(self.groups, choice, strict=True):
                moved = permute(moved, group, jnp.asarray(permutation))
            points.append(space.unconstrain(moved))
        stacked = jnp.stack(points)
        return stacked, jax.vmap(space.log_jacobian)(stacked)

    def exchanged(self, space: Coordinates, log_q: Callable[[Any], jax.Array], u: jax.Array) -> jax.Array:
        """Give log q_sym at u, as a density of u (nats), q given by its log density of u.

        The density that labels permute is that of θ, so each term takes its own Jacobian.
        """
        if self.size == 1:
            return log_q(u) - self.separate
        points, jacobians = self.orbit(space, u)
        terms = jax.vmap(log_q)(points) - jacobians
        return jax.nn.logsumexp(terms) - math.log(self.size) + jacobians[0] - self.separate

    def exchanged_at(
        self, space: Coordinates, log_q: Callable[[np.ndarray], np.ndarray], u: np.ndarray
    ) -> np.ndarray:
        """`exchanged` at many points (n, p), by a log density of (m, p) points that is NumPy's: (n,).

        Only the relabelled points have to be compiled, the same for every q.
        """
        if self.size == 1:
            return log_q(u) - self.separate
        orbit = kept(("orbit", repr(self), space.constrain), lambda: functools.partial(self.orbit, space))
        parts = []
        for _, (points, jacobians) in batches(orbit, u):
            terms = log_q(points.reshape(-1, points.shape[-1])).reshape(jacobians.shape) - jacobians
            parts.append(logsumexp(terms, axis=1) + jacobians[:, 0])
        return np.concatenate(parts) - math.log(self.size) - self.separate


NO_LABELS = Relabellings((), ((),), 0.0)


def relabellings(groups: Sequence[Exchangeable], most: int = MOST) -> Relabellings:
    """List the relabellings of exchangeable groups: all of them, or the identity alone above `most`.

    Parameters
    ----------
    groups : from `exchangeable`; none for a program without labels.
    most : relabellings that are summed over one by one.
    """
    total = math.prod(math.factorial(len(group.free)) for group in groups)
    if total > most:
        identity = tuple(tuple(range(group.size)) for group in groups)
        return Relabellings(tuple(groups), (identity,), float(np.log(float(total))))
    each = [group.permutations() for group in groups]
    return Relabellings(tuple(groups), tuple(itertools.product(*each)), 0.0)


def labels_of(
    m: Marginal, parameters: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Relabellings:
    """Find the relabellings of a program's posterior; none where its labels cannot be looked for."""
    try:
        return relabellings(exchangeable(m, parameters, *args, **kwargs))
    except InputError:
        return NO_LABELS
