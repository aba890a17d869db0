"""The E-steps by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from triptych.inference.em.e_steps import Annealed, Exact, Hard, Maker
from triptych.inference.em.monte_carlo import MonteCarlo
from triptych.inference.em.variational import Variational
from triptych.models.errors import InputError

__all__ = ["E_STEPS", "maker_of"]

E_STEPS: dict[str, Callable[..., Maker]] = {
    "exact": Exact,
    "hard": Hard,
    "annealed": Annealed,
    "variational": Variational,
    "monte_carlo": MonteCarlo,
}


def maker_of(e_step: Any) -> Any:
    """Give the choice that a name, a mapping {"name": name, setting: value, …} or an object stands for.

    Raises
    ------
    InputError : there is no E-step of this name, or the object cannot make one.
    """
    name, settings = e_step, {}
    if isinstance(e_step, Mapping):
        settings = dict(e_step)
        name = settings.pop("name", None)
    if isinstance(name, str) and name in E_STEPS:
        try:
            return E_STEPS[name](**settings)
        except TypeError as error:
            raise InputError(f"`e_step` {name!r} takes no such setting: {error}.") from None
    if isinstance(e_step, str | Mapping) or not hasattr(e_step, "make"):
        raise InputError(
            f"`e_step` is {e_step!r}: choose {', '.join(map(repr, E_STEPS))}, or give an object with "
            "`make(bound)` such as `Variational(draws=64)`."
        )
    return e_step
