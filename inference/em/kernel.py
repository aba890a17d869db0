"""What EM needs to know of a model bound to its data, and how a model's hand-written kernel is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from triptych.inference.em.family import Parameters
from triptych.inference.em.loop import Problem
from triptych.inference.laplace import GaussianApproximation
from triptych.inference.status import Finding

__all__ = ["Call", "Kernel", "Review", "Start", "bind", "has_kernel"]


class Call(NamedTuple):
    """What a fit was asked for: the program's arguments and the settings that shape the problem."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sample_weight: np.ndarray | None
    objective: str
    update: str
    latents: tuple[str, ...] | None = None
    e_step: Any = "exact"
    m_step: Any = "auto"


class Start(NamedTuple):
    """Starting points stacked along axis 0, in the kernel's own units, and the recipe of each.

    `history` holds the objectives (nats) of the short runs that led to them, where those were on all rows.
    """

    parameters: Parameters
    recipes: tuple[str, ...]
    history: tuple[np.ndarray, ...] = ()


class Review(NamedTuple):
    """A point looked at: log p(x | θ) in nats, the data's units; what is degenerate there, by component."""

    log_likelihood: float
    findings: tuple[Finding, ...]


class Kernel(Protocol):
    """A model bound to data: its EM step and the way between the user's parameters and the step's.

    `register` an implementation with `bind.register(MyModel)`; see CONTRIBUTING for a skeleton.
    """

    @property
    def problem(self) -> Problem:
        """The pytree with `step(parameters) -> (parameters, objective, statistics)`."""
        ...

    @property
    def model(self) -> Callable[..., Any]:
        """The program with which `objective` agrees (a data-scaled prior resolved to the weighted data)."""
        ...

    @property
    def count(self) -> float:
        """Effective number of rows, Σ w."""
        ...

    @property
    def epsilon(self) -> float:
        """Machine precision of the rows' arithmetic."""
        ...

    def starts(self, key: jax.Array, number: int, init: str) -> Start:
        """Make starting points by a recipe."""
        ...

    def sample(self, key: jax.Array, rows: int) -> Kernel:
        """Give the same problem on at most `rows` rows, for short first runs."""
        ...

    def inward(self, parameters: Mapping[str, Any]) -> Parameters:
        """Give the user's parameters in the units of the step."""
        ...

    def outward(self, parameters: Parameters) -> dict[str, np.ndarray]:
        """Give the step's parameters in the user's units."""
        ...

    def approximate(
        self, parameters: Mapping[str, np.ndarray], objective: str, key: jax.Array, draws: int
    ) -> tuple[GaussianApproximation, dict[str, np.ndarray]]:
        """Laplace's Gaussian around an optimum (the user's units), and draws of every site, (1, draws, …)."""
        ...

    @property
    def integrated(self) -> Mapping[str, str]:
        """Latent → how the E-step takes it, in words."""
        ...

    @property
    def supports(self) -> Mapping[str, Any]:
        """Site → NumPyro constraint, of the sites that the step moves, in the units of the step."""
        ...

    def natural_errors(self, errors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Give standard errors of the step's parameters in the user's units."""
        ...

    @property
    def hessian_work(self) -> float:
        """Rows × parameters², what `approximate` costs."""
        ...

    def review(self, parameters: Parameters) -> Sequence[Review]:
        """Look at points stacked along axis 0: the log-likelihood and what is degenerate at each."""
        ...


@singledispatch
def bind(model: Any, call: Call) -> Kernel:
    """Bind a model to its data: the hand-written kernel of its type, else one derived from the program.

    Raises
    ------
    InputError : the data are not what the model can take, or a site stands in the way of a derivation.
    """
    from triptych.inference.em.derived import derive

    return derive(model, call)


def has_kernel(model: Any) -> bool:
    """Tell whether somebody wrote an EM kernel for this type of model."""
    return bind.dispatch(type(model)) is not bind.dispatch(object)
