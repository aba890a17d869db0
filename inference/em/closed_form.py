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
and no closed form is claimed. The same functions serve the M-step, compiled, and this check, in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from triptych.inference.em.family import Array
from triptych.models.matrices import WRITTEN_OUT, inverse

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
        return (-alpha / beta).clip(EDGE, 1.0 - EDGE)

    return Form(
        "log x, log(1 − x)",
        0,
        lambda x, g: (x, x * (1 - x) * g),
        argmax,
        lambda x: x + 0.3 - 0.6 * (x >= 0.5),
    )


def _simplex() -> Form:
    def transform(x: Array, g: Array) -> tuple[Array, Array]:
        # The gradient along the softmax: x_k (g_k − Σ_j x_j g_j).
        return x, x * (g - (x * g).sum(axis=-1, keepdims=True))

    def argmax(alpha: Array, beta: Array) -> Array:
        del beta
        mass = alpha.clip(0.0)
        return mass / mass.sum(axis=-1, keepdims=True)

    def second(x: Array) -> Array:
        ramp = x * np.linspace(1.0, 2.0, x.shape[-1])
        return ramp / ramp.sum(axis=-1, keepdims=True)

    return Form("log x on the simplex", 1, transform, argmax, second)


def _covariance() -> Form:
    def transform(x: Array, g: Array) -> tuple[Array, Array]:
        return x, _product(_product(x, _even(g)), x)

    return Form("log|Σ|, Σ⁻¹", 2, transform, lambda alpha, beta: -alpha / beta, lambda x: 1.7 * x)


def _precision() -> Form:
    def transform(x: Array, g: Array) -> tuple[Array, Array]:
        return _inverse(x), _even(g)

    return Form("log|P|, P", 2, transform, lambda alpha, beta: _inverse(-alpha) * beta, lambda x: 1.7 * x)


def _even(matrix: Array) -> Array:
    return 0.5 * (matrix + matrix.swapaxes(-1, -2))


def _product(first: Array, second: Array) -> Array:
    """Give first · second, (…, D, D): written out where small, so that XLA joins it with its surroundings."""
    if first.shape[-1] > WRITTEN_OUT:
        return first @ second
    return (first[..., :, :, None] * second[..., None, :, :]).sum(axis=-2)


def _inverse(matrix: Array) -> Array:
    return np.linalg.inv(matrix) if isinstance(matrix, np.ndarray) else inverse(matrix)[0]


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


def solve(form: Form, x: Array, g: Array, other: Array, g_other: Array) -> Array:
    """Give argmax Q along the site, from its gradient at two points, x and `form.second(x)`."""
    return form.argmax(*_coefficients(form, x, g, other, g_other))


def _coefficients(form: Form, x: Array, g: Array, other: Array, g_other: Array) -> tuple[Array, Array]:
    """Give α and β of y = α + β t from two points."""
    (t1, y1), (t2, y2) = form.transform(x, g), form.transform(other, g_other)
    axes = tuple(range(-form.event, 0))
    step = t1 - t2
    slope = ((y1 - y2) * step).sum(axis=axes, keepdims=bool(axes))
    beta = slope / (step**2).sum(axis=axes, keepdims=bool(axes))
    return y1 - beta * t1, beta


def agrees(form: Form, gradient: Gradient, x: np.ndarray, points: Sequence[np.ndarray]) -> np.ndarray | None:
    """Give argmax Q if the gradient at further points is what the form predicts from two; in NumPy."""
    with np.errstate(all="ignore"):
        other = form.second(x)
        pair = (x, gradient(x), other, gradient(other))
        alpha, beta = _coefficients(form, *pair)
        worst = 0.0
        for point in points:
            t, y = form.transform(point, gradient(point))
            predicted = alpha + beta * t
            size = np.max(np.abs(alpha)) + np.max(np.abs(beta * t)) + 1e-300
            worst = max(worst, float(np.nan_to_num(np.max(np.abs(y - predicted)) / size, nan=np.inf)))
        return np.asarray(solve(form, *pair)) if worst < AGREEMENT else None
