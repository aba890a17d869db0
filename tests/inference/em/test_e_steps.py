"""E-steps of a program: exact ones against densities of scipy, hard ones against k-means, what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, t
from sklearn.cluster import KMeans

from triptych.inference.em import EM, MonteCarlo, Variational
from triptych.inference.em.conditionals import draw_gamma, draw_gaussian, gamma, gaussian
from triptych.inference.em.derived import derive
from triptych.inference.em.kernel import Call
from triptych.inference.em.variational import latin_hypercube
from triptych.models import GaussianMixture, InputError


def factors(x: Any) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mean = numpyro.sample("mean", dist.Normal(0, 5).expand([3]).to_event(1))
        loading = numpyro.sample("loading", dist.Normal(0, 2).expand([3]).to_event(1))
    noise = numpyro.sample("noise", dist.InverseGamma(2.0, 0.5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        u = numpyro.sample("u", dist.Normal())
        fn = dist.Normal(mean[z] + loading[z] * u[..., None], jnp.sqrt(noise))
        numpyro.sample("x", fn.to_event(1), obs=x)


def heavy(x: Any) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        mean = numpyro.sample("mean", dist.Normal(0, 5))
        variance = numpyro.sample("variance", dist.InverseGamma(2.0, 0.5))
        freedom = numpyro.sample("freedom", dist.Gamma(2.0, 0.1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        u = numpyro.sample("u", dist.Gamma(freedom[z] / 2, freedom[z] / 2))
        numpyro.sample("x", dist.Normal(mean[z], jnp.sqrt(variance[z] / u)), obs=x)


def steps(model: Any, x: np.ndarray, number: int, **settings: Any) -> tuple[Any, list[Any]]:
    """Bind, take some steps from a fixed start, and give the kernel, and θ, objective, posterior of each."""
    kernel = EM(model, objective="mle", latents=("u",), **settings).bind(x)
    theta = {
        name: value[0] for name, value in kernel.starts(jax.random.key(1), 1, "portfolio").parameters.items()
    }
    step, taken = jax.jit(lambda problem, at: problem.step(at)), []
    for _ in range(number):
        following, objective, posterior = step(kernel.problem, theta)
        taken.append((theta, float(objective), posterior))
        theta = following
    return kernel, taken


def test_discrete_and_gaussian_latents_together_have_the_density_of_a_mixture_of_factor_analysers() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)) + 2.0 * (np.arange(40) % 2)[:, None]
    kernel, taken = steps(factors, x, 6)
    assert {block.rule for block in kernel.problem.shape.blocks} <= {"closed form", "quadratic"}
    heights = [objective for _, objective, _ in taken]
    assert np.all(np.diff(heights) > -1e-9)
    theta, objective, posterior = jax.tree.map(np.asarray, taken[-1])
    terms = np.stack(
        [
            np.log(theta["weights"][k])
            + multivariate_normal(
                theta["mean"][k], np.outer(theta["loading"][k], theta["loading"][k]) + np.diag(theta["noise"])
            ).logpdf(x)
            for k in range(2)
        ]
    )
    assert objective == pytest.approx(logsumexp(terms, axis=0).sum(), abs=1e-8)
    np.testing.assert_allclose(posterior.weights, np.exp(terms - logsumexp(terms, axis=0)), atol=1e-10)
    precision = 1.0 + np.sum(theta["loading"] ** 2 / theta["noise"], axis=1)
    centred = x[None] - theta["mean"][:, None]
    mean = np.einsum("knd,kd->kn", centred, theta["loading"] / theta["noise"]) / precision[:, None]
    np.testing.assert_allclose(posterior.mean[..., 0], mean, rtol=1e-8)


def test_gamma_latents_beside_discrete_ones_have_the_density_of_a_mixture_of_students_t() -> None:
    generator = np.random.default_rng(2)
    x = np.concatenate([generator.standard_t(3, 30), 5 + generator.standard_t(5, 20)])
    _, taken = steps(heavy, x, 5)
    heights = [objective for _, objective, _ in taken]
    assert np.all(np.diff(heights) > -1e-9)
    theta, objective, posterior = jax.tree.map(np.asarray, taken[-1])
    terms = np.stack(
        [
            np.log(theta["weights"][k])
            + t(theta["freedom"][k], theta["mean"][k], np.sqrt(theta["variance"][k])).logpdf(x)
            for k in range(2)
        ]
    )
    assert objective == pytest.approx(logsumexp(terms, axis=0).sum(), abs=1e-8)
    np.testing.assert_allclose(posterior.weights, np.exp(terms - logsumexp(terms, axis=0)), atol=1e-9)
    distance = (x[None] - theta["mean"][:, None]) ** 2 / theta["variance"][:, None]
    mean = (theta["freedom"][:, None] + 1) / (theta["freedom"][:, None] + distance)
    np.testing.assert_allclose(posterior.mean[..., 0], mean, rtol=1e-8)


def test_completions_have_the_moments_of_the_posterior() -> None:
    square = jnp.array([[2.0, 0.3], [0.3, 1.0]])

    def quadratic(u: Any) -> Any:
        return -0.5 * jnp.einsum("nd,de,ne->n", u - 1.0, square, u - 1.0)

    found = gaussian(quadratic, (3, 2))
    covariance = np.linalg.inv(square)
    points = np.asarray(found.points)[:, 0]
    np.testing.assert_allclose(points.mean(axis=0), 1.0)
    np.testing.assert_allclose(np.cov(points.T, bias=True), covariance, rtol=1e-12)
    np.testing.assert_allclose(found.log_evidence, 0.5 * np.log(np.linalg.det(2 * np.pi * covariance)))
    draws = jax.vmap(lambda key: draw_gaussian(key, found.mean, found.spread))(
        jax.random.split(jax.random.key(0), 4000)
    )
    np.testing.assert_allclose(np.cov(np.asarray(draws)[:, 0].T), covariance, atol=0.06)
    shape, rate = 2.5, 0.7
    of_gamma = gamma(lambda u: jnp.sum((shape - 1.0) * jnp.log(u) - rate * u, axis=-1), (4, 1))
    from scipy.special import digamma, gammaln

    at = np.asarray(of_gamma.points)[:, 0, 0]
    assert at.mean() == pytest.approx(shape / rate)
    assert np.log(at).mean() == pytest.approx(digamma(shape) - np.log(rate))
    np.testing.assert_allclose(of_gamma.log_evidence, gammaln(shape) - shape * np.log(rate))
    draws = jax.vmap(lambda key: draw_gamma(key, of_gamma.mean, of_gamma.spread))(
        jax.random.split(jax.random.key(0), 4000)
    )
    assert np.asarray(draws)[:, 0].var() == pytest.approx(shape / rate**2, rel=0.1)


def centres(x: Any, scale: float = 0.3) -> None:
    with numpyro.plate("components", 3):
        centre = numpyro.sample("centre", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        numpyro.sample("x", dist.Normal(centre[z], scale).to_event(1), obs=x)


def test_hard_steps_are_those_of_k_means() -> None:
    x = np.random.default_rng(3).normal(size=(90, 2)) + 4.0 * np.eye(3)[np.arange(90) % 3][:, :2]
    start = x[:3]
    em = EM(centres, objective="mle", e_step="hard", draws=0)
    fit = em.run(jax.random.key(0), x, parameters={"centre": start})
    peer = KMeans(3, init=start, n_init=1, algorithm="lloyd", tol=0.0).fit(x)
    np.testing.assert_allclose(fit.parameters["centre"], peer.cluster_centers_, rtol=1e-10)
    constant = len(x) * (np.log(1 / 3) - np.log(2 * np.pi * 0.3**2))
    assert fit.objective[-1] == pytest.approx(constant - peer.inertia_ / (2 * 0.3**2), abs=1e-8)


def test_gradient_and_own_m_steps_come_to_the_optimum_of_the_closed_form(key: jax.Array) -> None:
    x = np.random.default_rng(4).normal(size=(60, 1)) + 4.0 * (np.arange(60) % 2)[:, None]
    model, start = (
        GaussianMixture(2, "tied"),
        {"weights": [0.4, 0.6], "means": [[0.0], [3.0]], "covariances": [[1.0]]},
    )
    closed = EM(model, objective="mle", draws=0).run(key, x, parameters=start)
    by_gradient = EM(model, objective="mle", draws=0, m_step={"means": "gradient"}).run(
        key, x, parameters=start
    )
    assert by_gradient.log_likelihood == pytest.approx(closed.log_likelihood, abs=1e-7)

    def half(expected: Any, parameters: Any) -> Any:
        """A step of size one half up the gradient of the means, their own curvature known."""
        slope = jax.grad(lambda means: expected({**parameters, "means": means}))(parameters["means"])
        return {"means": parameters["means"] + 0.5 * slope * parameters["covariances"][0, 0] / 60}

    own = EM(model, objective="mle", draws=0, m_step=half).run(key, x, parameters=start)
    assert own.objective[-1] > own.objective[0]
    np.testing.assert_array_equal(own.parameters["weights"], [0.4, 0.6])


def test_nodes_have_the_moments_of_a_standard_normal() -> None:
    nodes = latin_hypercube(16, 4, 3, whiten=True)
    np.testing.assert_allclose(nodes.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(
        np.einsum("srd,sre->rde", nodes, nodes) / 16, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-12
    )
    assert np.abs(nodes).max() > 1.5


def logistic(y: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0, 3))
    with numpyro.plate("groups", len(y)):
        u = numpyro.sample("u", dist.Normal(mean, 1.0))
        numpyro.sample("y", dist.Binomial(10, logits=u), obs=y)


def shared(x: Any) -> None:
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    u = numpyro.sample("u", dist.Normal(0.0, spread))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(u * z, 1.0), obs=x)


def truncated(x: Any) -> None:
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(x)):
        u = numpyro.sample("u", dist.HalfNormal(spread))
        numpyro.sample("x", dist.Normal(u, 1.0), obs=x)


def crossed(x: Any) -> None:
    """Row n's data hang on row n − 1's label."""
    mean = numpyro.sample("mean", dist.Normal(0, 3).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        u = numpyro.sample("u", dist.Normal())
        numpyro.sample("x", dist.Normal(mean[jnp.roll(z, 1, axis=-1)] + u, 1.0), obs=x)


COUNTS = np.array([1.0, 4.0, 7.0, 9.0, 3.0])


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (logistic, {"latents": ("u",)}, ["'u'", "not quadratic", "variational", "monte_carlo"]),
        (truncated, {"latents": ("u",)}, ["'u'", "Gamma", "variational"]),
        (
            shared,
            {"latents": ("u",)},
            ["'u'", "'z'", "one and the same plate", "discrete half alone is exact"],
        ),
        (crossed, {"latents": ("u",)}, ["'u'", "'z'", "one and the same plate"]),
        (centres, {"e_step": "variational"}, ["continuous latents", "'exact'"]),
        (centres, {"e_step": "monte_carlo"}, ["continuous latents", "'exact'"]),
        (heavy, {"latents": ("u",), "e_step": "hard"}, ["'hard'", "'u'", "Gamma"]),
        (logistic, {"m_step": "newton"}, ["'newton'", "'auto'", "'gradient'"]),
        (logistic, {"m_step": {"centre": "gradient"}}, ["mean"]),
    ],
)
def test_what_has_no_such_step_is_refused_by_name(model: Any, settings: Any, words: list[str]) -> None:
    x = COUNTS if model is not centres else np.ones((5, 2))
    with pytest.raises(InputError) as raised:
        EM(model, **settings).bind(x)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"e_step": "exakt"}, "'exact'"),
        ({"e_step": {"name": "variational", "nodes": 3}}, "nodes"),
        ({"e_step": {"name": "monte_carlo", "rounds": 0}}, "rounds"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused_before_work(settings: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        EM(centres, **settings)
    with pytest.raises(InputError, match="family"):
        Variational(family="flow")
    with pytest.raises(InputError, match="draws"):
        MonteCarlo(draws=0)


def test_row_steps_are_chosen_where_rows_do_not_meet() -> None:
    x = np.random.default_rng(0).normal(size=(12, 3))
    derived = derive(factors, Call((x,), {}, None, "map", "em", ("u",)))
    step = derived.problem.shape.e_step
    assert (step.family, step.plate, step.rows, step.combinations) == ("gaussian", "rows", 12, 2)


@pytest.mark.slow
def test_responsibilities_are_averaged_over_latents_that_were_integrated_out(key: jax.Array) -> None:
    generator = np.random.default_rng(2)
    x = np.concatenate([generator.standard_t(3, 30), 3 + generator.standard_t(5, 20)])
    fit = EM(heavy, latents=("u",), restarts=2, draws=3000).run(key, x)
    draws = fit.data["posterior"]
    table = np.mean(
        [
            np.exp(terms - logsumexp(terms, axis=0))
            for index in range(0, 3000, 10)
            for one in [draws.isel(chain=0, draw=index)]
            for terms in [
                np.log(one["weights"].values)[:, None]
                + t(
                    one["freedom"].values[:, None],
                    one["mean"].values[:, None],
                    np.sqrt(one["variance"].values)[:, None],
                ).logpdf(x)
            ]
        ],
        axis=0,
    )
    np.testing.assert_allclose(fit.responsibilities(x), table.T, atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["full", "mean_field"])
def test_a_guide_is_the_posterior_where_that_is_gaussian(key: jax.Array, family: str) -> None:
    """Groups around a mean: bound, optimum and draws of the latents are those of exact EM."""
    generator = np.random.default_rng(8)
    y = generator.normal(size=(12, 1)) + 2.0 + 0.5 * generator.normal(size=(12, 4))

    def groups(y: Any) -> None:
        mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
        spread = numpyro.sample("spread", dist.HalfNormal(3.0))
        with numpyro.plate("groups", 12):
            u = numpyro.sample("u", dist.Normal(mean, spread))
            numpyro.sample("y", dist.Normal(u[..., None], 0.5).to_event(1), obs=y)

    exact = EM(groups, objective="mle", restarts=1, draws=2000).run(key, y)
    guided = EM(groups, objective="mle", restarts=1, draws=2000, e_step=Variational(family=family)).run(
        key, y
    )
    assert guided.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-6)
    for site in ("mean", "spread", "u"):
        np.testing.assert_allclose(guided.parameters[site], exact.parameters[site], atol=1e-4)
        one, other = (fit.data["posterior"][site] for fit in (guided, exact))
        scale = other.std(("chain", "draw"))
        assert np.all(np.abs(one.mean(("chain", "draw")) - other.mean(("chain", "draw"))) < 0.15 * scale)
        np.testing.assert_allclose(one.std(("chain", "draw")) / scale, 1.0, atol=0.12)
