"""What the user keeps: one `Fit`, whatever the method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from triptych.inference.deferred import Deferred
from triptych.inference.status import Finding, Status

__all__ = ["Bound", "Evidence", "Fit", "Route", "Seconds"]


class Seconds(NamedTuple):
    """Wall-clock seconds of a fit, `compile` (tracing and XLA) apart from `run` (the arithmetic)."""

    compile: float
    run: float

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.compile + self.run


class Route(NamedTuple):
    """One way to log p(x): how it was had, nats, Monte Carlo standard error, Pareto k-hat of its weights."""

    how: str
    nats: float
    standard_error: float | None = None
    k_hat: float | None = None


class Bound(NamedTuple):
    """The importance-weighted bound E log (1/K) Σ_k w_k ≤ log p(x) of `draws` = K weights, nats."""

    draws: int
    nats: float
    standard_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The ledger log p(x) = ELBO + KL(q ‖ p), in nats; what a method cannot give is `None`.

    All of it counts the whole posterior: where a program's labels may be exchanged, every relabelled copy of
    a mode counts, and q is taken with its labels exchanged too, so that KL is the approximation's fault and
    not the labels'. `symmetry` says how much of that is log K!, added because the copies are separate.

    Attributes
    ----------
    log_evidence, elbo, kl : the three; each is had on its own where `method` does not say otherwise.
    standard_error : Monte Carlo error of the number that `method` describes: the evidence where there is one,
        else the ELBO.
    method : how it was had.
    elbo_error, kl_error : Monte Carlo standard errors.
    bounds : importance-weighted bounds, the ELBO (K = 1) first (Burda, Grosse & Salakhutdinov 2016).
    routes : every way by which log p(x) was estimated.
    symmetry : nats added for copies of the mode under other labels.
    """

    log_evidence: float | None = None
    elbo: float | None = None
    kl: float | None = None
    standard_error: float | None = None
    method: str | None = None
    elbo_error: float | None = None
    kl_error: float | None = None
    bounds: tuple[Bound, ...] = ()
    routes: tuple[Route, ...] = ()
    symmetry: float = 0.0


@dataclasses.dataclass(frozen=True)
class Fit:
    """One posterior, however it was had.

    Attributes
    ----------
    method : as a config calls it: "em", "svi", "mcmc", "gibbs", …
    model : the program that was fitted.
    status : how the fit ended; `status.value` names cause and remedy.
    seconds : wall-clock seconds, compilation apart from the run.
    parameters : site → point estimate (EM's optimum; else the posterior mean after alignment).
    log_likelihood : log p(x|θ̂) in nats, summed over rows, the method's latents summed or integrated out.
    objective : trace, in nats: log-likelihood or log-joint a step (EM), ELBO a step (SVI), empty (MCMC).
    data : ArviZ's groups: posterior (chain, draw, …), log_likelihood (pointwise), sample_stats,
        observed_data. May be given as a function, called when it is first read.
    evidence : the ledger of log p(x), nats.
    findings : what a reader must know, each with a stable code.
    settings : the settings of the method, as written in a config.
    """

    method: str
    model: Callable[..., Any]
    status: Status
    seconds: Seconds
    parameters: Mapping[str, np.ndarray]
    log_likelihood: float
    objective: np.ndarray
    data: Deferred = Deferred()
    evidence: Evidence = dataclasses.field(default_factory=Evidence)
    findings: tuple[Finding, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def responsibilities(self, *args: Any, **kwargs: Any) -> np.ndarray | dict[str, np.ndarray]:
        """Give the posterior of every discrete latent, p(z = k | x), for these data or new data.

        Parameters
        ----------
        *args, **kwargs : what the program is called with.

        Returns
        -------
        (N, K) for a program with one discrete latent (plates first, support last); a dict
        latent → array for a program with several.

        Raises
        ------
        InputError : the program has no discrete latent.
        """
        from triptych.inference.responsibilities import responsibilities

        return responsibilities(self, *args, **kwargs)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit to one NetCDF file, whole or not at all."""
        from triptych.inference.storage import save

        save(self, path)
