"""Refusing input: one line that says what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn

__all__ = ["nearest", "refuse"]


def refuse(text: str) -> NoReturn:
    """Raise an `InputError`; its import waits until here, because it takes JAX and NumPyro with it."""
    from triptych.models.errors import InputError

    raise InputError(text) from None


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant, as the end of a sentence; else list what is known."""
    names = [str(name) for name in known]
    folded = {name.lower().replace("-", "_"): name for name in names}
    close = difflib.get_close_matches(str(word).lower().replace("-", "_"), folded, n=1, cutoff=0.5)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    return f"known are {', '.join(names)}." if names else "nothing is known here."
