"""Keeping what XLA has compiled, so that the second run of an experiment does not wait for it again."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["keep_compilations"]

MOST_BYTES = 512 * 2**20


def keep_compilations(environment: MutableMapping[str, str]) -> None:
    """Point JAX's compilation cache to the user's cache directory, unless the user has pointed it elsewhere.

    JAX reads the environment when it is imported, so this comes first; and only the command does it, never
    the library. The cache changes no number: it holds the same programs. `JAX_ENABLE_COMPILATION_CACHE=false`
    turns it off.
    """
    if "JAX_COMPILATION_CACHE_DIR" in environment:
        return
    try:
        home = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache = home / "triptych" / "jax"
        _prune(cache)
    except (OSError, RuntimeError):  # no home, or not ours
        return
    standing = next(place for place in (cache, *cache.parents) if place.exists())
    if os.access(standing, os.W_OK):
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        # Most programs are small: hundreds that take a few hundredths of a second each.
        environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _prune(cache: Path, most: int = MOST_BYTES) -> None:
    """Delete the oldest files of a cache that has grown above `most` bytes."""
    if not cache.is_dir():
        return
    files = sorted((file for file in cache.iterdir() if file.is_file()), key=lambda f: f.stat().st_mtime)
    size = sum(file.stat().st_size for file in files)
    for file in files:
        if size <= most:
            return
        size -= file.stat().st_size
        file.unlink(missing_ok=True)
