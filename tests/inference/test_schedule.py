"""The stopping rule of SVI: noise is not progress, progress is not noise."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.inference.schedule import Schedule, gain, standard_error


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_the_standard_error_counts_the_memory(memory):
    random = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(200):
        noise = random.normal(size=2500)
        trace = np.empty_like(noise)
        trace[0] = noise[0]
        for i in range(1, len(noise)):
            trace[i] = memory * trace[i - 1] + noise[i]
        means.append(trace.mean())
        errors.append(standard_error(trace))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.2)


def test_gain_leaves_out_what_came_first():
    trace = np.concatenate([np.full(300, -1e6), np.zeros(300), np.full(300, 2.0)])
    rise, error = gain(trace)
    assert rise == pytest.approx(2.0)
    assert error == 0.0
    assert gain(np.zeros(4)) == (float("inf"), float("inf"))


def run(trace, **settings):
    schedule = Schedule(rate=0.1, tolerance=0.05, steps=len(trace), **settings)
    rates = []
    for done in range(100, len(trace) + 1, 100):
        rates.append(schedule.current)
        if schedule.update(trace[:done]):
            return done, schedule, rates
    return None, schedule, rates


def test_a_flat_trace_stops_after_every_stage():
    noise = 0.1 * np.random.default_rng(0).normal(size=20_000)
    done, schedule, rates = run(noise, stages=3)
    assert done == 3000
    assert not schedule.cut
    np.testing.assert_allclose(np.unique(rates)[::-1], [0.1, 0.03, 0.009])


def test_a_slow_rise_within_the_noise_is_waited_for():
    noise = np.random.default_rng(0).normal(size=40_000)
    rising = 20 * (1 - np.exp(-np.arange(40_000) / 2000))
    done, schedule, _ = run(rising + noise)
    assert done is not None
    assert schedule.current == pytest.approx(0.1 * 0.3**3)
    assert rising[done - 1] > 19.9


def test_steps_that_run_out_while_rising_are_remembered():
    done, schedule, rates = run(np.arange(4000.0))
    assert schedule.cut
    assert done == 4000
    assert len(np.unique(rates)) == 4
