"""Programs whose rows are folded: the same E-step, Q and iterates as enumeration, and who must not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from triptych.inference.em import EM
from triptych.inference.em.derived import derive
from triptych.inference.em.e_steps import Bound, Exact
from triptych.inference.em.expected import Joint, joint_of
from triptych.inference.em.folded import FoldedStep
from triptych.inference.em.kernel import Call
from triptych.inference.em.random_starts import scattered
from triptych.inference.em.unindexed import unindexed
from triptych.inference.survey import survey

N, D, K = 150, 3, 3
FLAT = jnp.ones(K)


def latent() -> tuple[Any, Any]:
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * FLAT))
    return weights, numpyro.plate("rows", N)


def chosen(weights: Any) -> Any:
    fn: Any = dist.Categorical(weights)
    return numpyro.sample("z", fn, infer={"enumerate": "parallel"})


def each(name: str, prior: Any, columns: int | None = D) -> Any:
    with numpyro.plate(f"components of {name}", K):
        prior = prior if columns is None else prior.expand([columns]).to_event(1)
        return jnp.asarray(numpyro.sample(name, prior))


def elementwise(make: Callable[..., Any], **priors: Any) -> Callable[[Any], None]:
    """Give a mixture whose D columns are independent, with one parameter a component and column each."""

    def program(x: Any) -> None:
        weights, rows = latent()
        values = [each(name, prior) for name, prior in priors.items()]
        with rows:
            z = chosen(weights)
            numpyro.sample("x", make(*(value[z] for value in values)).to_event(1), obs=x)

    return program


def gaussian(by: str) -> Callable[[Any], None]:
    """Give a Gaussian mixture with matrices written one way or another."""

    def program(x: Any) -> None:
        weights, rows = latent()
        means = each("means", dist.Normal(0.0, 5.0))
        with numpyro.plate("components of matrices", K):
            prior = dist.Wishart if by == "precision_matrix" else dist.InverseWishart
            matrices = jnp.asarray(numpyro.sample("matrices", prior(D + 3.0, jnp.eye(D))))
        given = jnp.linalg.cholesky(matrices) if by == "scale_tril" else matrices
        with rows:
            z = chosen(weights)
            numpyro.sample("x", dist.MultivariateNormal(means[z], **{by: given[z]}), obs=x)

    return program


def tied(x: Any) -> None:
    weights, rows = latent()
    means = each("means", dist.Normal(0.0, 5.0))
    matrix = jnp.asarray(numpyro.sample("matrix", dist.InverseWishart(D + 3.0, jnp.eye(D))))
    with rows:
        z = chosen(weights)
        numpyro.sample("x", dist.MultivariateNormal(means[z], matrix), obs=x)


def plates_of_columns(x: Any) -> None:
    """Columns in a plate of their own, right of the rows."""
    weights = numpyro.sample("weights", dist.Dirichlet(2.0 * FLAT))
    rows, columns = numpyro.plate("rows", N, dim=-2), numpyro.plate("columns", D, dim=-1)
    with columns, numpyro.plate("components", K, dim=-2):
        means = jnp.asarray(numpyro.sample("means", dist.Normal(0.0, 5.0)))
    scale = numpyro.sample("scale", dist.HalfNormal(3.0))
    with rows:
        z = chosen(weights)
        with columns:
            numpyro.sample("x", dist.Normal(means[z[..., 0]], scale), obs=x)


def several(x: Any) -> None:
    """Columns of different kinds, and two latents."""
    weights, rows = latent()
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    means, probs = each("means", dist.Normal(0.0, 5.0), None), each("probs", dist.Beta(2.0, 2.0), None)
    with numpyro.plate("kinds", 2):
        rates = jnp.asarray(numpyro.sample("rates", dist.Gamma(2.0, 0.5)))
        levels = jnp.asarray(numpyro.sample("levels", dist.Dirichlet(jnp.full(4, 1.5))))
    with rows:
        z = chosen(weights)
        kind = numpyro.sample("kind", dist.BernoulliProbs(share), infer={"enumerate": "parallel"})
        numpyro.sample("length", dist.Normal(means[z] + kind, 1.5), obs=x["length"])
        numpyro.sample("yes", dist.Binomial(probs=probs[z], total_count=x["trials"]), obs=x["yes"])
        numpyro.sample("count", dist.Poisson(rates[kind]), obs=x["count"])
        numpyro.sample("level", dist.Categorical(levels[kind]), obs=x["level"])


def labelled(x: Any) -> None:
    """Rows of which some have a label."""
    weights, rows = latent()
    means = each("means", dist.Normal(0.0, 5.0))
    labels = jnp.where(jnp.arange(N) % 10 == 0, jnp.arange(N) % K, -1)
    with rows:
        z = chosen(weights)
        numpyro.factor("label", jnp.where((labels < 0) | (labels == z), 0.0, -jnp.inf))
        numpyro.sample("x", dist.Normal(means[z], 1.0).to_event(1), obs=x)


def draw(kind: str) -> Any:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, K, (N, 1))
    real = 2.5 * groups + generator.normal(size=(N, D)) + 7.0
    if kind == "several":
        count = generator.integers(3, 9, N)
        return {
            "length": jnp.asarray(real[:, 0]),
            "trials": jnp.asarray(count),
            "yes": jnp.asarray(generator.binomial(count, 0.4)),
            "count": jnp.asarray(generator.poisson(3.0, N)),
            "level": jnp.asarray(generator.integers(0, 4, N)),
        }
    return jnp.asarray(
        {
            "real": real,
            "positive": np.exp(real / 6.0),
            "unit": 1.0 / (1.0 + np.exp(8.0 - real)),
            "bits": (real > 8.0).astype(float),
            "counts": generator.poisson(2.0 + 3.0 * groups, (N, D)).astype(float),
            "levels": (generator.integers(0, 2, (N, D)) + groups).astype(int),
        }[kind]
    )


GAMMA, REAL = dist.Gamma(3.0, 1.0), dist.Normal(0.0, 5.0)
PROGRAMS: dict[str, tuple[Callable[[Any], None], str]] = {
    "normal": (elementwise(dist.Normal, means=REAL, scales=GAMMA), "real"),
    "covariance": (gaussian("covariance_matrix"), "real"),
    "precision": (gaussian("precision_matrix"), "real"),
    "cholesky": (gaussian("scale_tril"), "real"),
    "tied": (tied, "real"),
    "lognormal": (elementwise(dist.LogNormal, means=REAL, scales=GAMMA), "positive"),
    "bernoulli probs": (elementwise(lambda p: dist.Bernoulli(p), probs=dist.Beta(2.0, 2.0)), "bits"),
    "bernoulli logits": (elementwise(lambda a: dist.Bernoulli(logits=a), logits=REAL), "bits"),
    "binomial logits": (
        elementwise(lambda a: dist.Binomial(logits=a, total_count=60), logits=REAL),
        "counts",
    ),
    "poisson": (elementwise(dist.Poisson, rates=GAMMA), "counts"),
    "categorical": (
        elementwise(lambda a: dist.Categorical(logits=jnp.stack([a, 0 * a, -a, a**2], -1)), slopes=REAL),
        "levels",
    ),
    "exponential": (elementwise(dist.Exponential, rates=GAMMA), "positive"),
    "gamma": (elementwise(dist.Gamma, shapes=GAMMA, rates=GAMMA), "positive"),
    "inverse gamma": (elementwise(dist.InverseGamma, shapes=GAMMA, rates=GAMMA), "positive"),
    "beta": (elementwise(dist.Beta, a=GAMMA, b=GAMMA), "unit"),
    "plates": (plates_of_columns, "real"),
    "several": (several, "several"),
    "labelled": (labelled, "real"),
}


def steps(
    program: Callable[[Any], None], x: Any, ignored: frozenset[str] = frozenset()
) -> tuple[Any, Any, Any, Any]:
    """Give the step as EM would choose it, the enumerated one, the arguments, and points."""
    args = (x,)
    sites = survey(program, args, {})
    points = scattered(sites.parameters, 3)
    points = [{name: jnp.asarray(value) for name, value in point.items()} for point in points]
    step = Exact().make(Bound(program, args, {}, sites, (), points[0], ignored))
    return step, joint_of(program, args, {}, ignored), args, points


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_folded_e_step_is_the_enumerated_one(name: str, key: jax.Array) -> None:
    """At θ it was not checked at: the objective, Q and its slope, Q under random posteriors."""
    program, kind = PROGRAMS[name]
    step, joint, args, (_, at, to) = steps(program, draw(kind))
    assert isinstance(step, FoldedStep), joint.reason

    def values(one: Any) -> Any:
        posterior, objective = one.infer(at, args, {})
        q, slope = jax.value_and_grad(lambda theta: one.expected(theta, posterior, args, {}))(to)
        noisy = one.expected(to, one.noise(key, 2.0, at, args, {}), args, {})
        return objective, q, slope, noisy

    mine, theirs = jax.jit(lambda: values(step))(), jax.jit(lambda: values(joint))()
    for one, two in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        own, other = (np.maximum(value, -1e20) for value in (one, two))  # a row against its label
        np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-10 * (1 + np.max(np.abs(other))))


def far(x: Any) -> None:
    """A covariate in the mean."""
    weights, rows = latent()
    means = each("means", REAL, None)
    with rows:
        z = chosen(weights)
        numpyro.sample("x", dist.Normal(means[z] * x[:, 1], 1.0), obs=x[:, 0])


def link(x: Any) -> None:
    """No exponential family: the latent within a nonlinear link of a t distribution."""
    weights, rows = latent()
    means = each("means", REAL, None)
    with rows:
        z = chosen(weights)
        numpyro.sample("x", dist.StudentT(4.0, jnp.tanh(means[z]), 1.0), obs=x[:, 0])


def scales(x: Any) -> None:
    """A scale for each row."""
    weights, rows = latent()
    means = each("means", REAL, None)
    with rows:
        z = chosen(weights)
        numpyro.sample("x", dist.Normal(means[z], jnp.abs(x[:, 1])), obs=x[:, 0])


def moved(x: Any) -> None:
    """What is observed hangs on a parameter."""
    weights, rows = latent()
    means, shift = each("means", REAL, None), numpyro.sample("shift", dist.Normal(0.0, 1.0))
    with rows:
        z = chosen(weights)
        numpyro.sample("x", dist.Normal(means[z], 1.0), obs=x[:, 0] - shift)


def weighted(x: Any) -> None:
    """Rows that count more than once."""
    weights, rows = latent()
    means = each("means", REAL, None)
    with rows, numpyro.handlers.scale(scale=2.0):
        z = chosen(weights)
        numpyro.sample("x", dist.Normal(means[z], 1.0), obs=x[:, 0])


def masked(x: Any) -> None:
    """Cells that are not there."""
    weights, rows = latent()
    means = each("means", REAL)
    with rows:
        z = chosen(weights)
        numpyro.sample("x", dist.Normal(means[z], 1.0).mask(x > 6.0).to_event(1), obs=x)


def crossed(x: Any) -> None:
    """A latent for the rows and one for the whole."""
    weights, rows = latent()
    means = each("means", REAL)
    kind = jnp.asarray(numpyro.sample("kind", dist.BernoulliProbs(0.3), infer={"enumerate": "parallel"}))
    with rows:
        z = chosen(weights)
        numpyro.sample("x", dist.Normal(means[z] + kind[..., None], 1.0).to_event(1), obs=x)


OTHERS = {
    "far": (far, "'x' ~ Normal has parameters that change with the row"),
    "link": (link, "'x' ~ StudentT is of no family that is known"),
    "scales": (scales, "'x' ~ Normal has parameters that change with the row"),
    "moved": (moved, "observed at site 'x' hangs on a parameter"),
    "weighted": (weighted, "is scaled"),
    "masked": (masked, "'x' ~ Normal is masked"),
    "crossed": (crossed, "not all in one plate of rows"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_programs_of_another_form_are_enumerated_row_by_row(name: str) -> None:
    program, reason = OTHERS[name]
    step, _, args, (_, at, _) = steps(program, draw("real"))
    assert isinstance(step, Joint)
    assert reason in step.reason
    assert np.isfinite(jax.jit(lambda: step.infer(at, args, {})[1])())


def test_a_row_outside_the_support_or_not_finite_is_left_to_the_program() -> None:
    x = np.asarray(draw("counts")).copy()
    x[3, 1] = -2.0
    step, *_ = steps(PROGRAMS["poisson"][0], jnp.asarray(x))
    assert isinstance(step, Joint)
    assert "support" in step.reason


@pytest.mark.parametrize(
    "name", ["covariance", "normal", "bernoulli probs", "poisson", "several", "labelled"]
)
def test_iterates_are_those_of_the_enumerated_route(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triptych.inference.em import e_steps

    def refuse(*_: Any) -> Any:
        raise e_steps.NotRecognisedError("not tried")

    program, kind = PROGRAMS[name]
    call = Call((draw(kind),), {}, None, "map", "em")
    mine = derive(program, call)
    monkeypatch.setattr(e_steps, "folded", refuse)
    theirs = derive(program, call)
    assert [block.sites for block in mine.problem.shape.blocks] == [
        block.sites for block in theirs.problem.shape.blocks
    ]
    start = scattered(mine.problem.shape.sites, 1)[0]
    ends = []
    for kernel in (mine, theirs):
        step = jax.jit(lambda problem, theta: problem.step(theta)[0])
        theta = dict(start)
        for _ in range(6):
            theta = step(kernel.problem, theta)
        ends.append(theta)
    for site, value in ends[1].items():
        size = np.max(np.abs(value))
        np.testing.assert_allclose(ends[0][site], value, rtol=1e-10, atol=1e-10 * size)


def test_float32_rows_far_off_centre_give_the_answer_of_float64() -> None:
    """Mean 1e6 and sd 1, and columns in units of 1e-6 and 1e6."""

    middle, unit = np.array([1e6, 0.0, 0.0]), np.array([1.0, 1e-6, 1e6])

    def program(x: Any) -> None:
        weights, rows = latent()
        offsets = each("offsets", dist.Normal(0.0, 3.0))
        variances = each("variances", dist.InverseGamma(2.0, 1.0))
        with rows:
            z = chosen(weights)
            fn = dist.Normal(middle + unit * offsets[z], unit * jnp.sqrt(variances[z]))
            numpyro.sample("x", fn.to_event(1), obs=x)

    generator = np.random.default_rng(1)
    x = 4.0 * generator.integers(0, K, (N, 1)) + generator.normal(size=(N, D))
    x = (x * unit + middle).astype(np.float32)
    ends = []
    for rows in (x, x.astype(np.float64)):
        kernel = derive(program, Call((rows,), {}, None, "map", "em"))
        assert isinstance(kernel.problem.shape.e_step, FoldedStep)
        theta, objective = scattered(kernel.problem.shape.sites, 1)[0], np.nan
        step = jax.jit(lambda problem, theta: problem.step(theta)[:2])
        for _ in range(20):
            theta, objective = step(kernel.problem, theta)
        ends.append((theta, float(objective)))
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)
    for site, value in ends[1][0].items():
        np.testing.assert_allclose(ends[0][0][site], value, rtol=1e-3, atol=1e-3)


def test_other_data_of_the_same_shape_are_prepared_anew() -> None:
    program, kind = PROGRAMS["normal"]
    x = np.asarray(draw(kind))
    kernel = derive(program, Call((x,), {}, None, "map", "em"))
    theta = scattered(kernel.problem.shape.sites, 1)[0]
    other = 1000.0 + 3.0 * x[::-1]
    again = derive(program, Call((other,), {}, None, "map", "em"))
    rebound = kernel.problem.on((jnp.asarray(other),))
    mine, theirs = (jax.jit(lambda p: p.infer(theta)[1])(p) for p in (rebound, again.problem))
    assert float(mine) == pytest.approx(float(theirs), rel=1e-12)


@pytest.mark.slow
def test_hard_and_annealed_steps_rest_on_the_fold(key: jax.Array) -> None:
    program, kind = PROGRAMS["covariance"]
    x = np.asarray(draw(kind))
    fit = EM(program, e_step="hard", restarts=4, draws=0).run(key, x)
    assert fit.status.ok
    kernel: Any = EM(program, e_step="hard").bind(x)
    assert isinstance(kernel.problem.shape.e_step.exact, FoldedStep)
    table = np.asarray(jax.nn.one_hot(np.argmax(np.asarray(fit.responsibilities(x)), axis=-1), K))
    np.testing.assert_allclose(table.sum(0), N * (fit.parameters["weights"] * (N + K) / N - 1 / N), atol=1e-4)


def test_explain_says_how_the_rows_are_read() -> None:
    text = str(EM(PROGRAMS["covariance"][0]).explain(draw("real")))
    assert "T(x) = x, x xᵀ" in text.replace("\n", " ")
    text = " ".join(str(EM(far).explain(draw("real"))).split())
    assert "row by row" in text


def test_gathers_by_a_whole_range_are_gone_and_others_stay() -> None:
    def function(x: jax.Array) -> jax.Array:
        z = jnp.arange(3)[:, None]
        return jnp.sin(x[z]) + x[z[::-1]] + x[(z + 1) % 3]

    x = jnp.arange(12.0).reshape(3, 4)
    plain = str(jax.make_jaxpr(function)(x)).count(" gather[")
    left = str(jax.make_jaxpr(unindexed(function))(x)).count(" gather[")
    assert left == plain - 1
    np.testing.assert_array_equal(unindexed(function)(x), function(x))


@pytest.mark.slow
def test_a_bootstrap_of_a_folded_program_is_that_of_the_enumerated_one(
    key: jax.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    import triptych
    from triptych.inference.em import e_steps

    def refuse(*_: Any) -> Any:
        raise e_steps.NotRecognisedError("not tried")

    program, kind = PROGRAMS["poisson"]
    x = np.asarray(draw(kind))
    em = EM(program, restarts=2, draws=0, tol=1e-8)
    fit = em.run(key, x)
    mine = triptych.bootstrap(em, key, x, replicates=6, fit=fit)
    monkeypatch.setattr(e_steps, "folded", refuse)
    theirs = triptych.bootstrap(em, key, x, replicates=6, fit=fit)
    for site, value in theirs.draws.items():
        np.testing.assert_allclose(mine.draws[site], value, rtol=1e-3, atol=1e-3)


def test_a_step_of_small_covariances_calls_no_lapack() -> None:
    """But for the pseudoinverse beside the Newton step, taken where that step is badly conditioned."""

    def program(x: Any) -> None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("components", 2):
            means = jnp.asarray(numpyro.sample("means", dist.Normal(0.0, 9.0).expand([2]).to_event(1)))
            covariances = jnp.asarray(numpyro.sample("covariances", dist.InverseWishart(4.0, jnp.eye(2))))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            numpyro.sample("x", dist.MultivariateNormal(means[z], covariances[z]), obs=x)

    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(40, 2))
        kernel = derive(program, Call((x,), {}, None, "mle", "em"))
        theta = {"weights": np.full(2, 0.5), "means": x[:2], "covariances": np.tile(np.eye(2), (2, 1, 1))}
        step = jax.jit(lambda problem, theta: problem.step(theta))
        text = step.lower(kernel.problem, kernel.inward(theta)).as_text()
    assert "potrf" not in text
    assert "trsm" not in text
