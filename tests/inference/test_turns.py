"""Fits side by side: one at a time has its turn, XLA works beside it, and an interrupt ends them all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg as linalg
import numpy as np
import pytest
from numpyro import handlers

from triptych.inference.sharing import kept, sharing
from triptych.inference.timing import stopwatch
from triptych.inference.turns import in_turns, look, others_go_on, together


def test_one_at_a_time_and_in_order() -> None:
    inside, most, order = [0], [0], []

    def job(name: int) -> Callable[[], None]:
        def work() -> None:
            for step in range(20):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                order.append((name, step))
                time.sleep(0.001)
                inside[0] -= 1
                with others_go_on():
                    time.sleep(0.001)

        return work

    together([job(0), job(1), job(2)])
    assert most == [1]
    assert order[:3] == [(0, 0), (1, 0), (2, 0)]
    assert sorted(order) == [(name, step) for name in range(3) for step in range(20)]


def test_the_context_and_the_precision_are_those_of_the_caller() -> None:
    found: list[object] = []
    with jax.enable_x64(True), sharing():
        kept("key", lambda: "made")
        together([lambda: found.append((kept("key", lambda: "again"), jnp.zeros(()).dtype))])
    assert found == [("made", np.float64)]


def test_others_have_their_turn_while_one_is_away() -> None:
    here = threading.Event()

    def first() -> None:
        with others_go_on():
            assert here.wait(10)

    together([first, here.set])


def test_the_turn_is_kept_within_a_program() -> None:
    said: list[str] = []

    def first() -> None:
        with handlers.seed(rng_seed=0), others_go_on():
            time.sleep(0.05)
            said.append("first")

    together([first, lambda: said.append("second")])
    assert said == ["first", "second"]


def test_what_one_raises_ends_the_others() -> None:
    ended: list[str] = []

    def broken() -> None:
        with others_go_on():
            time.sleep(0.05)
        raise KeyboardInterrupt

    def endless() -> None:
        try:
            while True:
                look()
                with others_go_on():
                    time.sleep(0.005)
        finally:
            ended.append("endless")

    with pytest.raises(KeyboardInterrupt):
        together([broken, endless])
    assert ended == ["endless"]


def test_a_program_wanted_twice_is_compiled_once() -> None:
    traced: list[int] = []

    def function(x: jax.Array) -> jax.Array:
        traced.append(1)
        return jnp.sum(linalg.expm(x))

    compiled = in_turns(jax.jit(function), long=False)
    answers: list[float] = []
    with sharing():
        together([lambda: answers.append(float(kept("f", lambda: compiled)(np.eye(3))))] * 2)
    assert len(traced) == 1
    assert answers == pytest.approx([3 * np.e] * 2, rel=1e-5)


def test_long_programs_run_beside_the_others_and_give_the_same() -> None:
    compiled = in_turns(jax.jit(lambda x: jnp.cumsum(x)), long=True)
    answers: list[np.ndarray] = []
    together([lambda: answers.append(np.asarray(compiled(np.arange(5.0))))] * 3)
    assert len(answers) == 3
    assert all(np.array_equal(answer, [0, 1, 3, 6, 10]) for answer in answers)


def test_a_watch_counts_neither_another_threads_compilation_nor_the_wait_for_a_turn() -> None:
    seconds = {}

    def quiet() -> None:
        with stopwatch() as watch:
            with others_go_on():
                time.sleep(0.02)
            seconds["quiet"] = watch.seconds

    def busy() -> None:
        with stopwatch() as watch:
            jax.jit(lambda x: linalg.expm(x @ x + 1))(jnp.eye(4))
            time.sleep(0.3)
            seconds["busy"] = watch.seconds

    together([quiet, busy])
    assert seconds["busy"].compile > 0.01
    assert seconds["quiet"].compile == 0
    assert seconds["quiet"].run < 0.2
