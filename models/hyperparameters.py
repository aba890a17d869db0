"""Checks of a model's hyper-parameters, which come out as ints, floats and tuples, to be hashed."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from triptych.models.errors import InputError

__all__ = ["choice", "each", "frozen", "nearest", "positive", "whole_number"]


def nearest(word: str, known: Iterable[str]) -> str:
    """Give " (did you mean 'x'?)" for the known word nearest to `word`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Give `value` as an int of at least `least`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"`{name}` must be a whole number of at least {least}, but is {value!r}.")
    return int(value)


def choice(name: str, value: Any, known: Sequence[str]) -> str:
    """Give `value` if it is one of the known words."""
    if value not in known:
        hint = nearest(value, known) if isinstance(value, str) else ""
        raise InputError(f"`{name}` must be one of {', '.join(known)}, but is {value!r}{hint}.")
    return value


def positive(name: str, value: Any) -> float:
    """Give `value` as a finite float above 0."""
    number = frozen(name, value)
    if not isinstance(number, float) or number <= 0:
        raise InputError(f"`{name}` must be one number above 0, but is {value!r}.")
    return number


def each(name: str, value: Any, count: int) -> Any:
    """Give `value` as `None`, one float above 0, or a tuple of `count` of them."""
    number = frozen(name, value)
    items = number if isinstance(number, tuple) else (() if number is None else (number,))
    if any(not isinstance(item, float) or item <= 0 for item in items):
        raise InputError(f"`{name}` must be above 0, but is {value!r}.")
    if isinstance(number, tuple) and len(number) != count:
        raise InputError(f"`{name}` has {len(number)} numbers for {count} components: give one, or one each.")
    return number


def frozen(name: str, value: Any) -> Any:
    """Give numbers, lists and arrays as floats and (nested) tuples of floats, which can be hashed."""
    if value is None:
        return None
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" or not np.all(np.isfinite(array)):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(f"`{name}` must be finite numbers, but is {value!r}.") from None

    def tuples(item: Any) -> Any:
        return tuple(map(tuples, item)) if isinstance(item, list) else float(item)

    return tuples(array.tolist())
