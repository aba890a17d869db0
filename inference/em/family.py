"""An exponential family seen as one matrix product: what a mixture needs to know of its components.

For sufficient statistics T(x) and natural parameters η_k the table of log-joints, N rows by K components, is

    log p(x_n, z_n = k | θ) = T(x_n) · η_k + b(x_n, θ),        T(x) = [1, …],  η_k = [log π_k − A(θ_k), …]

and the expected statistics of the E-step are T(x) rᵀ. A family supplies T, η, the maximiser of the expected
log-joint in closed form, and its prior. Everything is in standardised units (see `standardise.py`).

T(x) is (F, n), a column a row of the data: each of its rows is then made from whole rows of xᵀ, products with
it run along memory, and so does all that happens to the table (K, n) in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["WIDE", "Array", "Family", "Parameters", "Statistics", "halved"]

# Columns from which products of real rows as they lie beat those of their transpose, up to three times over.
WIDE = 64

Array = jax.Array | np.ndarray  # NumPy's come in and go out; in between it is JAX's
Parameters = Mapping[str, Array]


class Statistics(NamedTuple):
    """Expected sufficient statistics of a set of rows; they add over rows, chunks, devices and hosts.

    sums : (F, K), Σ_n w_n r_nk T(x_n); its first row is the effective count n_k of each component.
    totals : statistics that no responsibility weighs, Σ_n w_n B(x_n) (empty for most families).
    """

    sums: Array
    totals: Array


def halved(operation: Callable[[Array, Array], Array], table: Array) -> Array:
    """Combine the rows of a table (K, …) by halves: vector arithmetic, where XLA reduces in a scalar loop."""
    while len(table) > 1:
        half = len(table) // 2
        rest, table = table[2 * half :], operation(table[:half], table[half : 2 * half])
        table = jnp.concatenate([table, rest]) if len(rest) else table
    return table[0]


class Family(Protocol):
    """The components of a mixture, all of one exponential family.

    Implementations are frozen dataclasses without arrays, so that they can be static arguments of `jax.jit`;
    the numbers of a prior are in `hyper`, a NamedTuple of arrays that is an argument wherever it is needed.
    """

    @property
    def components(self) -> int:
        """K, the number of components."""
        ...

    @property
    def feature_count(self) -> int:
        """F, the length of T(x)."""
        ...

    @property
    def plain(self) -> bool:
        """Whether T(x) is [1, x, …] and its products are of rows, and of their squares, as they lie."""
        ...

    def features(self, x: Array) -> Array:
        """T(x): (n, D) → (F, n), the first row 1."""
        ...

    def totals(self, x: Array, weights: Array | None) -> Array:
        """Σ_n w_n B(x_n) over the rows given."""
        ...

    def natural(self, parameters: Parameters) -> Array:
        """η: (F, K), log π_k included."""
        ...

    def base(self, parameters: Parameters, totals: Array) -> Array:
        """Σ_n w_n b(x_n, θ): the part of the log-likelihood that all components share."""
        ...

    def maximise(self, statistics: Statistics, hyper: NamedTuple) -> Parameters:
        """argmax_θ of the expected log-joint plus log prior, in closed form."""
        ...

    def admit(self, parameters: Parameters, hyper: NamedTuple) -> Parameters:
        """Bring a proposal of `accelerated.py` within the constraints of `maximise`; NaN refuses it."""
        ...

    def log_prior(self, parameters: Parameters, hyper: NamedTuple) -> Array:
        """Log p(θ) in nats, normalised."""
        ...
