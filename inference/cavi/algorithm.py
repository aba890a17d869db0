"""Coordinate-ascent variational inference as a frozen object of settings, on EM's search and EM's loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
import xarray as xr

from triptych.inference.arguments import checked
from triptych.inference.batches import in_batches
from triptych.inference.cavi.mixture import VariationalMixtureKernel
from triptych.inference.cavi.regression import VariationalRegressionKernel
from triptych.inference.conjugate import conjugate_kernel
from triptych.inference.effort import cells
from triptych.inference.em import MixtureKernel
from triptych.inference.em.accelerated import ACCELERATIONS
from triptych.inference.em.kernel import Review
from triptych.inference.em.landscape import landscape
from triptych.inference.em.loop import Problem
from triptych.inference.em.search import Progress, long_runs, short_runs
from triptych.inference.fit import Evidence, Fit
from triptych.inference.gaussian_fit import settings_of
from triptych.inference.importance import from_weights
from triptych.inference.marginal import Marginal, marginal
from triptych.inference.posterior import assemble, batch_size, log_likelihood_at
from triptych.inference.precision import double_precision
from triptych.inference.remembered import remembering
from triptych.inference.sharing import kept
from triptych.inference.starts import target
from triptych.inference.status import Finding, say
from triptych.inference.svi import weights_wanted
from triptych.inference.symmetry import Relabellings, labels_of
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["CAVI"]

INSTEAD = "SVI or MCMC"
EXACT = 1e-9  # nats, a standard error that is rounding


@dataclasses.dataclass(frozen=True)
class CAVI:
    """Maximise the ELBO over q(z) q(θ) in closed form, factor after factor, from many starts.

    Mixtures: q(z) q(π) Π_k q(θ_k); regression: q(w, b) q(λ) q(β). The ELBO is exact, without Monte Carlo,
    and no step lowers it; it bounds log p(x) from below by KL(q ‖ p) of latents and parameters together, so
    that beside SVI's, whose latents are summed out, it is the lower for the same q(θ). The independence of z
    and θ makes the intervals of a mixture too narrow where components overlap.

    Parameters
    ----------
    model : GaussianMixture, BernoulliMixture or BayesianLinearRegression.
    restarts : starts run to convergence: the best of at least 24 short runs of 20 steps.
    tol : nats still to come (Aitken's estimate) at which a start has arrived; 0 runs `max_steps`.
    max_steps : steps at most.
    starts : as EM's.
    acceleration : as EM's; "none" for the textbook's iterates.
    draws : from q, kept in the fit.

    Raises
    ------
    InputError : a setting out of range; on `run`, another model, or missing cells.

    References
    ----------
    C. M. Bishop (2006), Pattern Recognition and Machine Learning, sections 10.2 and 10.3.
    """

    method: ClassVar[str] = "cavi"

    model: Callable[..., Any]
    restarts: int = 10
    tol: float = 1e-6
    max_steps: int = 10_000
    starts: str = "portfolio"
    acceleration: str = "mix"
    draws: int = 1000

    def __post_init__(self) -> None:
        for name in ("restarts", "max_steps", "draws"):
            whole_number(name, getattr(self, name))
        number = isinstance(self.tol, int | float | np.integer | np.floating)
        if not (number and np.isfinite(self.tol) and self.tol >= 0):
            raise InputError(f"`tol` is {self.tol!r}: give nats, 0 or more.")
        if self.acceleration != "none" and self.acceleration not in ACCELERATIONS:
            names = ", ".join(map(repr, (*ACCELERATIONS, "none")))
            raise InputError(f"`acceleration` is {self.acceleration!r}: choose {names}.")

    def run(self, key: jax.Array, *args: Any, progress: Progress | None = None, **kwargs: Any) -> Fit:
        """Climb the ELBO and draw from the best q.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with.
        progress : called with (steps done, steps at most, best ELBO).

        Raises
        ------
        InputError : a model without closed forms, missing cells, data that the model refuses.
        """
        args, kwargs = checked(self.model, args, kwargs)
        first, second, third = jax.random.split(key, 3)
        m, double = marginal(self.model), double_precision()
        with stopwatch() as watch, double, remembering(m, args, kwargs) as (args, kwargs):
            kernel = bound(self.model, args, kwargs)
            search: Any = self  # EM's search reads the same settings
            start = short_runs(search, kernel, first, second)  # type: ignore[arg-type]
            run = long_runs(search, kernel, start, progress)  # type: ignore[arg-type]
            best = int(np.nanargmax(run.objective))
            status = run.status[best]
            elbo = float(run.objective[best])
            if not np.isfinite(elbo):
                raise InputError(
                    "CAVI found no q with a finite ELBO, from any start: look for extreme values in the "
                    "data, or rescale the columns."
                )
            q = kernel.posterior({name: value[best] for name, value in run.parameters.items()})
            estimate = q.means()
            labels = labels_of(m, estimate, args, kwargs)
            samples, statistics, evidence = weigh(third, self.draws, m, q, elbo, labels, args, kwargs)
            tree, findings = assemble(m, samples, args, kwargs, sample_stats=statistics)
            reviews = [Review(float(value), ()) for value in run.objective]
            tree["restarts"] = xr.DataTree(landscape(start, run, reviews))
            if not status.ok:
                findings = (Finding(status.name, status.value), *findings)
            return Fit(
                method=self.method,
                model=self.model,
                status=status,
                seconds=watch.seconds,
                parameters=estimate,
                log_likelihood=log_likelihood_at(m, estimate, args, kwargs),
                objective=np.concatenate([*start.history[best : best + 1], run.traces[best]]),
                data=tree,
                evidence=evidence,
                findings=tuple(say(finding) for finding in findings),
                settings=settings_of(self),
            )

    def climbed(self, kernel: Any) -> Problem:
        """Give what is climbed: the kernel's own steps."""
        return kernel.problem


def bound(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> VariationalMixtureKernel | VariationalRegressionKernel:
    """Bind a conjugate model to its data, for coordinate ascent."""
    kernel = conjugate_kernel("CAVI", INSTEAD, model, args, kwargs)
    if isinstance(kernel, MixtureKernel):
        return VariationalMixtureKernel(kernel)
    return VariationalRegressionKernel(kernel)


def weigh(
    key: jax.Array,
    draws: int,
    m: Marginal,
    q: Any,
    elbo: float,
    labels: Relabellings,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Evidence]:
    """Draw from q(θ) and weigh the draws against the marginal: site → (1, draws, …), statistics, ledger.

    The ELBO stays the closed form; to count the labels, as the ledger does, E_q log q(θ)/q_sym(θ) is added,
    which is log K! without any error where the copies of the mode are apart.
    """
    posterior = target(m, args, kwargs)
    space, structure = posterior.space, m.structure(*args, **kwargs)
    number = max(draws, weights_wanted(structure))

    def one(index: Any, key: jax.Array, q: Any) -> tuple[Any, ...]:
        def log_q(u: Any) -> jax.Array:
            return q.log_density(space.constrain(u)) + space.log_jacobian(u)

        theta = q.draw(jax.random.fold_in(key, index))
        u = space.unconstrain(theta)
        lp, symmetric = posterior.density(u), labels.exchanged(space, log_q, u)
        return theta, lp - space.log_jacobian(u), lp - symmetric, log_q(u) - symmetric

    batch, numbers = batch_size(structure), cells(args, kwargs)
    same = kept(("weigh", posterior.density, repr(labels)), lambda: one)
    samples, lp, weights, counted = in_batches(
        same, np.arange(number), batch, numbers=numbers, given=(key, q)
    )
    found = from_weights(weights, "CAVI's q(θ)", symmetry=labels.separate)
    error = float(np.std(counted, ddof=1) / np.sqrt(number)) if number > 1 else 0.0
    elbo += float(np.mean(counted))
    # Copies of the mode that are apart add log K! exactly: then there is no Monte Carlo in the ELBO.
    elbo_error = error if error > EXACT else None
    how, kl, kl_error, standard_error = "ELBO in closed form", None, None, elbo_error
    if found.log_evidence is not None:
        how, kl = f"{how}; {found.method}", found.log_evidence - elbo
        standard_error = found.standard_error or 0.0
        kl_error = float(np.hypot(standard_error, error))
    evidence = dataclasses.replace(
        found,
        elbo=elbo,
        elbo_error=elbo_error,
        kl=kl,
        kl_error=kl_error,
        standard_error=standard_error,
        method=how,
    )
    statistics = {"lp": lp[None, :draws], "log_weight": weights[None, :draws]}
    first = {site: np.asarray(value)[None, :draws] for site, value in samples.items()}
    return first, statistics, evidence
