"""EM derived from programs drawn at random: whatever the families and ties, the objective never falls."""

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
from triptych.inference.em.e_steps import Bound, Exact
from triptych.inference.em.expected import joint_of
from triptych.inference.em.folded import FoldedStep
from triptych.inference.em.random_starts import scattered
from triptych.inference.marginal import marginal
from triptych.inference.survey import survey

ROWS = 80
Draw = Callable[[np.random.Generator, np.ndarray], Any]


def site(name: str, prior: Any, tied: bool) -> Callable[[], Callable[[Any], Any]]:
    """Declare a parameter, one for all components or one each, and say how a component picks it."""

    def declare() -> Callable[[Any], Any]:
        if tied:
            value = jnp.asarray(numpyro.sample(name, prior))
            return lambda z: value
        with numpyro.plate(f"components_{name}", 2):
            values = jnp.asarray(numpyro.sample(name, prior))
        return lambda z: values[z]

    return declare


# family → (its parameters' priors, its distribution, how data with groups z are drawn)
FAMILIES: dict[str, tuple[dict[str, Any], Callable[..., Any], Draw]] = {
    "normal": (
        {"mean": dist.Normal(0.0, 5.0), "variance": dist.InverseGamma(3.0, 2.0)},
        lambda mean, variance: dist.Normal(mean, jnp.sqrt(variance)),
        lambda g, z: g.normal(3.0 * z, 1.0),
    ),
    "precision": (
        {"mean": dist.Normal(0.0, 5.0), "precision": dist.Gamma(2.0, 1.0)},
        lambda mean, precision: dist.Normal(mean, precision**-0.5),
        lambda g, z: g.normal(-2.0 * z, 0.7),
    ),
    "lognormal": (
        {"mean": dist.Normal(0.0, 5.0), "scale": dist.HalfNormal(2.0)},
        dist.LogNormal,
        lambda g, z: np.exp(g.normal(z, 0.4)),
    ),
    "bernoulli": (
        {"probs": dist.Beta(1.5, 1.5)},
        lambda probs: dist.Bernoulli(probs),
        lambda g, z: (g.random(len(z)) < 0.2 + 0.6 * z).astype(float),
    ),
    "categorical": (
        {"probs": dist.Dirichlet(np.full(3, 1.5))},
        lambda probs: dist.Categorical(probs),
        lambda g, z: np.where(g.random(len(z)) < 0.5, z, 2),
    ),
    "poisson": ({"rate": dist.Gamma(2.0, 0.5)}, dist.Poisson, lambda g, z: g.poisson(2.0 + 5.0 * z)),
    "exponential": (
        {"rate": dist.Gamma(2.0, 1.0)},
        dist.Exponential,
        lambda g, z: g.exponential(0.3 + 2.0 * z),
    ),
    "gamma": (
        {"shape": dist.Gamma(3.0, 1.0), "rate": dist.Gamma(2.0, 1.0)},
        dist.Gamma,
        lambda g, z: g.gamma(2.0 + 3.0 * z),
    ),
    "beta": (
        {"a": dist.Gamma(3.0, 1.0), "b": dist.Gamma(3.0, 1.0)},
        dist.Beta,
        lambda g, z: g.beta(2.0 + 3.0 * z, 3.0),
    ),
    "negative_binomial": (
        {"mean": dist.Gamma(2.0, 0.5), "size": dist.Gamma(3.0, 1.0)},
        lambda mean, size: dist.NegativeBinomial2(mean, size),
        lambda g, z: g.negative_binomial(3, 3 / (5.0 + 6.0 * z)),
    ),
    "student": (
        {"mean": dist.Normal(0.0, 5.0), "scale": dist.HalfNormal(2.0)},
        lambda mean, scale: dist.StudentT(4.0, mean, scale),
        lambda g, z: 4.0 * z + g.standard_t(4, len(z)),
    ),
}  # fmt: skip


HEAVY = ("negative_binomial", "student")  # of no exponential family


