"""Gradient ascent of the same objective that EM climbs, from the same starts, in unconstrained coordinates.

The gradient of the log marginal is that of Q where the two touch (Fisher's identity),

    ∇ log p(x, θ) = ∇_θ' Q(θ' | θ) at θ' = θ,

so that an E-step is all that a gradient costs, and no derivative is taken through it. The direction is
that of L-BFGS with a line search; the objective never falls.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax

from triptych.inference.em.algorithm import EM
from triptych.inference.em.derived import DerivedKernel
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.information import view_of
from triptych.inference.em.kernel import Kernel
from triptych.inference.em.quasi_newton import descend
from triptych.inference.unconstrained import Supports
from triptych.models.errors import InputError

__all__ = ["Ascent", "AscentProblem"]

STEPS = 10  # quasi-Newton steps between two looks at the stopping rule


@partial(jax.tree_util.register_dataclass, data_fields=["problem"], meta_fields=["supports"])
@dataclasses.dataclass(frozen=True)
class AscentProblem:
    """A problem that EM could climb, climbed by its gradient."""

    problem: Any
    supports: Supports

    def step(self, parameters: Parameters) -> tuple[Parameters, Array, None]:
        """Take some quasi-Newton steps: θ → (θ', objective at θ in nats)."""
        view = view_of(self.problem)
        space = self.supports.space(parameters)

        @jax.custom_vjp
        def loss(u: Array) -> Array:
            return -view.infer(space.constrain(u))[1]

        def forward(u: Array) -> tuple[Array, Array]:
            posterior, objective = view.infer(space.constrain(u))
            slope = jax.grad(lambda v: view.expected(space.constrain(v), posterior))(u)
            return -objective, -slope

        loss.defvjp(forward, lambda slope, change: (change * slope,))
        start = space.unconstrain(parameters)
        following = space.constrain(descend(loss, start, STEPS))
        return following, view.infer(parameters)[1], None


@dataclasses.dataclass(frozen=True)
class Ascent:
    """Climb log p(x, θ) (or log p(x | θ)) by its gradient, over unconstrained coordinates, from many starts.

    Parameters
    ----------
    model, objective, restarts, tol, starts, latents, draws : as for `EM`.
    max_steps : rounds of 10 quasi-Newton steps at most.

    Raises
    ------
    InputError : a setting out of range.
    """

    method: ClassVar[str] = "ascent"

    model: Any
    objective: str = "map"
    restarts: int = 10
    tol: float = 1e-6
    max_steps: int = 1000
    starts: str = "portfolio"
    latents: tuple[str, ...] | None = None
    draws: int = 1000

    def __post_init__(self) -> None:
        self._climber()  # refuses what is out of range

    def run(self, key: jax.Array, *args: Any, **kwargs: Any) -> Any:
        """Fit the model; arguments, result and errors are those of `EM.run`."""
        return self._climber().run(key, *args, **kwargs)

    def _climber(self) -> EM:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _Climber(**values, acceleration="none")


@dataclasses.dataclass(frozen=True)
class _Climber(EM):
    """EM with its steps exchanged for the gradient's."""

    method: ClassVar[str] = "ascent"

    @property
    def settings(self) -> dict[str, Any]:
        known = {field.name for field in dataclasses.fields(Ascent)}
        return {name: value for name, value in super().settings.items() if name in known}

    def climbed(self, kernel: Kernel) -> Any:
        if isinstance(kernel, DerivedKernel) and not kernel.exact:
            raise InputError("gradient ascent needs an exact E-step: leave `e_step` out.")
        return AscentProblem(kernel.problem, Supports.of(kernel.supports))
