"""What XLA compiled is kept in the user's cache, where the user allows it."""

from __future__ import annotations

import os
from pathlib import Path

from triptych.experiments.compilation import _prune, keep_compilations


def test_the_cache_is_in_the_users_cache_directory(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    keep_compilations(environment)
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "triptych" / "jax")
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_choice_stands() -> None:
    environment = {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}
    keep_compilations(environment)
    assert environment == {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}


def test_a_cache_that_has_grown_loses_its_oldest_files(tmp_path: Path) -> None:
    for age, name in enumerate("cba"):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (100 - age, 100 - age))
    _prune(tmp_path, most=20)
    assert {file.name for file in tmp_path.iterdir()} == {"b", "c"}
    _prune(tmp_path / "not_there")
