"""A fit's tables are laid out when they are first read: what few readers want costs the others nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

__all__ = ["Deferred"]


class Deferred:
    """A field of a frozen dataclass, given as a tree or as a function that makes it at the first reading.

    A hundred restarts on a few hundred rows take less time than the tables that tell of them. The function
    must be safe to call twice: two threads may read at once.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: Any, owner: type) -> xr.DataTree:
        if instance is None:
            raise AttributeError(f"`{self._name[1:]}` has no default")  # so that dataclasses see none
        value: Any = instance.__dict__[self._name]
        if callable(value):
            value = instance.__dict__[self._name] = value()
        return value

    def __set__(self, instance: Any, value: xr.DataTree | Callable[[], xr.DataTree]) -> None:
        instance.__dict__[self._name] = value
