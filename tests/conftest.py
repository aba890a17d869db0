"""The strict session every test runs in, and the data they share."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
# The tests compile more than they compute: what one run has compiled, the next need not.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

DATA = Path(__file__).parent.parent / "experiments" / "data"


MAPS = 15_000
# Seconds since the epoch from which on no test begins: `.ci/run` has so much time and no more.
UNTIL = float(os.environ.get("TRIPTYCH_TESTS_UNTIL", "inf"))


def pytest_runtest_setup() -> None:
    """Leave a test out, and say so, once the time of the run is up."""
    if time.time() > UNTIL:
        pytest.skip("the time of this run is up")


def pytest_runtest_teardown() -> None:
    """Free what XLA has compiled once it holds many memory maps: a process that has 65 530 dies."""
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key() -> jax.Array:
    """Give a fixed random key."""
    return jax.random.key(0)


@pytest.fixture
def data_path() -> Callable[[str], Path]:
    """Give the path of a shipped data set by name."""

    def path(name: str) -> Path:
        return next(DATA.glob(f"{name}.csv*"))

    return path


@pytest.fixture
def faithful(data_path: Callable[[str], Path]) -> np.ndarray:
    """Give Old Faithful's eruptions (minutes) and waiting times (minutes), (272, 2)."""
    return np.loadtxt(data_path("old_faithful"), delimiter=",", skiprows=1)
