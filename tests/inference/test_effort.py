"""Programs of little work are compiled with little effort; all of them do one thing after another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from triptych.inference.effort import in_order

STACK = 1608  # of Pathfinder's: 8 paths of 201 steps


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the CPU's LAPACK")
@pytest.mark.timeout(120)
def test_two_factorisations_of_large_stacks_do_not_wait_for_each_other():
    """By `jax.jit` alone this waits for ever on two cores (jaxlib 0.10)."""
    matrices = np.random.default_rng(0).normal(size=(STACK, 12, 12)) + 6 * np.eye(12)

    @in_order
    def both(matrices, rounds):
        def one(index, carry):
            moved = matrices + 1e-3 * index
            _, upper = jnp.linalg.qr(moved)
            found = jnp.linalg.inv(moved)
            return carry[0] + jnp.sum(jnp.abs(upper[:, 0, 0])), carry[1] + jnp.sum(found[:, 0, 0])

        return jax.lax.fori_loop(0, rounds, one, (jnp.zeros(()), jnp.zeros(())))

    with jax.enable_x64(True):
        lengths, corners = both(matrices, 100)
    moved = [matrices + 1e-3 * index for index in range(100)]
    np.testing.assert_allclose(lengths, sum(np.linalg.norm(m[:, :, 0], axis=1).sum() for m in moved))
    np.testing.assert_allclose(corners, sum(np.linalg.inv(m)[:, 0, 0].sum() for m in moved), rtol=1e-9)
