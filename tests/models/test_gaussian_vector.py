"""Normals of vectors by one matrix product against NumPyro's own, for every way that shapes meet."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from triptych.models.distributions import GaussianVector, NormalVector

SHAPES = [
    ((), (), ()),
    ((), (), (7,)),
    ((), (3,), (3,)),
    ((3, 1), (3, 1), (7,)),
    ((3, 1), (), (7,)),
    ((3, 1), (3, 1), (2, 7)[1:]),
    ((7,), (), (7,)),
    ((7,), (7,), (7,)),
    ((2, 3, 1), (3, 1), (7,)),
    ((3, 1), (3, 1), (3, 7)),
]


@pytest.mark.parametrize(("mean", "root", "rows"), SHAPES)
def test_density_and_gradient_are_those_of_numpyro(
    mean: tuple[int, ...], root: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(0)
    loc, value = (
        jnp.asarray(generator.normal(size=(*mean, 4))),
        jnp.asarray(generator.normal(size=(*rows, 4))),
    )
    noise = generator.normal(size=(*root, 4, 4))
    factor = jnp.linalg.cholesky(noise @ np.swapaxes(noise, -1, -2) + np.eye(4))

    def total(kind: type, loc: jax.Array, factor: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(kind(loc, scale_tril=factor).log_prob(value)))

    own, peer = (
        kind(loc, scale_tril=factor).log_prob(value) for kind in (GaussianVector, dist.MultivariateNormal)
    )
    assert own.shape == peer.shape
    np.testing.assert_allclose(own, peer, rtol=1e-12)
    one, other = (
        jax.grad(total, argnums=(1, 2))(kind, loc, factor)
        for kind in (GaussianVector, dist.MultivariateNormal)
    )
    np.testing.assert_allclose(one[0], other[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.tril(one[1]), np.tril(other[1]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("mean", "scale", "rows"), [SHAPES[0], *SHAPES[3:5], *SHAPES[7:]])
def test_independent_normals_are_those_of_numpyro(
    mean: tuple[int, ...], scale: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(0)
    # Far from the origin: around the column means nothing cancels.
    loc = jnp.asarray(generator.normal(size=(*mean, 4))) + 1e4
    value = jnp.asarray(generator.normal(size=(*rows, 4))) + 1e4
    spread = jnp.asarray(generator.uniform(0.5, 2.0, size=(*scale, 4)))

    def total(vector: bool, loc: jax.Array, spread: jax.Array) -> jax.Array:
        fn = NormalVector(loc, spread) if vector else dist.Normal(loc, spread).to_event(1)
        return jnp.sum(jnp.sin(fn.log_prob(value)))

    own, peer = (
        NormalVector(loc, spread).log_prob(value),
        dist.Normal(loc, spread).to_event(1).log_prob(value),
    )
    assert own.shape == peer.shape
    np.testing.assert_allclose(own, peer, rtol=1e-11)
    for one, other in zip(
        jax.grad(total, argnums=(1, 2))(True, loc, spread),
        jax.grad(total, argnums=(1, 2))(False, loc, spread),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)


def test_plates_expand_it() -> None:
    fn = GaussianVector(jnp.zeros(2), scale_tril=jnp.eye(2)).expand((5,))
    assert fn.log_prob(jnp.ones(2)).shape == (5,)
    assert fn.sample(jax.random.key(0)).shape == (5, 2)
