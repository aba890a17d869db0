"""Full-rank Gaussians of the posterior: gradients to the exact means, and seconds to the same ELBO.

The peer is NumPyro's SVI with `AutoMultivariateNormal` and Adam as its documentation writes it; its step size
is the documentation's 0.0005 or whichever of `RATES` serves it best.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from draws import ordered
from harness import Rounds, Row, alternate, seconds
from programs import summed_program
from sampling import prior_of
from scipy.stats import norm, qmc

import triptych

GROUP = "SVI, a full-rank Gaussian"
RATES = (0.0005, 0.005, 0.02)
CLOSE = 0.1  # posterior standard deviations
EVERY, LAST = 10, 30_000  # steps of Adam between two looks at first (then every 2 %), and at most
POINTS = 4096  # of the quasi-random normal draws that turn a Gaussian into means of the parameters


class Problem(NamedTuple):
    """A posterior: triptych's model, the peer's program, what both are called with, and a name."""

    name: str
    model: Any
    program: Callable[..., Any]
    args: tuple[Any, ...]
    peer_args: tuple[Any, ...]


def mixture(x: np.ndarray) -> Problem:
    """Give Old Faithful by two full covariances; the peer's labels are summed out by `MixtureSameFamily`."""
    model = triptych.GaussianMixture(2)
    return Problem("Old Faithful, K = 2, full", model, summed_program, (x,), (x, prior_of(x, 2), 2))


def regression(name: str, X: np.ndarray, y: np.ndarray) -> Problem:
    """Give a Bayesian regression, weights, both precisions and intercept unknown."""
    model = triptych.BayesianLinearRegression()
    return Problem(name, model, model, (X, y), (X, y))


def well_conditioned() -> Problem:
    """Give 500 rows and 10 uncorrelated columns."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 10))
    return regression("regression (500, 10)", X, X @ generator.normal(size=10) + generator.normal(size=500))


def sorted_means(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort the components of draws (chain, draw, …), if there are any."""
    return ordered(draws) if "means" in draws else draws


class Exact(NamedTuple):
    """Posterior means and standard deviations, site → array, by a long run of NUTS."""

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]

    def gap(self, means: dict[str, np.ndarray]) -> float:
        """Give the largest difference of a mean, in standard deviations."""
        if "means" in means:
            means = {
                site: v[0, 0] for site, v in ordered({s: v[None, None] for s, v in means.items()}).items()
            }
        return max(float(np.max(np.abs(means[s] - self.mean[s]) / self.sd[s])) for s in self.mean)


def exact(problem: Problem) -> Exact:
    """Run NUTS for long: 4 × 4000 draws leave errors of about 0.01 standard deviations."""
    fit = triptych.MCMC(problem.model, warmup=500, draws=4000).run(jax.random.key(7), *problem.args)
    posterior = fit.data["posterior"].dataset
    names = [str(name) for name in posterior.data_vars]
    draws = sorted_means({name: posterior[name].values for name in names})
    mean = {site: value.mean((0, 1)) for site, value in draws.items()}
    return Exact(mean, {site: value.std((0, 1)) for site, value in draws.items()})