def program_of(columns: list[tuple[str, bool]]) -> Callable[..., None]:
    """Build a mixture of two components whose columns have these families, tied or not."""

    def program(*data: Any) -> None:
        share = numpyro.sample("share", dist.Beta(2.0, 2.0))
        picks = []
        for index, (family, tied) in enumerate(columns):
            priors = FAMILIES[family][0]
            # The first parameter of a column is never tied: something must tell the components apart.
            picks.append(
                [
                    site(f"{family}_{index}_{name}", prior, tied and number > 0)()
                    for number, (name, prior) in enumerate(priors.items())
                ]
            )
        with numpyro.plate("rows", ROWS):
            z = numpyro.sample("z", dist.Bernoulli(share))
            for index, ((family, _), pick) in enumerate(zip(columns, picks, strict=True)):
                fn = FAMILIES[family][1](*(one(z) for one in pick))
                numpyro.sample(f"x{index}", fn, obs=data[index])

    return program


def check(columns: list[tuple[str, bool]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    z = generator.integers(0, 2, ROWS)
    data = [np.asarray(FAMILIES[family][2](generator, z), float) for family, _ in columns]
    data = [
        one.astype(int) if family == "categorical" else one
        for one, (family, _) in zip(data, columns, strict=True)
    ]
    program = program_of(columns)
    fit = EM(program, restarts=2, draws=20).run(jax.random.key(seed), *data)
    assert fit.status.ok
    assert np.all(np.diff(fit.objective) >= -1e-9 * abs(fit.objective[-1]))
    density = jax.jit(lambda theta: marginal(program).log_density(theta, *data))
    assert fit.objective[-1] == pytest.approx(float(density(dict(fit.parameters))), abs=1e-8 * ROWS)
    assert float(fit.data["information"]["gain"]) < 1e-4
    assert float(fit.data["information"]["disagreement"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_m_step(family: str) -> None:
    check([(family, False), ("normal", True)], 1)


@pytest.mark.parametrize("seed", range(3))
def test_random_columns_of_exponential_families_have_the_enumerated_e_step(seed: int) -> None:
    """Folded or row by row: the same objective, and the same slope of Q, at random θ."""
    generator = np.random.default_rng(200 + seed)
    names = generator.choice(list(FAMILIES), 4, replace=False)
    columns = [(str(name), bool(generator.integers(0, 2))) for name in names]
    z = generator.integers(0, 2, ROWS)
    data = tuple(
        jnp.asarray(np.asarray(FAMILIES[name][2](generator, z), int if name == "categorical" else float))
        for name, _ in columns
    )
    known = [(column, x) for column, x in zip(columns, data, strict=True) if column[0] not in HEAVY]
    columns, data = [column for column, _ in known], tuple(x for _, x in known)
    program = program_of(columns)
    sites = survey(program, data, {})
    at, to = (
        {name: jnp.asarray(value) for name, value in point.items()}
        for point in scattered(sites.parameters, 2)
    )
    step = Exact().make(Bound(program, data, {}, sites, (), at, frozenset()))
    assert isinstance(step, FoldedStep)
    joint = joint_of(program, data, {}, frozenset())

    def values(one: Any) -> Any:
        posterior, objective = one.infer(to, data, {})
        return objective, jax.grad(lambda theta: one.expected(theta, posterior, data, {}))(at)

    mine, theirs = jax.jit(lambda: values(step))(), jax.jit(lambda: values(joint))()
    for own, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-10 * (1 + np.max(np.abs(other))))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_objective_never_falls_for_columns_drawn_at_random(seed: int) -> None:
    generator = np.random.default_rng(100 + seed)
    names = generator.choice(list(FAMILIES), generator.integers(2, 4), replace=False)
    check([(str(name), bool(generator.integers(0, 2))) for name in names], seed)


@pytest.mark.slow
def test_mixed_columns_with_a_tied_variance() -> None:
    check([("normal", True), ("poisson", False)], 0)
