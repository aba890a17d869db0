"""Monte Carlo EM: rounds of drawing and maximising until the Monte Carlo error is small beside the data's.

At θ̂, with ℓ_s(θ) = log p(x, u⁽ˢ⁾, θ) of the draws that were averaged (Louis 1982):

    I_obs = −E[∇²ℓ_s] − Var[∇ℓ_s],        Var_MC[θ̂] ≈ I_obs⁻¹ Var[mean of ∇ℓ_s] I_obs⁻¹,

the variance of the mean from that of the iterations' means. A round whose error is above the tolerance is
followed by one with twice the draws.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.curvature import principal_factor
from triptych.inference.effort import in_order
from triptych.inference.em.derived_problem import DerivedProblem
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.monte_carlo import Chains, MonteCarlo, MonteCarloStep, Pool
from triptych.inference.em.random_starts import jitter, middle
from triptych.inference.unconstrained import Coordinates, coordinates

__all__ = ["Outcome", "conditional_draws", "log_ratios", "louis", "stochastic_em"]


class Outcome(NamedTuple):
    """How Monte Carlo EM ended.

    Attributes
    ----------
    parameters : θ̂. trace : log p(x | θ_t) above that of the start, estimated, nats.
    space : the coordinates of θ. precision : I_obs (p, p). missing : Var[∇ℓ] (p, p).
    error : (p,) Monte Carlo error of the coordinates. relative : the largest, in standard errors.
    chains, latents, means : where the walkers are, the draws averaged (S, p), the mean of each latent.
    """

    parameters: Parameters
    trace: np.ndarray
    space: Coordinates
    precision: np.ndarray
    missing: np.ndarray
    error: np.ndarray
    relative: float
    chains: Chains
    latents: Array
    means: dict[str, np.ndarray]


def stochastic_em(
    problem: DerivedProblem, settings: MonteCarlo, key: jax.Array, start: Parameters | None
) -> Outcome:
    """Run rounds until the Monte Carlo error is below `settings.tol` standard errors, or they run out."""
    sites, space = problem.shape.sites, _space(problem)
    first, second = jax.random.split(key)
    theta = start or jitter(first, middle(sites), problem.shape.supports)
    chains = _begin(problem, second, dict(theta), settings.chains)
    trace = [0.0]
    outcome = None
    for number in range(settings.rounds):
        steps = settings.draws * 2**number
        theta, chains, pool, gains = _round(
            problem, dict(theta), chains, steps, settings.settle, settings.averaged
        )
        trace.extend(trace[-1] + np.cumsum(np.asarray(gains)))
        precision, missing, scores = (np.asarray(v) for v in louis(problem, theta, pool))
        factor, _, _ = principal_factor(precision, space)
        covariance = factor @ factor.T
        noise = np.atleast_2d(np.cov(scores.T)) / len(scores)
        error = np.sqrt(np.maximum(np.diag(covariance @ noise @ covariance), 0.0))
        spread = np.sqrt(np.diag(covariance))
        # Without curvature there is no standard error to measure the Monte Carlo error by.
        ratio = np.divide(error, spread, out=np.full_like(error, np.inf), where=spread > 0)
        relative = float(np.max(ratio)) if np.all(np.isfinite(precision)) else np.inf
        flat = np.asarray(pool.flat).reshape(-1, problem.shape.e_step.space.size)
        means = jax.tree.map(np.asarray, _means(problem, flat))
        outcome = Outcome(
            theta, np.asarray(trace), space, precision, missing, error, relative, chains, flat, means
        )
        if relative <= settings.tol:
            break
    assert outcome is not None  # noqa: S101  at least one round
    return outcome


def _space(problem: DerivedProblem) -> Coordinates:
    sites = problem.shape.sites
    return coordinates({name: (site.shape, site.support) for name, site in sites.items()})


@partial(in_order, static_argnames=("chains",))
def _begin(problem: DerivedProblem, key: jax.Array, theta: Parameters, chains: int) -> Chains:
    step: MonteCarloStep = problem.shape.e_step
    return step.warm_up(key, chains, theta, problem.args, problem.kwargs)


@partial(in_order, static_argnames=("steps", "settle", "averaged"))
def _round(
    problem: DerivedProblem, theta: Parameters, chains: Chains, steps: int, settle: int, averaged: int
) -> tuple[Parameters, Chains, Pool, Array]:
    """Settle on the latest draws, then average: θ, the walkers, the pool averaged, the gains (nats)."""
    step: MonteCarloStep = problem.shape.e_step
    args, kwargs = problem.args, problem.kwargs

    def iterate(carry: Any, index: Array) -> tuple[Any, Array]:
        theta, chains, pool = carry
        chains, places = step.walk(chains, steps, theta, args, kwargs)
        latest = places.reshape(-1, step.space.size)
        after = jnp.maximum(index - settle, 0)  # slot of the averaging phase
        flat = pool.flat.at[after].set(latest)
        taken = jnp.arange(averaged) <= after
        shares = jnp.where(index < settle, jnp.arange(averaged) == 0, taken) / (after + 1.0)
        pool = Pool(flat, shares.astype(flat.dtype))
        values, weights = step.posterior(pool, theta, args, kwargs)
        following = problem.maximise((values, weights, pool.shares), theta)

        def height(point: Parameters) -> Array:
            return jax.vmap(lambda u: step.log_joint(u, point, args, kwargs))(latest)

        # log p(x | θ') / p(x | θ) = log E[p(x, u | θ') / p(x, u | θ)] under p(u | x, θ)
        ratio = height(following) - height(theta)
        gain = jax.nn.logsumexp(ratio) - jnp.log(len(latest))
        return (following, chains, pool), gain

    size = chains.states.z.shape[0] * steps
    empty = Pool(jnp.zeros((averaged, size, step.space.size)), jnp.zeros(averaged))
    (theta, chains, pool), gains = jax.lax.scan(
        iterate, (theta, chains, empty), jnp.arange(settle + averaged)
    )
    return theta, chains, pool, gains


@in_order
def louis(problem: DerivedProblem, theta: Parameters, pool: Pool) -> tuple[Array, Array, Array]:
    """Give I_obs (p, p), Var[∇ℓ] (p, p) and the iterations' mean scores (A, p) at θ, unconstrained."""
    step: MonteCarloStep = problem.shape.e_step
    space = _space(problem)
    at = space.unconstrain(theta)

    def height(u: Array, latent: Array) -> Array:
        return step.log_joint(latent, space.constrain(u), problem.args, problem.kwargs)

    flat = pool.flat.reshape(-1, step.space.size)
    scores = jax.lax.map(lambda latent: jax.grad(height)(at, latent), flat, batch_size=16)

    def average(u: Array) -> Array:
        return jnp.mean(jax.vmap(lambda latent: height(u, latent))(flat))

    complete = -jax.hessian(average)(at)
    centred = scores - jnp.mean(scores, axis=0)
    missing = centred.T @ centred / len(flat)
    return complete - missing, missing, jnp.mean(scores.reshape(*pool.flat.shape[:2], -1), axis=1)


