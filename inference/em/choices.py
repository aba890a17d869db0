"""The E-steps by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triptych.inference.em.e_steps import Annealed, Exact, Hard, Maker
from triptych.inference.em.monte_carlo import MonteCarlo
from triptych.inference.em.variational import Variational
from triptych.models.errors import InputError

__all__ = ["E_STEPS", "maker_of"]

E_STEPS: dict[str, Callable[[], Maker]] = {
    "exact": Exact,
    "hard": Hard,
    "annealed": Annealed,
    "variational": Variational,
    "monte_carlo": MonteCarlo,
}


def maker_of(e_step: Any) -> Any:
    """Give the choice that a name or an object stands for.

    Raises
    ------
    InputError : there is no E-step of this name, or the object cannot make one.
    """
    if isinstance(e_step, str) and e_step in E_STEPS:
        return E_STEPS[e_step]()
    if isinstance(e_step, str) or not hasattr(e_step, "make"):
        raise InputError(
            f"`e_step` is {e_step!r}: choose {', '.join(map(repr, E_STEPS))}, or give an object with "
            "`make(bound)` such as `Variational(draws=64)`."
        )
    return e_step
