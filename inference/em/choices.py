"""The choices of E- and M-step by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from triptych.inference.em.e_steps import Annealed, Exact, Hard, Maker
from triptych.inference.em.monte_carlo import MonteCarlo
from triptych.inference.em.variational import Variational
from triptych.models.errors import InputError

__all__ = ["E_STEPS", "by_gradient", "maker_of"]

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


def by_gradient(m_step: Any, sites: Mapping[str, Any]) -> frozenset[str] | None:
    """Say which sites are climbed by the gradient, whatever their shape; `None`: by the user's own M-step.

    Raises
    ------
    InputError : `m_step` is none of its choices.
    """
    if callable(m_step):
        return None
    if m_step in ("auto", "gradient"):
        return frozenset(sites) if m_step == "gradient" else frozenset()
    choices = m_step if isinstance(m_step, Mapping) else {}
    if not choices or set(choices.values()) - {"auto", "gradient"} or set(choices) - set(sites):
        raise InputError(
            f"`m_step` is {m_step!r}: choose 'auto', 'gradient', one of them for each site (a dict; "
            f"the sites are {', '.join(sites)}), or a function (expected, parameters) → parameters."
        )
    return frozenset(site for site, how in choices.items() if how == "gradient")
