"""Numbers as a reader wants them: rounded to what they are worth, with a true minus sign."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["bound", "decimals", "fixed", "missing", "number", "seconds"]


def missing(value: Any) -> bool:
    """Whether there is no number to show."""
    return value is None or isinstance(value, str) or math.isnan(float(value))


def number(value: Any, digits: int = 3) -> str:
    """Write a number with so many significant digits; "–" where there is none."""
    if missing(value):
        return "–"
    value = float(value)
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0.0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if power >= 6 or power < -4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return fixed(value, max(0, digits - 1 - power))


def fixed(value: Any, places: int) -> str:
    """Write a number with so many decimals, thousands set apart by a thin space."""
    if missing(value):
        return "–"
    if math.isinf(float(value)):
        return number(value)
    text = f"{float(value):,.{places}f}".replace(",", "\u202f")
    return text.replace("-", "−") if float(text.replace("\u202f", "")) else text.removeprefix("-")


def decimals(sd: Any) -> int | None:
    """Give the decimals that show two digits of a standard deviation, `None` where fixed ones don't serve."""
    if missing(sd) or float(sd) <= 0 or math.isinf(float(sd)):
        return None
    places = 1 - math.floor(math.log10(float(sd)))
    return max(0, places) if -5 < places <= 6 else None


def seconds(value: Any) -> str:
    """Write a duration."""
    if missing(value):
        return "–"
    value = float(value)
    if value < 0.095:
        return f"{value * 1000:.0f} ms" if value >= 0.0005 else "< 1 ms"
    return f"{value:.1f} s" if value < 99.5 else f"{value / 60:.1f} min"


def bound(text: str) -> str:
    """Keep a number and its error, or its percent sign, on one line."""
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")
