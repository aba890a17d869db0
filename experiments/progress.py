"""What a run tells while it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """What a run tells while it works."""

    def start(self, name: str, method: str) -> None:
        """Say that a fit starts."""

    def step(self, name: str, done: int, total: int, value: Any = None) -> None:
        """Say how far a fit is, and its objective where it has one."""

    def end(self, name: str, entry: Mapping[str, Any], *, kept: bool) -> None:
        """Say how a fit ended, or that it was kept from before."""


class Silent:
    """A progress that says nothing."""

    def start(self, name: str, method: str) -> None:
        """Say nothing."""

    def step(self, name: str, done: int, total: int, value: Any = None) -> None:
        """Say nothing."""

    def end(self, name: str, entry: Mapping[str, Any], *, kept: bool) -> None:
        """Say nothing."""