def normals(size: int) -> np.ndarray:
    """Give quasi-random standard normals, (POINTS, size)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return norm.ppf(qmc.Sobol(size, seed=0).random(POINTS))


def looks() -> Iterator[int]:
    """Count the steps of Adam between two looks."""
    done = 0
    while done < LAST:
        more = max(EVERY, done // 50 // EVERY * EVERY)
        done += more
        yield more


class Adam:
    """The peer: NumPyro's SVI, advanced by blocks of steps, each one gradient."""

    def __init__(self, problem: Problem, rate: float, start: Any = None) -> None:
        from numpyro.infer import SVI, Trace_ELBO, init_to_uniform, init_to_value
        from numpyro.infer.autoguide import AutoMultivariateNormal

        init = init_to_uniform if start is None else init_to_value(values=dict(start))
        self.guide = AutoMultivariateNormal(problem.program, init_loc_fn=init)
        self.svi = SVI(problem.program, self.guide, numpyro.optim.Adam(rate), Trace_ELBO())
        self.args = problem.peer_args
        self.state = self.svi.init(jax.random.key(1), *self.args)

        def step(_: Any, state: Any) -> Any:
            return self.svi.update(state, *self.args)[0]

        self.block = jax.jit(lambda state, steps: jax.lax.fori_loop(0, steps, step, state))

    def advance(self, steps: int) -> None:
        """Take so many steps."""
        self.state = self.block(self.state, steps)

    @functools.cached_property
    def _means(self) -> Callable[[Any], Any]:
        noise = jnp.asarray(normals(self.guide.latent_dim))

        def means(state: Any) -> Any:
            posterior = self.guide.get_posterior(self.svi.get_params(state))
            points = posterior.loc + noise @ posterior.scale_tril.T
            return jax.tree.map(
                lambda v: v.mean(0), jax.vmap(self.guide._unpack_and_constrain, (0, None))(points, {})
            )

        return jax.jit(means)

    def means(self) -> dict[str, np.ndarray]:
        """Give the means of the parameters under the guide."""
        return {site: np.asarray(value) for site, value in self._means(self.state).items()}

    @functools.cached_property
    def elbo(self) -> Callable[[Any], Any]:
        """Estimate the ELBO of a state from 1000 draws."""
        from numpyro.infer import Trace_ELBO

        loss = Trace_ELBO(num_particles=1000)

        def estimate(state: Any) -> Any:
            return -loss.loss(
                jax.random.key(3), self.svi.get_params(state), self.svi.model, self.guide, *self.args
            )

        return jax.jit(estimate)


def adam_gradients(problem: Problem, target: Exact, rate: float, start: Any) -> tuple[int | None, float]:
    """Count Adam's gradients until two looks in a row are close (`None`: never); and the least gap seen."""
    adam, done, near, least = Adam(problem, rate, start), 0, 0, np.inf
    for more in looks():
        adam.advance(more)
        done += more
        gap = target.gap(adam.means())
        least = min(least, gap) if np.isfinite(gap) else least
        near = near + 1 if gap < CLOSE else 0
        if near == 2:
            return done - more, least
        if not np.isfinite(gap):
            break
    return None, least


