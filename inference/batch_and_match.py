"""Batch-and-match as a method: a full-rank Gaussian of the marginal, started from Laplace's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.tree_util import Partial

from triptych.inference.arguments import checked
from triptych.inference.fit import Fit
from triptych.inference.gaussian_fit import fit_of_gaussian
from triptych.inference.laplace import GaussianApproximation
from triptych.inference.marginal import marginal
from triptych.inference.matching import WINDOW, Matched, match
from triptych.inference.precision import double_precision
from triptych.inference.remembered import remembering
from triptych.inference.sharing import kept
from triptych.inference.starts import Start, find_start
from triptych.inference.status import Finding, Status
from triptych.inference.symmetry import labels_of
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["BatchAndMatch"]

LARGEST = 1000  # coordinates; the step decomposes a dense matrix of them
BATCH = (8, 64)  # draws a step at least and at most, where not given: twice the coordinates


@dataclasses.dataclass(frozen=True)
class BatchAndMatch:
    """Fit a full-rank Gaussian in the unconstrained space by matching its score to the posterior's.

    The same family as SVI's `AutoMultivariateNormal`, for several times fewer gradients and without a
    learning rate; what is minimised is a score-based divergence, not KL(q ‖ p), so the two differ where the
    posterior is far from Gaussian. It starts from Laplace's Gaussian at the best mode. The group
    `optimization` of the fit's data says how many gradients were taken.

    Parameters
    ----------
    model : any NumPyro program; discrete latents are summed out.
    steps : at most.
    batch : draws, hence gradients, a step; `None`: twice the coordinates, from 8 to 64.
    tol : symmetrised KL, nats a coordinate, between the averages of two quarters of the run.
    draws : from the Gaussian, kept in the fit.

    Raises
    ------
    InputError : a setting out of range; on `run`, more than 1000 coordinates.

    References
    ----------
    D. Cai et al. (2024), Batch and match: black-box variational inference with a score-based divergence,
    ICML.
    """

    method: ClassVar[str] = "batch_and_match"

    model: Callable[..., Any]
    steps: int = 1000
    batch: int | None = None
    tol: float = 0.001
    draws: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("steps", WINDOW), ("batch", 2), ("draws", 1)):
            if name != "batch" or self.batch is not None:
                whole_number(name, getattr(self, name), least)
        if not (isinstance(self.tol, int | float) and np.isfinite(self.tol) and self.tol > 0):
            raise InputError(f"`tol` is {self.tol!r}: give a number above 0.")

    def run(
        self,
        key: jax.Array,
        *args: Any,
        progress: Callable[[int, int, float], None] | None = None,
        **kwargs: Any,
    ) -> Fit:
        """Fit the Gaussian and draw from it.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.
        progress : called every 20 steps with (steps done, steps at most, the ELBO there).

        Raises
        ------
        InputError : data that the model refuses, a program that cannot be traced or is too large.
        """
        args, kwargs = checked(self.model, args, kwargs)
        m = marginal(self.model)
        key_start, key_run, key_draws = jax.random.split(key, 3)
        double = double_precision()
        with stopwatch() as watch, double, remembering(m, args, kwargs) as (args, kwargs):
            start = find_start(key_start, m, args, kwargs, None)
            size = start.space.size
            if size > LARGEST:
                raise InputError(
                    f"{size} coordinates are too many for a full-rank Gaussian (limit {LARGEST}): use SVI "
                    "with guide='AutoLowRankMultivariateNormal' or 'AutoNormal'."
                )
            batch = int(np.clip(2 * size, *BATCH)) if self.batch is None else self.batch
            matrix = start.whitening
            found = match(
                key_run,
                whitened(start, matrix),
                np.zeros(size),
                np.eye(size),
                batch=batch,
                steps=self.steps,
                tol=self.tol,
                progress=progress,
            )
            centre = {s: np.asarray(v) for s, v in start.space.constrain(jnp.asarray(start.centre)).items()}
            mean = start.centre + matrix @ found.mean
            gaussian = GaussianApproximation(
                coordinates=start.space,
                mode=mean,
                factor=matrix @ np.linalg.cholesky(found.covariance),
                log_density=float(start.density(jnp.asarray(mean))),
                log_evidence=None,
                findings=(),
                density=start.density,
                labels=labels_of(m, centre, args, kwargs),
            )
            status, findings = _status(found, self.steps)
            trace = xr.Dataset(
                {
                    "elbo": ("step", found.objective),
                    "distance": ("window", found.distance),
                    "gradients": len(found.objective) * batch,
                }
            )
            return fit_of_gaussian(
                key_draws,
                self,
                m,
                gaussian,
                args,
                kwargs,
                watch,
                how="batch-and-match's Gaussian",
                status=status,
                objective=found.objective,
                findings=findings,
                groups={"optimization": trace},
            )


def whitened(start: Start, matrix: np.ndarray) -> Partial:
    """Give the log density of z, with its gradient, as a density of z: log |W| is added.

    A pytree of the place and the scales, so that what is compiled serves any of them.
    """
    density = start.density

    def at(centre: jax.Array, W: jax.Array, volume: jax.Array, z: jax.Array) -> Any:
        return jax.value_and_grad(lambda z: density(centre + W @ z) + volume)(z)

    same = kept(("whitened", density), lambda: at)
    volume = jnp.asarray(np.linalg.slogdet(matrix)[1], float)
    return Partial(same, jnp.asarray(start.centre, float), jnp.asarray(matrix, float), volume)


def _status(found: Matched, steps: int) -> tuple[Status, tuple[Finding, ...]]:
    if not found.finite:
        return Status.NON_FINITE, (Finding("NON_FINITE", Status.NON_FINITE.value),)
    if found.converged:
        return Status.CONVERGED, ()
    text = (
        f"After {steps} steps two quarters of the run were {found.distance[-1]:.2g} nats apart: the Gaussian "
        f"has not settled. {Status.STEP_LIMIT.value}"
    )
    return Status.STEP_LIMIT, (Finding("STEP_LIMIT", text),)
