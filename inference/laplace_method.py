"""Laplace's approximation as a method of its own: the best mode of the marginal, and a Gaussian around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.arguments import checked
from triptych.inference.fit import Fit
from triptych.inference.gaussian_fit import fit_of_gaussian
from triptych.inference.laplace import laplace
from triptych.inference.marginal import marginal
from triptych.inference.precision import double_precision
from triptych.inference.remembered import remembering
from triptych.inference.starts import best_of_climbs
from triptych.inference.status import Finding, Status
from triptych.inference.symmetry import labels_of
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["Laplace"]


@dataclasses.dataclass(frozen=True)
class Laplace:
    """Approximate the posterior by N(u*, H⁻¹) in the unconstrained space, at its best mode u*.

    u* maximises log p(x, θ(u)) + log |∂θ/∂u|, discrete latents summed out, and H is the negative Hessian
    there; log p(x) ≈ log p(x, u*) + p/2 log 2π − ½ log |H|, copies under other labels counted. The climb to
    u* begins at EM's optimum where there is a hand-written EM, else at the best of several climbs. (A fit by
    EM has such draws too, but keeps its maximum as the estimate; here it is the mean of the draws.)

    Parameters
    ----------
    model : any NumPyro program.
    draws : from the Gaussian, kept in the fit.

    Raises
    ------
    InputError : a setting out of range.

    References
    ----------
    L. Tierney and J. B. Kadane (1986), Accurate approximations for posterior moments and marginal densities,
    JASA 81, 82–86.
    """

    method: ClassVar[str] = "laplace"

    model: Callable[..., Any]
    draws: int = 1000

    def __post_init__(self) -> None:
        whole_number("draws", self.draws)

    def run(
        self, key: jax.Array, *args: Any, parameters: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Fit:
        """Find the mode and draw around it.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.
        parameters : site → value to climb from, instead of searching for an optimum.

        Raises
        ------
        InputError : data that the model refuses, a program that cannot be traced, an incomplete start.
        """
        args, kwargs = checked(self.model, args, kwargs)
        m = marginal(self.model)
        key_start, key_draws = jax.random.split(key)
        double = double_precision()
        with stopwatch() as watch, double, remembering(m, args, kwargs) as (args, kwargs):
            if parameters is None:
                parameters = mode_to_climb_from(key_start, m, args, kwargs)
            missing = [s for s in m.structure(*args, **kwargs).parameters if s not in parameters]
            if missing:
                raise InputError(f"`parameters` has no {missing[0]!r}: give a value for every site.")
            labels = labels_of(m, parameters, args, kwargs)
            gaussian = laplace(m, parameters, args, kwargs, labels=labels)
            status, findings = _status(gaussian)
            return fit_of_gaussian(
                key_draws,
                self,
                m,
                gaussian,
                args,
                kwargs,
                watch,
                how="Laplace's Gaussian at the mode",
                status=status,
                objective=np.asarray([gaussian.log_density]),
                findings=findings,
            )


def mode_to_climb_from(
    key: jax.Array, m: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Give EM's optimum where there is a hand-written EM, else the best of several climbs from the prior."""
    from triptych.inference.conjugate import optimum
    from triptych.inference.em import has_kernel

    if has_kernel(m.program) and args:
        return optimum(key, m.program, args, kwargs)
    start = best_of_climbs(key, m, args, kwargs)
    return {site: np.asarray(v) for site, v in start.space.constrain(jnp.asarray(start.centre)).items()}


def _status(gaussian: Any) -> tuple[Status, tuple[Finding, ...]]:
    if not np.isfinite(gaussian.log_density):
        return Status.NON_FINITE, (Finding("NON_FINITE", Status.NON_FINITE.value),)
    if any(finding.code == "LAPLACE_NO_MODE" for finding in gaussian.findings):
        return Status.NO_MODE, ()
    return Status.CONVERGED, ()
