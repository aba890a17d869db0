"""Gradients, NUTS and SVI against NumPyro as its documentation writes it, and against PyMC with nutpie."""

from __future__ import annotations

import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from harness import Row, alternate, seconds

import triptych


def diagonal_program(x: Any, components: int) -> None:
    """Declare a diagonal mixture as NumPyro's documentation writes it."""
    columns = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(components)))
    with numpyro.plate("components", components):
        means = numpyro.sample("means", dist.Normal(0.0, 10.0).expand([columns]).to_event(1))
        variances = numpyro.sample("variances", dist.InverseGamma(2.0, 1.0).expand([columns]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(means[z], jnp.sqrt(variances[z])).to_event(1), obs=x)


def gradient(rows: int, components: int, columns: int, target: float | None, repeats: int) -> Row:
    """Compare the gradient of the log posterior, diagonal covariances, float32."""
    from numpyro.contrib.funsor import config_enumerate, enum, log_density

    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, columns)) + generator.integers(components, size=rows)[:, None]
    x = x.astype(np.float32)
    means = generator.normal(size=(components, columns)).astype(np.float32)
    weights, variances = np.full(components, 1 / components, np.float32), np.ones_like(means)
    m = triptych.marginal(triptych.GaussianMixture(components, covariance="diagonal"))
    enumerated = enum(config_enumerate(diagonal_program), first_available_dim=-2)
    own = jax.jit(jax.value_and_grad(lambda theta: m.log_density(theta, x)))
    other = jax.jit(jax.value_and_grad(lambda theta: log_density(enumerated, (x, components), {}, theta)[0]))
    mine = {"weights": weights, "means": means, "covariances": variances}
    theirs = {"weights": weights, "means": means, "variances": variances}
    # The priors differ; the likelihood's part of the gradient is theirs and ours.
    one, two = own(mine)[1]["covariances"], other(theirs)[1]["variances"]
    gap = float(np.max(np.abs(np.asarray(one - two))) / np.max(np.abs(np.asarray(two))))

    def timed(function: Any, theta: Any) -> float:
        return seconds(lambda: [jax.block_until_ready(function(theta)) for _ in range(5)]) / 5

    medians = alternate(lambda: timed(own, mine), lambda: timed(other, theirs), repeats)
    name = f"gradient of the log posterior, diagonal ({rows}, {columns}, {components}) float32"
    said = f"gradients by variance within {gap:.0e} of the largest (priors differ)"
    return Row(
        "Posteriors",
        name,
        "NumPyro enumerated",
        1e3 * medians[0],
        1e3 * medians[1],
        medians[2],
        "ms",
        said,
        target,
    )


def regression_gradient(rows: int, repeats: int) -> Row:
    """Compare the gradient that a leapfrog step of NUTS takes for a regression with that of the program."""
    from triptych.inference.starts import target

    generator = np.random.default_rng(0)
    X = generator.normal(size=(rows, 10))
    y = X @ np.ones(10) + generator.normal(size=rows)
    with jax.enable_x64(True):
        m = triptych.marginal(triptych.BayesianLinearRegression())
        ours = target(m, (X, y), {})
        theirs = jax.jit(jax.value_and_grad(ours.space.density(lambda theta: m.log_density(theta, X, y))))
        u = jnp.zeros(ours.space.size)
        gap = float(np.max(np.abs(ours.value_and_grad(u)[1] - theirs(u)[1])) / np.max(np.abs(theirs(u)[1])))

        def timed(function: Any) -> float:
            return seconds(lambda: [jax.block_until_ready(function(u)) for _ in range(20)]) / 20

        own, other, ratios = alternate(lambda: timed(ours.value_and_grad), lambda: timed(theirs), repeats)
    said = f"gradients within {gap:.0e}"
    name = f"gradient of a regression, {rows} rows, 10 columns, float64"
    return Row("Posteriors", name, "the program itself", 1e3 * own, 1e3 * other, ratios, "ms", said)


def ordered(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort components by the first column of their means, draw by draw: site → (chain, draw, …)."""
    order = np.argsort(draws["means"][..., 0], axis=-1)
    taken = {}
    for site, value in draws.items():
        index = order.reshape(order.shape + (1,) * (value.ndim - 3))
        taken[site] = np.take_along_axis(value, index, axis=2)
    return taken


def slowest(draws: dict[str, np.ndarray]) -> float:
    """Effective draws of the slowest element of the sorted draws."""
    from arviz_base import from_dict
    from arviz_stats import ess

    found = ess(from_dict({"posterior": ordered(draws)}))
    return min(float(np.nanmin(values.values)) for values in found.data_vars.values())


def full_program(x: Any, prior: Any, components: int) -> None:
    """Full covariances as NumPyro's documentation writes a mixture, with the priors of ours."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.asarray(prior.concentration)))
    with numpyro.plate("components", components):
        fn = dist.InverseWishart(prior.degrees_of_freedom, scale_matrix=jnp.asarray(prior.spread))
        covariances = numpyro.sample("covariances", fn)
        spread = covariances / prior.mean_precision
        means = numpyro.sample("means", dist.MultivariateNormal(jnp.asarray(prior.location), spread))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.MultivariateNormal(means[z], covariances[z]), obs=x)