@jax.jit
def _means(problem: DerivedProblem, flat: Array) -> dict[str, Array]:
    values = jax.vmap(problem.shape.e_step.space.constrain)(flat)
    return {name: jnp.mean(value, axis=0) for name, value in values.items()}


@partial(in_order, static_argnames=("steps",))
def conditional_draws(problem: DerivedProblem, chains: Chains, thetas: Parameters, steps: int) -> Parameters:
    """One draw of the latents for each of the stacked θ's: a walker goes on for `steps` steps at each."""
    step: MonteCarloStep = problem.shape.e_step
    one = Chains(jax.tree.map(lambda leaf: leaf[:1], chains.states))

    def follow(walker: Chains, theta: Parameters) -> tuple[Chains, Any]:
        walker, places = step.walk(walker, steps, theta, problem.args, problem.kwargs)
        return walker, step.space.constrain(places[0, -1])

    return jax.lax.scan(follow, one, thetas)[1]


@partial(in_order, static_argnames=("number",))
def log_ratios(
    problem: DerivedProblem, theta: Parameters, latents: Array, key: jax.Array, number: int
) -> Array:
    """Log p(x, u | θ) − log q(u) at draws of the Gaussian q that has the moments of the latents' draws."""
    likelihood: MonteCarloStep = problem.shape.likelihood
    mean, covariance = jnp.mean(latents, axis=0), jnp.atleast_2d(jnp.cov(latents.T))
    factor = jnp.linalg.cholesky(covariance)
    noise = jax.random.normal(key, (number, latents.shape[1]))
    log_q = -0.5 * jnp.sum(noise**2 + jnp.log(2 * jnp.pi), axis=1) - jnp.sum(jnp.log(jnp.diagonal(factor)))
    energy = likelihood.potential(theta, problem.args, problem.kwargs)
    return -jax.lax.map(energy, mean + noise @ factor.T, batch_size=64) - log_q
