"""Observed information of EM's optimum by two routes, the fraction of it that is missing, and the slope left.

In unconstrained coordinates φ at the optimum, with J(φ) the objective and Q(φ' | φ) what the M-step climbs,

    I_obs = −∂²Q/∂φ'² − ∂²Q/∂φ'∂φ  at φ' = φ       (Oakes 1999): from what the M-step climbs
          = −∂²J/∂φ²                              by differences of J itself, along random directions
    I_com = −∂²Q/∂φ'²                             the information, had the latents been seen
    rate  = I_com⁻¹ ∂²Q/∂φ'∂φ                     the Jacobian of the EM map (Dempster, Laird & Rubin 1977)

The eigenvalues of the rate are the fractions of missing information along its directions; the largest is EM's
rate of convergence. Standard errors are √diag(∂θ/∂φ I_obs⁻¹ (∂θ/∂φ)ᵀ).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from triptych.inference.curvature import principal_factor
from triptych.inference.effort import by_work, cells
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.fold import expected, infer
from triptych.inference.unconstrained import Coordinates, Supports

__all__ = ["Information", "View", "fractions", "information", "natural_errors", "view_of"]

BATCH = 32  # columns of a Hessian at once
DIRECTIONS = 4  # random directions along which the second route looks
STEP = 0.05  # of its differences, in standard errors


class View(NamedTuple):
    """An EM problem as functions of its parameters.

    `infer(θ)` gives the posterior of the latents and J(θ); `expected(θ', posterior)` is Q(θ' | θ); nats.
    """

    infer: Callable[[Parameters], tuple[Any, Array]]
    expected: Callable[[Parameters, Any], Array]


def view_of(problem: Any) -> View:
    """Look at a bound problem: one with functions of its own, or one that is a fold over rows."""
    if hasattr(problem, "expected"):
        return View(problem.infer, problem.expected)
    return View(partial(infer, problem), partial(expected, problem))


class Information(NamedTuple):
    """What the curvature at an optimum says.

    Attributes
    ----------
    standard_errors : site → array of its shape; NaN along what has no curvature.
    missing : (p,) fractions of missing information, largest first.
    gradient : (p,) ∂J/∂φ at the optimum, nats; `names` its coordinates.
    gain : nats that a Newton step would still gain.
    disagreement : largest relative difference between the two routes' curvatures, over random directions.
    """

    standard_errors: dict[str, np.ndarray]
    missing: np.ndarray
    gradient: np.ndarray
    names: tuple[str, ...]
    gain: float
    disagreement: float


def information(
    problem: Any, parameters: Mapping[str, np.ndarray], supports: Mapping[str, Any]
) -> Information:
    """Measure the curvature at an optimum.

    Parameters
    ----------
    problem : a bound one (see `view_of`), a pytree. parameters : the optimum, site → array.
    supports : site → NumPyro constraint.
    """
    named = Supports.of(supports)
    space = named.space(parameters)
    size = space.size
    basis, none = np.eye(size), np.zeros((size, size))
    pairs = np.concatenate([np.stack([basis, none], 1), np.stack([none, basis], 1)])
    batch = min(BATCH, 2 * size)
    filled = np.zeros((-(-2 * size // batch), batch, 2, size))  # whole batches: one body to compile
    filled.reshape(-1, 2, size)[: 2 * size] = pairs
    theta = {site: np.asarray(parameters[site]) for site in supports}
    work = cells(problem) * 2 * size
    point, *curvatures, jacobian = _columns(problem, theta, filled, supports=named, work=work)
    gradient, square = (np.asarray(value, np.float64) for value in curvatures)
    complete, missing = -_even(square[:size]), _even(square[size : 2 * size])
    factor, _, _ = principal_factor(complete - missing, space)
    random = np.random.default_rng(0).standard_normal((DIRECTIONS, factor.shape[1])) @ factor.T
    steps = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) * STEP
    places = np.asarray(point) + steps[:, None, None] * random
    heights = _heights(problem, theta, places.reshape(-1, size), supports=named, work=work)
    far, near, top, after, beyond = np.asarray(heights).reshape(5, -1)
    # Two second differences, their error of order STEP² taken out (Richardson).
    direct = -(4 * (near - 2 * top + after) - (far - 2 * top + beyond) / 4) / (3 * STEP**2)
    oakes = np.einsum("dp,pq,dq->d", random, complete - missing, random)
    disagreement = float(np.max(np.abs(direct / oakes - 1.0), initial=0.0))
    natural = natural_errors(space, theta, factor, jacobian)
    step = factor.T @ gradient
    return Information(
        natural,
        fractions(complete, missing, space),
        gradient,
        space.names,
        0.5 * float(step @ step),
        disagreement,
    )


@partial(by_work, static_argnames=("supports",))
def _columns(problem: Any, theta: Parameters, directions: Array, *, supports: Supports) -> tuple[Array, ...]:
    """Give φ at the optimum, ∂Q/∂φ' there, its derivatives along pairs (dφ', dφ), and ∂θ/∂φ."""
    view, space = view_of(problem), supports.space(theta)
    at = space.unconstrain(theta)

    def slope(new: Array, old: Array) -> Array:
        posterior, _ = view.infer(space.constrain(old))
        return jax.grad(lambda u: view.expected(space.constrain(u), posterior))(new)

    def one(pair: Array) -> Array:
        return jax.jvp(slope, (at, at), (pair[0], pair[1]))[1]

    squares = jax.lax.map(jax.vmap(one), directions).reshape(-1, space.size)
    return at, slope(at, at), squares, jax.jacfwd(space.constrain)(at)


@partial(by_work, static_argnames=("supports",))
def _heights(problem: Any, theta: Parameters, places: Array, *, supports: Supports) -> Array:
    """Give J at places (n, p); θ tells the shapes alone."""
    view, space = view_of(problem), supports.space(theta)
    return jax.lax.map(lambda u: view.infer(space.constrain(u))[1], places)


def _even(square: np.ndarray) -> np.ndarray:
    return 0.5 * (square + square.T)


def natural_errors(
    space: Coordinates, parameters: Parameters, factor: np.ndarray, jacobian: Any = None
) -> dict[str, np.ndarray]:
    """Carry the errors of φ, of covariance F Fᵀ, over to θ: NaN where a part lies along no column of F."""
    if jacobian is None:
        jacobian = jax.jit(lambda theta: jax.jacfwd(space.constrain)(space.unconstrain(theta)))(parameters)
    unknown = np.sum(factor**2, axis=1) == 0
    natural = {}
    for site, change in jacobian.items():
        flat = np.asarray(change).reshape(-1, space.size)
        error = np.sqrt(np.sum((flat @ factor) ** 2, axis=1))
        known = (flat != 0) @ unknown == 0
        natural[site] = np.where(known, error, np.nan).reshape(np.shape(parameters[site]))
    return natural


def fractions(complete: np.ndarray, missing: np.ndarray, space: Coordinates) -> np.ndarray:
    """Eigenvalues of I_com⁻¹ I_mis, largest first: those of Fᵀ I_mis F with F Fᵀ = I_com⁻¹."""
    factor, _, _ = principal_factor(complete, space)
    return np.linalg.eigvalsh(factor.T @ missing @ factor)[::-1]
