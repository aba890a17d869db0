"""Closed-form M-steps read off a program: the shape of Q along one site, from its gradient, verified.

Along one parameter (the others fixed) Q of an exponential family is a combination of two atoms, and its
gradient at two points gives both coefficients, whatever plates, ties, weights and conjugate priors went
into them:

    support          Q(x)                              x ∂Q etc.                         argmax
    positive         a log x + b x^p, p ∈ {1,−1,−2,2}  x Q' = a + b p x^p                (−a / (b p))^(1/p)
    (0, 1)           a log x + b log(1 − x)            x(1−x) Q' = a − (a + b) x         a / (a + b)
    simplex          Σ_k a_k log x_k                   ∂Q/∂u_k = a_k − x_k Σa (softmax)  a / Σa
    SPD, covariance  −½ a log|Σ| − ½ tr(B Σ⁻¹)         Σ Q' Σ = ½ (B − a Σ)              B / a
    SPD, precision   ½ a log|P| − ½ tr(B P)            Q' = ½ (a P⁻¹ − B)                a B⁻¹
    real             quadratic                         Q' affine                         one Newton step

Each row says: some transform y of the gradient is affine in some transform t of x, y = α + β t. Two points
give α and β, a third and a fourth, drawn at random, must agree to 1e-7: otherwise the site has another shape,
and no closed form is claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from triptych.inference.em.family import Array

__all__ = ["FORMS", "Form", "Gradient", "agrees", "forms_for", "solve"]

Gradient = Callable[[Array], Array]  # x ↦ ∂Q/∂x, the other parameters fixed
AGREEMENT = 1e-7
EDGE = 1e-12


class Form(NamedTuple):
    """One row of the table: y = α + β t, with β one number for each block of `event` trailing axes.

    `transform(x, g)` gives (t, y); `argmax(α, β)` the maximiser; `second(x)` another point of the support.
    """

    name: str
    event: int
    transform: Callable[[Array, Array], tuple[Array, Array]]
    argmax: Callable[[Array, Array], Array]
    second: Callable[[Array], Array]


def _power(p: int) -> Form:
    names = {1: "log x, x", -1: "log x, 1/x", -2: "log x, 1/x²", 2: "log x, x²"}

    def argmax(alpha: Array, beta: Array) -> Array:
        return (-alpha / beta) ** (1.0 / p)

    return Form(names[p], 0, lambda x, g: (x**p, x * g), argmax, lambda x: 1.7 * x)


def _unit() -> Form:
    def argmax(alpha: Array, beta: Array) -> Array:
        return jnp.clip(-alpha / beta, EDGE, 1.0 - EDGE)

    return Form(
        "log x, log(1 − x)",
        0,
        lambda x, g: (x, x * (1 - x) * g),
        argmax,
        lambda x: jnp.where(x < 0.5, x + 0.3, x - 0.3),
    )


def _simplex() -> Form:
    def transform(x: Array, g: Array) -> tuple[Array, Array]:
        # The gradient along the softmax: x_k (g_k − Σ_j x_j g_j).
        return x, x * (g - jnp.sum(x * g, axis=-1, keepdims=True))

    def argmax(alpha: Array, beta: Array) -> Array:
        del beta
        mass = jnp.maximum(alpha, 0.0)
        return mass / jnp.sum(mass, axis=-1, keepdims=True)

    def second(x: Array) -> Array:
        ramp = x * jnp.linspace(1.0, 2.0, x.shape[-1])
        return ramp / jnp.sum(ramp, axis=-1, keepdims=True)

    return Form("log x on the simplex", 1, transform, argmax, second)


def _covariance() -> Form:
    def transform(x: Array, g: Array) -> tuple[Array, Array]:
        return x, x @ _even(g) @ x

    return Form("log|Σ|, Σ⁻¹", 2, transform, lambda alpha, beta: -alpha / beta, lambda x: 1.7 * x)


def _precision() -> Form:
    def transform(x: Array, g: Array) -> tuple[Array, Array]:
        return jnp.linalg.inv(x), _even(g)

    return Form(
        "log|P|, P", 2, transform, lambda alpha, beta: -jnp.linalg.inv(alpha) * beta, lambda x: 1.7 * x
    )


def _even(matrix: Array) -> Array:
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


FORMS: dict[str, tuple[Form, ...]] = {
    "positive": tuple(_power(p) for p in (1, -1, -2, 2)),
    "unit_interval": (_unit(),),
    "simplex": (_simplex(),),
    "positive_definite": (_covariance(), _precision()),
}


def forms_for(support: Any) -> tuple[Form, ...]:
    """List the forms that a site of this support can have (none for the real line: see `quadratic.py`)."""
    from numpyro.distributions import constraints

    while isinstance(support, constraints._IndependentConstraint):
        support = support.base_constraint
    named = {
        "positive": (constraints.positive, constraints.nonnegative, constraints.softplus_positive),
        "unit_interval": (constraints.unit_interval, constraints.open_interval(0.0, 1.0)),
        "simplex": (constraints.simplex,),
        "positive_definite": (constraints.positive_definite,),
    }
    for name, supports in named.items():
        if any(support is one or support == one for one in supports):
            return FORMS[name]
    return ()


def _coefficients(form: Form, gradient: Gradient, x: Array) -> tuple[Array, Array]:
    """Give α and β of y = α + β t from two points."""
    other = form.second(x)
    (t1, y1), (t2, y2) = form.transform(x, gradient(x)), form.transform(other, gradient(other))
    axes = tuple(range(-form.event, 0))
    step = t1 - t2
    beta = jnp.sum((y1 - y2) * step, axis=axes, keepdims=bool(axes)) / jnp.sum(
        step**2, axis=axes, keepdims=bool(axes)
    )
    return y1 - beta * t1, beta


def solve(form: Form, gradient: Gradient, x: Array) -> Array:
    """Give argmax Q along the site, from its gradient at two points."""
    return form.argmax(*_coefficients(form, gradient, x))


def agrees(form: Form, gradient: Gradient, x: Array, points: Array) -> Array:
    """Tell whether the gradient at further points is what the form predicts from two."""
    alpha, beta = _coefficients(form, gradient, x)
    worst = jnp.zeros(())
    for point in points:
        t, y = form.transform(point, gradient(point))
        predicted = alpha + beta * t
        size = jnp.max(jnp.abs(alpha)) + jnp.max(jnp.abs(beta * t)) + 1e-300
        worst = jnp.maximum(worst, jnp.max(jnp.abs(y - predicted)) / size)
    return worst < AGREEMENT
