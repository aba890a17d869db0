"""The choice of an E-step: what stands for the posterior of the latents, whatever the M-step.

An E-step gives, at θ, a posterior q of the latents and the objective; and Q(θ') = E_q[log p(x, latents, θ')]
for any θ'. The M-step climbs Q and need not know which E-step made it. Implement `Maker` (and with it
`EStep`) for another one, and hand it to `EM(e_step=...)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em.conditional_step import Completions, ConditionalStep
from triptych.inference.em.expected import Joint, joint_of
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.fold_check import folded
from triptych.inference.em.folded import FoldedStep
from triptych.inference.em.proof import conditional_step
from triptych.inference.em.recognise import NotRecognisedError
from triptych.inference.survey import Survey
from triptych.inference.unconstrained import Coordinates, coordinates
from triptych.models.errors import InputError

__all__ = [
    "Annealed",
    "Bound",
    "EStep",
    "Exact",
    "Hard",
    "HardStep",
    "Maker",
    "check_range",
    "continuous",
    "exact_of",
]

HARDNESS = 1e8  # power of the posterior at which it is one completion, up to ties


class EStep(Protocol):
    """A posterior of the latents at θ, and the expected log joint under it."""

    @property
    def sites(self) -> Survey:
        """The program's sites."""
        ...

    def infer(
        self, parameters: Parameters, args: Any, kwargs: Any, sharpness: Any = 1.0
    ) -> tuple[Any, Array]:
        """Give the posterior at θ, to the power `sharpness`, and the objective there (nats)."""
        ...

    def expected(self, parameters: Parameters, posterior: Any, args: Any, kwargs: Any) -> Array:
        """Give Q(θ'), nats."""
        ...

    def noise(self, key: jax.Array, scale: Any, parameters: Parameters, args: Any, kwargs: Any) -> Any:
        """Give a random posterior, to start from; the larger `scale`, the harder."""
        ...


class Bound(NamedTuple):
    """What an E-step is made from: a program, its arguments, the continuous latents, a point to look at."""

    program: Callable[..., Any]
    args: Any
    kwargs: Any
    sites: Survey
    latents: tuple[str, ...]
    parameters: Parameters
    ignored: frozenset[str]


def continuous(bound: Bound, name: str) -> tuple[Coordinates, Joint]:
    """Give the unconstrained space of continuous latents, and the log joint with discrete ones summed out.

    Raises
    ------
    InputError : there is no continuous latent for the E-step called `name`.
    """
    if not bound.latents:
        raise InputError(
            f"`e_step={name!r}` is for continuous latents, and the program has none (discrete ones are "
            "summed out exactly): choose 'exact', or name continuous sites in `latents`."
        )
    sites = bound.sites.parameters
    space = coordinates({site: (sites[site].shape, sites[site].support) for site in bound.latents})
    return space, joint_of(bound.program, bound.args, bound.kwargs, bound.ignored)


class Maker(Protocol):
    """A choice of E-step: its settings, and how it is made for a program."""

    def make(self, bound: Bound) -> Any:
        """Give the `EStep` (an object compared by identity)."""
        ...


@dataclasses.dataclass(frozen=True)
class Exact:
    """The posterior itself: enumeration of discrete latents, Gaussian and Gamma ones in closed form."""

    def make(self, bound: Bound) -> EStep:
        """Give the exact E-step, or raise an `InputError` that says why there is none."""
        if bound.latents:
            return conditional_step(
                bound.program,
                bound.sites,
                bound.latents,
                bound.parameters,
                bound.args,
                bound.kwargs,
                bound.ignored,
            )
        joint = joint_of(bound.program, bound.args, bound.kwargs, bound.ignored)
        try:
            return folded(joint, bound.args, bound.kwargs, bound.parameters)
        except NotRecognisedError as reason:
            return dataclasses.replace(joint, reason=str(reason))


@dataclasses.dataclass(frozen=True)
class Annealed(Exact):
    """Exact E-steps, led up to by flattened ones: p(z | x, θ)^β with β rising to 1 (Ueda & Nakano 1998).

    Parameters
    ----------
    powers : the β's on the way. steps : EM steps at each.
    """

    powers: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85)
    steps: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "powers", tuple(self.powers))
        for power in self.powers:
            check_range("powers", power, 0.0)
        check_range("steps", self.steps, 1)