def matched_gradients(problem: Problem, target: Exact) -> tuple[int | None, float, int, dict[str, Any], str]:
    """Count batch-and-match's gradients until two steps in a row are close; its start's Hessian counts as p.

    What is looked at after each step is what a run that ends there would give: the average of the second
    half of its iterates.
    """
    from triptych.inference.batch_and_match import BATCH, whitened
    from triptych.inference.matching import matched_step
    from triptych.inference.starts import find_start

    start = find_start(jax.random.key(2), triptych.marginal(problem.model), problem.args, {}, None)
    matrix, size = start.whitening, start.space.size
    batch = int(np.clip(2 * size, *BATCH))
    score = whitened(start, matrix)
    noise = jnp.asarray(normals(size))

    @jax.jit
    def step(key: Any, mean: Any, covariance: Any, index: Any) -> Any:
        points = mean + jax.random.normal(key, (batch, size)) @ jnp.linalg.cholesky(covariance).T
        _, scores = jax.vmap(score)(points)
        return matched_step(mean, covariance, points, scores, batch * size / (index + 1.0))

    @jax.jit
    def means(mean: Any, covariance: Any) -> Any:
        z = mean + noise @ jnp.linalg.cholesky(covariance).T
        return {s: v.mean(0) for s, v in jax.vmap(start.space.constrain)(start.centre + z @ matrix.T).items()}

    def gap(mean: Any, covariance: Any) -> float:
        return target.gap({site: np.asarray(value) for site, value in means(mean, covariance).items()})

    state: tuple[Any, Any] = (jnp.zeros(size), jnp.eye(size))
    held: list[tuple[np.ndarray, np.ndarray]] = []
    at = gap(*state)
    laplace, near, least = f"Laplace's Gaussian, its start, is {at:.2g} sd away", int(at < CLOSE), at
    mode = {
        site: np.asarray(value) for site, value in start.space.constrain(jnp.asarray(start.centre)).items()
    }
    for index in range(1000):
        state = step(jax.random.key(index), *state, index)
        held.append((np.asarray(state[0]), np.asarray(state[1])))
        half = held[len(held) // 2 :]
        at = gap(np.mean([one[0] for one in half], axis=0), np.mean([one[1] for one in half], axis=0))
        least = min(least, at)
        near = near + 1 if at < CLOSE else 0
        if near == 2:
            return size + batch * max(index, 0), least, size, mode, laplace
    return None, least, size, mode, laplace


def gradients(problem: Problem, target: float | None) -> list[Row]:
    """Compare the gradients that it takes to have every posterior mean within 0.1 standard deviations.

    Both start at the same mode, the search for which counts on neither side.
    """
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        true = exact(problem)
        mine, least, size, mode, laplace = matched_gradients(problem, true)
        started = {rate: adam_gradients(problem, true, rate, mode) for rate in RATES}
        afresh = {rate: adam_gradients(problem, true, rate, None) for rate in RATES}
    reached = {rate: count for rate, (count, _) in started.items() if count is not None}
    best = min(reached, key=lambda rate: reached[rate]) if reached else None
    theirs = LAST if best is None else reached[best]

    def listed(found: dict[float, tuple[int | None, float]]) -> str:
        return ", ".join(
            f"{rate:g}: {count if count is not None else f'not in {LAST} ({gap:.2g} sd)'}"
            for rate, (count, gap) in found.items()
        )

    said = (
        f"every posterior mean within {CLOSE:g} sd of 16 000 draws of NUTS, seen twice in a row; both from "
        f"the same mode, ours with the {size} gradients of its Hessian ({laplace}); Adam by step size: "
        f"{listed(started)}; from NumPyro's own start: {listed(afresh)}"
    )
    name = f"{problem.name}: gradients to the exact means"
    peer = "NumPyro, Adam at its best"
    if mine is None:
        said = f"ours came no nearer than {least:.2g} sd; " + said
        return [Row(GROUP, name, peer, None, reached.get(best or 0), (), "gradients", said, target)]
    return [
        Row(
            GROUP,
            name,
            peer,
            float(mine),
            float(theirs),
            (theirs / mine,),
            "gradients",
            said,
            target,
            at_least=best is None,
        )
    ]


def to_same_elbo(problem: Problem, rounds: Rounds) -> list[Row]:
    """Compare the seconds, compilation apart, of `triptych.SVI` with Adam's to the ELBO that ours ends at."""
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = triptych.SVI(problem.model)
        fit = ours.run(jax.random.key(0), *problem.args)
        blocks = fit.objective[-250:]
        height = float(np.mean(blocks))
        slack = 0.1  # nats
        taken: dict[float, int | None] = {}
        for rate in RATES:
            adam = Adam(problem, rate)
            taken[rate] = None
            for done in range(250, LAST + 1, 250):
                adam.advance(250)
                if float(adam.elbo(adam.state)) > height - slack:
                    taken[rate] = done
                    break
        reached = {rate: steps for rate, steps in taken.items() if steps is not None}
        best = min(reached, key=lambda rate: reached[rate]) if reached else RATES[-1]
        steps = reached.get(best, LAST)
        peer = Adam(problem, best)
        first = peer.state
        jax.block_until_ready(peer.block(first, 1))

        def theirs() -> float:
            return seconds(lambda: jax.block_until_ready(peer.block(first, steps)))

        keys = iter(range(1000))
        own, other, ratios = alternate(
            lambda: ours.run(jax.random.key(next(keys)), *problem.args).seconds.run, theirs, rounds
        )
    listed = ", ".join(f"{rate:g}: {count or f'not in {LAST}'}" for rate, count in taken.items())
    said = (
        f"ELBO {height:.2f} ± {np.std(blocks) / np.sqrt(len(blocks)):.2f} nats, theirs within {slack:g} of "
        f"it (looked at every 250 steps, not counted); ours {len(fit.objective)} steps of {ours.particles} "
        f"draws, search and draws of the fit counted; steps of one draw by Adam's step size, {listed}; timed "
        f"at {best:g}"
    )
    name = f"{problem.name}: to the same ELBO"
    row = Row(
        GROUP,
        name,
        "NumPyro, Adam at its best",
        1e3 * own,
        1e3 * other,
        ratios,
        "ms",
        said,
        None,
        "float64",
        at_least=not reached,
    )
    return [row]
