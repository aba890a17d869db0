"""What a program raises while it is traced, turned into one line that names the site."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from numpyro.primitives import Messenger

from triptych.models.errors import InputError

__all__ = ["Program", "tracing"]

Program = Callable[..., Any]


class _Here(Messenger):
    """Remember the site being run, for error messages."""

    site: str | None = None
    done = True

    def process_message(self, msg: Any) -> None:
        if msg.get("name"):
            self.site, self.done = msg["name"], False

    def postprocess_message(self, msg: Any) -> None:
        if msg.get("name"):
            self.done = True

    def __str__(self) -> str:
        if self.site is None:
            return "before its first site"
        return f"after site '{self.site}'" if self.done else f"at site '{self.site}'"


@contextlib.contextmanager
def tracing(program: Program) -> Iterator[None]:
    """Turn whatever a program raises while it is traced into an `InputError` that names the site."""
    here = _Here()
    with here:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            name = getattr(program, "__name__", type(program).__name__)
            text = str(error) or "(no message)"
            raise InputError(
                f"the program `{name}` fails {here}: {type(error).__name__}: {text} "
                "Call it by hand with the same arguments (under numpyro.handlers.seed) to see where."
            ) from error