@dataclasses.dataclass(frozen=True)
class Hard:
    """The one best completion of the latents (classification EM; Celeux & Govaert 1992).

    The objective is max_z log p(x, z, θ), the classification log joint: k-means is its limit.
    """

    def make(self, bound: Bound) -> EStep:
        """Give the hard E-step."""
        exact = Exact().make(bound)
        if isinstance(exact, ConditionalStep) and exact.family != "gaussian":
            raise InputError(
                f"`e_step='hard'` is for discrete and Gaussian latents, and '{bound.latents[0]}' is Gamma "
                "given the rest: choose 'exact'."
            )
        return HardConditionalStep(exact) if isinstance(exact, ConditionalStep) else HardStep(exact)


@dataclasses.dataclass(frozen=True, eq=False)
class HardStep:
    """An exact E-step with its posterior put on one completion."""

    exact: Any

    @property
    def sites(self) -> Survey:
        """The program's sites."""
        return self.exact.sites

    def without(self, ignored: frozenset[str]) -> HardStep:
        """Give the same with the sites `ignored` left out, of discrete latents alone."""
        return dataclasses.replace(self, exact=self.exact.without(ignored))

    def infer(
        self, parameters: Parameters, args: Any, kwargs: Any, sharpness: Any = 1.0
    ) -> tuple[Any, Array]:
        """Give the best completion, and the log joint with it."""
        del sharpness
        posterior = self.best(
            self.exact.infer(parameters, args, kwargs, HARDNESS)[0], parameters, args, kwargs
        )
        return posterior, self.exact.expected(parameters, posterior, args, kwargs)

    def best(self, posterior: Any, parameters: Parameters, args: Any, kwargs: Any) -> Any:
        """Give the best completion; of discrete latents the sharpened posterior is it."""
        del parameters, args, kwargs
        return posterior

    def expected(self, parameters: Parameters, posterior: Any, args: Any, kwargs: Any) -> Array:
        """Log joint of the completion at θ'."""
        return self.exact.expected(parameters, posterior, args, kwargs)

    def noise(self, key: jax.Array, scale: Any, parameters: Parameters, args: Any, kwargs: Any) -> Any:
        """Give a random posterior."""
        return self.exact.noise(key, scale, parameters, args, kwargs)


class HardConditionalStep(HardStep):
    """The best completion of continuous latents: their mode, at each row's best discrete combination."""

    def best(self, posterior: Completions, parameters: Parameters, args: Any, kwargs: Any) -> Completions:
        """Give the modes as completions, one for each combination, and all weight to the highest."""
        exact: ConditionalStep = self.exact

        def height(mean: Array, choice: Array) -> Array:
            return exact.log_joint(exact.unflatten(mean), choice, parameters, args, kwargs).rows

        heights = jax.vmap(height)(posterior.mean, jnp.arange(exact.combinations))
        weights = jax.nn.one_hot(jnp.argmax(heights, axis=0), exact.combinations, axis=0)
        values = jax.vmap(exact.unflatten)(posterior.mean)
        at_modes = {name: value[:, None] for name, value in values.items()}
        return posterior._replace(values=at_modes, weights=weights)

    def means(self, posterior: Completions) -> dict[str, Array]:
        """Give the best completion of each continuous latent."""
        return self.exact.means(posterior)


def check_range(name: str, value: Any, least: float) -> None:
    """Refuse a setting that is not a number of at least `least`.

    Raises
    ------
    InputError : names the setting.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    whole = not isinstance(least, int) or (number and float(value).is_integer())
    if not (number and whole and np.isfinite(value) and value >= least):
        kind = "a whole number" if isinstance(least, int) else "a number"
        raise InputError(f"`{name}` is {value!r}: give {kind}, at least {least}.")


def exact_of(e_step: Any) -> Joint | FoldedStep | ConditionalStep | None:
    """Give the exact step that an E-step rests on, if it does."""
    inner = e_step.exact if isinstance(e_step, HardStep) else e_step
    return inner if isinstance(inner, Joint | FoldedStep | ConditionalStep) else None
