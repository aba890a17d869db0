"""The names of NumPyro's autoguides, read off its source because importing it takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

__all__ = ["autoguides"]

# Bases, and guides that a name alone cannot make: they need a part of the program, or a surrogate for it.
LEFT_OUT = frozenset(
    {"AutoGuide", "AutoContinuous", "AutoGuideList", "AutoSemiDAIS", "AutoSurrogateLikelihoodDAIS"}
)


@cache
def autoguides() -> tuple[str, ...]:
    """Name the autoguides that the installed NumPyro can make of a program alone, in alphabetical order."""
    found = importlib.util.find_spec("numpyro")
    if found is None or not found.submodule_search_locations:
        return ()
    source = Path(found.submodule_search_locations[0], "infer", "autoguide.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return tuple(sorted(name for name in ast.literal_eval(node.value) if name not in LEFT_OUT))
    return ()
