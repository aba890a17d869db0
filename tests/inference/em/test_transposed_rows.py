"""Rows held column by column give what the same rows give as they lie."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.inference.em import EM
from triptych.inference.em.fold import MixtureProblem, chunk_rows
from triptych.inference.em.transposed_rows import BLOCK, TransposedRows, standardised, transposed
from triptych.models import BernoulliMixture, GaussianMixture


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3 * BLOCK), st.integers(1, 4), st.sampled_from([np.float32, np.float64]))
def test_transposed_rows_are_the_standardised_ones(rows: int, columns: int, dtype: Any) -> None:
    random = np.random.default_rng(rows)
    x = random.normal(100.0, 3.0, (rows, columns)).astype(dtype)
    centre, inverse_scale = np.full(columns, 100.0, dtype), random.uniform(0.1, 10.0, columns).astype(dtype)
    held = transposed(x, centre, inverse_scale)
    assert (held.shape, held.dtype) == (x.shape, x.dtype)
    expected = (x - centre) * inverse_scale
    np.testing.assert_array_equal(np.asarray(standardised(held, centre, inverse_scale)), expected)
    chosen = random.integers(rows, size=7)
    np.testing.assert_array_equal(np.asarray(held[chosen].columns).T, expected[chosen])


@pytest.mark.parametrize("covariance", ["spherical", "diagonal", "full", "tied"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_step_is_the_same_whichever_way_rows_are_held(covariance: Any, dtype: Any) -> None:
    random = np.random.default_rng(1)
    model = GaussianMixture(3, covariance=covariance)
    size = chunk_rows(EM(model).bind(random.normal(size=(9, 4))).problem.family, np.dtype(dtype).itemsize)
    x = (random.integers(3, size=(2 * size + 11, 1)) * 4.0 + random.normal(size=(2 * size + 11, 4))).astype(
        dtype
    )
    labels = random.integers(-1, 3, size=len(x))
    kernel = EM(model).bind(x, labels, sample_weight=random.uniform(0.5, 2.0, len(x)))
    start = {
        name: value[0]
        for name, value in kernel.starts(jax.random.key(0), 1, "random_rows").parameters.items()
    }
    problem = kernel.problem
    assert isinstance(problem, MixtureProblem)
    assert isinstance(problem.rows, TransposedRows)
    lying = dataclasses.replace(problem, rows=jnp.asarray(x))
    rounding = 1e-12 if dtype is np.float64 else 1e-5
    for one, other in ((problem, lying), (problem.take(np.arange(5, 99)), lying.take(np.arange(5, 99)))):
        got, wanted = (jax.jit(lambda each: each.step(start)[:2])(each) for each in (one, other))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rounding, atol=rounding), got, wanted)


def test_rows_that_are_read_as_they_lie_are_not_transposed() -> None:
    random = np.random.default_rng(2)
    bits: Any = EM(BernoulliMixture(2)).bind(random.integers(2, size=(30, 5)).astype(float)).problem
    wide: Any = EM(GaussianMixture(2, covariance="diagonal")).bind(random.normal(size=(90, 64))).problem
    assert bits.rows.dtype == np.uint8
    assert wide.rows.shape == (90, 64)
    assert not isinstance(wide.rows, TransposedRows)
