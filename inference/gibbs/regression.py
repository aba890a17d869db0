"""One sweep of Gibbs sampling in a Bayesian linear regression: the weights, then both precisions.

With centred columns and U S Vᵀ the thin decomposition of the design, r coordinates v = Vᵀw and the level
c = b + x̄ᵀw, which a flat prior on b leaves independent of w,

    v_i | λ, β, y ~ N(β s_i (Uᵀy)_i / (λ + β s_i²), 1 / (λ + β s_i²)),     c | β, y ~ N(ȳ, 1 / (β N))
    λ | w ~ Gamma(a + D/2, b + wᵀw/2),     β | w, c, y ~ Gamma(a' + N/2, b' + |y − c − Xw|²/2)

and w keeps its prior N(0, 1/λ) in the directions that the design says nothing about. λ and β are independent
given w: two blocks (Bishop 2006, sections 3.3 and 10.3; Lindley & Smith 1972).
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from triptych.inference.em.family import Array
from triptych.inference.em.regression import Moments

__all__ = ["RegressionSweep", "draw_precisions", "draw_weights", "precisions_given", "weights_given"]

State = dict[str, Array]


def weights_given(moments: Moments, precision: Array, noise: Array) -> tuple[Array, Array]:
    """Give the mean and variance of each coordinate Vᵀw, (r,) each, at λ = `precision`, β = `noise`."""
    total = precision + noise * moments.singular**2
    return noise * moments.singular * moments.projected / total, 1.0 / total


def precisions_given(
    moments: Moments, prior: Array, squares: Array, misfit: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Give (shape, rate) of λ and of β from wᵀw and |y − b − Xw|², or from their expectations.

    Parameters
    ----------
    prior : (4,): shape and rate of λ, shape and rate of β.
    """
    return (
        (prior[0] + moments.columns / 2, prior[1] + squares / 2),
        (prior[2] + moments.rows / 2, prior[3] + misfit / 2),
    )


def draw_weights(
    key: jax.Array, moments: Moments, rotation: Array, precision: Array, noise: Array
) -> tuple[Array, Array]:
    """Draw w (D,), and its coordinates inside the design's row space, (r,)."""
    mean, variance = weights_given(moments, precision, noise)
    wide = jax.random.normal(key, rotation.shape[:1], jnp.result_type(float)) / jnp.sqrt(precision)
    # Outside the row space w is its prior; inside, the same noise has the posterior's width.
    inside = rotation.T @ wide
    coordinates = mean + inside * jnp.sqrt(precision * variance)
    return wide + rotation @ (coordinates - inside), coordinates


def draw_precisions(
    key: jax.Array, moments: Moments, prior: Array, squares: Array, misfit: Array
) -> tuple[Array, Array]:
    """Draw λ and β given the weights."""
    shapes_and_rates = precisions_given(moments, prior, squares, misfit)
    draws = [
        jax.random.gamma(one, shape) / rate
        for one, (shape, rate) in zip(jax.random.split(key), shapes_and_rates, strict=True)
    ]
    return draws[0], draws[1]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["moments", "rotation", "prior", "centre", "level"],
    meta_fields=["intercept"],
)
@dataclasses.dataclass(frozen=True)
class RegressionSweep:
    """A regression bound to its data.

    moments : s, Uᵀy, |y − U Uᵀy|², N, D of the centred data. rotation : V, (D, r). prior : (4,), shapes and
    rates of λ and β. centre : (D,) column means. level : ȳ. Without an intercept both are 0.
    """

    moments: Moments
    rotation: Array
    prior: Array
    centre: Array
    level: Array
    intercept: bool

    def start(self, key: jax.Array, optimum: State) -> State:
        """Start from precisions twice as spread as the posterior, whose logs vary by about 2/D and 2/N."""
        first, second, third = jax.random.split(key, 3)
        wide = 2.0 * jnp.sqrt(2.0 / jnp.stack([self.moments.columns, self.moments.rows]))
        factors = jnp.exp(jnp.minimum(wide, 2.0) * jax.random.normal(first, (2,), jnp.result_type(float)))
        precision, noise = optimum["lambda"] * factors[0], optimum["beta"] * factors[1]
        w, _ = draw_weights(second, self.moments, jnp.asarray(self.rotation), precision, noise)
        state: State = {"w": w, "lambda": precision, "beta": noise}
        return self._with_level(third, state) if self.intercept else state

    def sweep(self, key: jax.Array, parameters: State) -> State:
        """Draw w and the intercept, then λ and β."""
        first, second, third = jax.random.split(key, 3)
        moments, noise = self.moments, parameters["beta"]
        w, inside = draw_weights(first, moments, jnp.asarray(self.rotation), parameters["lambda"], noise)
        misfit = moments.residual + jnp.sum((moments.projected - moments.singular * inside) ** 2)
        following: State = {"w": w, "lambda": parameters["lambda"], "beta": noise}
        if self.intercept:
            following = self._with_level(second, following)
            offset = following["intercept"] + self.centre @ w - self.level
            misfit += moments.rows * offset**2
        precision, noise = draw_precisions(third, moments, jnp.asarray(self.prior), jnp.sum(w**2), misfit)
        return following | {"lambda": precision, "beta": noise}

    def _with_level(self, key: jax.Array, state: State) -> State:
        """Add b = c − x̄ᵀw, c | β, y ~ N(ȳ, 1/(β N))."""
        noise = jax.random.normal(key, (), jnp.result_type(float))
        level = self.level + noise / jnp.sqrt(state["beta"] * self.moments.rows)
        return state | {"intercept": level - self.centre @ state["w"]}