def nuts(name: str, x: np.ndarray, components: int, target: float | None, repeats: int, draws: int) -> Row:
    """Compare effective draws a second, after compilation and warm-up, of the slowest parameter."""
    from numpyro.infer import MCMC, NUTS

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = triptych.GaussianMixture(components)
        mine = triptych.MCMC(model, warmup=300, draws=draws, chains=4)
        kernel = NUTS(full_program)
        peer = MCMC(
            kernel,
            num_warmup=300,
            num_samples=draws,
            num_chains=4,
            chain_method="vectorized",
            progress_bar=False,
        )
        prior = model.prior(x)
        means: list[np.ndarray] = []

        def ours(key: int) -> float:
            fit = mine.run(jax.random.key(key), x)
            posterior = fit.data["posterior"].dataset
            found = {site: posterior[site].values for site in ("weights", "means", "covariances")}
            means.append(ordered(found)["means"].mean((0, 1)))
            return fit.seconds.run / slowest(found)

        def theirs(key: int) -> float:
            peer.warmup(jax.random.key(key), x, prior, components)
            begin = time.perf_counter()
            peer.run(jax.random.key(key + 1), x, prior, components)
            jax.block_until_ready(peer.get_samples())
            spent = time.perf_counter() - begin
            found = {site: np.asarray(value) for site, value in peer.get_samples(group_by_chain=True).items()}
            means.append(ordered(found)["means"].mean((0, 1)))
            return spent / slowest(found)

        keys = iter(range(100, 100 + 4 * repeats))
        own, other, ratios = alternate(lambda: ours(next(keys)), lambda: theirs(next(keys)), repeats)
        gap = float(np.max(np.abs(means[0] - means[1]) / x.std(axis=0)))
    said = f"means within {gap:.1g} sd of the data; ours counts its whole run, theirs the draws after warm-up"
    return Row(
        "Posteriors",
        f"NUTS, {name}: seconds an effective draw",
        "NumPyro enumerated",
        1e3 * own,
        1e3 * other,
        ratios,
        "ms",
        said,
        target,
    )


def nutpie_row(x: np.ndarray, components: int, repeats: int, draws: int) -> Row:
    """Compare effective draws a second with PyMC's marginal mixture sampled by nutpie."""
    import nutpie
    import pymc as pm

    with pm.Model() as program:
        weights = pm.Dirichlet("weights", np.ones(components) * 1.5)
        means = pm.Normal("means", x.mean(0), 3 * x.std(0), shape=(components, x.shape[1]))
        parts = []
        for k in range(components):
            factor, _, _ = pm.LKJCholeskyCov(
                f"factor{k}", n=x.shape[1], eta=1.0, sd_dist=pm.HalfNormal.dist(x.std(0), shape=x.shape[1])
            )
            parts.append(pm.MvNormal.dist(means[k], chol=factor))
        pm.Mixture("x", w=weights, comp_dists=parts, observed=x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = nutpie.compile_pymc_model(program)
    means_of: list[np.ndarray] = []

    def theirs(key: int) -> float:
        begin = time.perf_counter()
        trace = nutpie.sample(compiled, tune=300, draws=draws, chains=4, seed=key, progress_bar=False)
        spent = time.perf_counter() - begin
        posterior = trace.posterior
        found = {site: np.asarray(posterior[site]) for site in ("weights", "means")}
        means_of.append(ordered(found)["means"].mean((0, 1)))
        return spent / slowest(found)

    with jax.enable_x64(True):
        mine = triptych.MCMC(triptych.GaussianMixture(components), warmup=300, draws=draws, chains=4)

        def ours(key: int) -> float:
            fit = mine.run(jax.random.key(key), x)
            posterior = fit.data["posterior"].dataset
            found = {site: posterior[site].values for site in ("weights", "means")}
            means_of.append(ordered(found)["means"].mean((0, 1)))
            return fit.seconds.run / slowest(found)

        keys = iter(range(200, 200 + 4 * repeats))
        own, other, ratios = alternate(lambda: ours(next(keys)), lambda: theirs(next(keys)), repeats)
    gap = float(np.max(np.abs(means_of[0] - means_of[1]) / x.std(axis=0)))
    said = f"means within {gap:.1g} sd of the data (other priors); both count warm-up, neither compilation"
    return Row(
        "Posteriors",
        "NUTS, Old Faithful: seconds an effective draw",
        "PyMC with nutpie",
        1e3 * own,
        1e3 * other,
        ratios,
        "ms",
        said,
        1,
    )
