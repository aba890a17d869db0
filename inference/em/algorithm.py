"""The EM algorithm as a frozen object of settings: starts, short runs, the climb, the fit that is kept."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from triptych.inference.effort import in_order, split
from triptych.inference.em.accelerated import ACCELERATIONS
from triptych.inference.em.checkpoint import Checkpoint
from triptych.inference.em.choices import maker_of
from triptych.inference.em.company import in_company
from triptych.inference.em.derived import DerivedKernel, derive
from triptych.inference.em.explain import Explanation, explain
from triptych.inference.em.family import Array, Parameters
from triptych.inference.em.fitting import assemble_fit
from triptych.inference.em.kernel import Call, Kernel, Start, bind, has_kernel
from triptych.inference.em.loop import Problem
from triptych.inference.em.minibatch import MINIBATCH, first_passes, refuse_unfit
from triptych.inference.em.monte_carlo import MonteCarlo
from triptych.inference.em.one_pass import one_pass_fit
from triptych.inference.em.search import Progress, long_runs, point_of, short_runs
from triptych.inference.em.stochastic_fit import stochastic_fit
from triptych.inference.em.streamed_kernel import StreamedKernel, stream
from triptych.inference.fit import Fit
from triptych.inference.marginal import marginal
from triptych.inference.precision import double_precision
from triptych.inference.remembered import remembering
from triptych.inference.rows import Rows
from triptych.inference.sharing import shared
from triptych.inference.stream import Stream
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["EM", "EMInfo", "EMState"]


class EMState(NamedTuple):
    """What the next step needs: `parameters`, site → array in the data's units."""

    parameters: Mapping[str, np.ndarray]


class EMInfo(NamedTuple):
    """What a step shows: the `objective` in nats at the parameters that the step started from."""

    objective: float


@dataclasses.dataclass(frozen=True)
class EM:
    """Climb log p(x, θ) (or log p(x | θ)) by expectation–maximisation from many starts; keep the best.

    E: q(z) = p(z | x, θ);  M: θ' = argmax E_q[log p(x, z | θ)] + log p(θ)   (Dempster, Laird & Rubin 1977).

    Parameters
    ----------
    model : a model with a hand-written kernel (`has_kernel`).
    objective : "map" climbs the log joint of the program as declared; "mle" ignores the priors on θ.
    restarts : starts run to convergence: the best of at least 24 short runs of 20 steps.
    tol : nats still to come (Aitken's estimate) at which a start has arrived; 0 runs `max_steps`.
    max_steps : steps at most.
    starts : "portfolio" or one recipe of `triptych.inference.em.starts.RECIPES`.
    update : regression only: "em", "fixed_point" (MacKay) or "gradient" ascent of the log evidence.
    draws : draws from the Laplace approximation at the optimum (the fit's `posterior`); 0 leaves it out, and
        the pointwise log-likelihood with it.
    latents : continuous sites to integrate out instead of maximising; `None` leaves the choice to the program
        (`roles.py`).
    e_step : "exact"; "hard", one best completion; "annealed", exact after flattened ones; "variational", a
        Gaussian guide for continuous latents; "monte_carlo", draws of them by NUTS; or an object with
        `make(bound)` (`e_steps.Maker`), such as `Variational(draws=64)`.
    m_step : "auto", closed forms where they are found and gradient steps elsewhere; "gradient"; a dict site →
        one of the two; or a function (Q, parameters) → parameters.
    acceleration : "mix", fewer E-steps to the same optimum (`accelerated.py`); "squarem", "acx", "anderson"
        and "daarem" to compare with; "none", the textbook's iterates.
    bootstrap : replicates of a nonparametric bootstrap from the optimum (`bootstrap.py`); 0 leaves it out.
    minibatch : first passes over a mixture's rows by minibatches (`minibatch.py`), from the best short runs,
        before the exact steps: "stepwise", "incremental", "variance_reduced", "auto" (one of the last two, by
        the memory that they need), or "none". A `triptych.stream(...)`, whose rows are seen once, needs
        "stepwise" or "auto", and has no exact steps (`one_pass.py`).

    Naming `latents` or another step derives EM from the program even where a hand-written kernel exists.

    Raises
    ------
    InputError : a setting out of range.
    """

    method: ClassVar[str] = "em"

    model: Callable[..., Any]
    objective: str = "map"
    restarts: int = 10
    tol: float = 1e-6
    max_steps: int = 10_000
    starts: str = "portfolio"
    update: str = "em"
    draws: int = 1000
    latents: tuple[str, ...] | None = None
    e_step: Any = "exact"
    m_step: Any = "auto"
    acceleration: str = "mix"
    bootstrap: int = 0
    minibatch: str = "none"

    def __post_init__(self) -> None:
        if self.objective not in ("map", "mle"):
            raise InputError(f"`objective` is {self.objective!r}: choose 'map' or 'mle'.")
        if self.latents is not None:
            object.__setattr__(self, "latents", tuple(self.latents))
        maker_of(self.e_step)
        if self.acceleration != "none" and self.acceleration not in ACCELERATIONS:
            names = ", ".join(map(repr, (*ACCELERATIONS, "none")))
            raise InputError(f"`acceleration` is {self.acceleration!r}: choose {names}.")
        if self.minibatch not in MINIBATCH:
            names = ", ".join(map(repr, MINIBATCH))
            raise InputError(f"`minibatch` is {self.minibatch!r}: choose {names}.")
        for name, least in (("restarts", 1), ("max_steps", 1), ("draws", 0), ("bootstrap", 0)):
            whole_number(name, getattr(self, name), least)
        if self.bootstrap == 1 or (self.bootstrap and self.e_step != "exact"):
            raise InputError("`bootstrap` needs 2 replicates or more, and e_step='exact': a fixed objective.")
        number = isinstance(self.tol, int | float | np.integer | np.floating)
        if not (number and np.isfinite(self.tol) and self.tol >= 0):
            raise InputError(f"`tol` is {self.tol!r}: give nats, 0 or more.")

    def bind(self, *args: Any, sample_weight: Any = None, **kwargs: Any) -> Kernel:
        """Bind the model to its data, checked; what `init`, `step` and `run` work on.

        Raises
        ------
        InputError : data or weights that the model cannot take.
        """
        with double_precision():
            weight = None if sample_weight is None else _weights(sample_weight, args)
            chosen = (self.latents, self.e_step, self.m_step)
            call = Call(args, kwargs, weight, self.objective, self.update, *chosen)
            if args and isinstance(args[0], Stream):
                raise InputError("A stream is seen once, and by `run` alone: give rows here.")
            if args and isinstance(args[0], Rows):
                if self.bootstrap:
                    raise InputError("`bootstrap` needs its rows in memory.")
                kernel: Kernel = stream(self.model, call)
            elif self._derives_alone and weight is None:
                what = ("derived", self.objective, self.update, *chosen)
                m = marginal(self.model)
                kernel = shared(what, m, args, kwargs, lambda: derive(self.model, call))
            else:
                kernel = (bind if self.by_hand else derive)(self.model, call)
            refuse_unfit(self.minibatch, kernel)
            return kernel

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Say what EM will do with each site, and why, before anything runs; printed, a table."""
        return explain(self.bind(*args, **kwargs), self.objective)

    def init(self, key: jax.Array, *args: Any, sample_weight: Any = None, **kwargs: Any) -> EMState:
        """Give one starting point."""
        kernel = self.bind(*args, sample_weight=sample_weight, **kwargs)
        with double_precision():
            return EMState(kernel.outward(point_of(kernel.starts(key, 1, self.starts).parameters, 0)))

    def step(
        self, state: EMState, *args: Any, sample_weight: Any = None, **kwargs: Any
    ) -> tuple[EMState, EMInfo]:
        """Take one EM step: θ → θ', with the objective at θ."""
        kernel = self.bind(*args, sample_weight=sample_weight, **kwargs)
        with double_precision():
            point = kernel.inward(state.parameters)
            if isinstance(kernel, StreamedKernel):
                following, objective, _ = kernel.problem.step(point)
            else:
                following, objective = _one_step(kernel.problem, point)
            return EMState(kernel.outward(following)), EMInfo(float(objective))

    def run(
        self,
        key: jax.Array,
        *args: Any,
        sample_weight: Any = None,
        parameters: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        checkpoint: str | Path | None = None,
        **kwargs: Any,
    ) -> Fit:
        """Fit the model.

        Parameters
        ----------
        key : random key.
        *args, **kwargs : what the program is called with; a mixture takes `triptych.rows(...)` too, or, with
            `minibatch`, a `triptych.stream(...)`.
        sample_weight : (N,) how many rows each row counts for.
        parameters : site → start; then there is this one start.
        progress : called with (steps done, steps at most, best objective).
        checkpoint : a file that is written after every pass over `triptych.rows(...)`; the same call goes on
            from there where it was cut off. It is deleted at the end.

        Returns
        -------
        The fit at the best of the end points; all of them are in its group `restarts`.

        Raises
        ------
        InputError : data, weights or a start that the model cannot take.
        """
        if self.bootstrap and sample_weight is not None:
            raise InputError("`bootstrap` draws rows that count once each: leave `sample_weight` out.")
        path = None if checkpoint is None else Path(checkpoint)
        with (
            stopwatch() as watch,
            double_precision(),
            in_company(args[0] if args else None, path),
            ExitStack() as known,
        ):
            if args and isinstance(args[0], Stream):
                alone = (len(args) == 1, not kwargs, sample_weight is None, checkpoint is None)
                return one_pass_fit(self, args[0], key, parameters, all(alone), watch)
            args, kwargs = known.enter_context(self._remembering(args, kwargs, sample_weight))
            kernel = self.bind(*args, sample_weight=sample_weight, **kwargs)
            if path is not None:
                kernel = _kept(self, kernel, path, key)
            first, second, third = split(key, 3)
            given = None if parameters is None else kernel.inward(parameters)
            maker = maker_of(self.e_step)
            if isinstance(maker, MonteCarlo) and isinstance(kernel, DerivedKernel):
                return stochastic_fit(self, kernel, maker, first, given, args, kwargs, watch)
            if given is None:
                start = short_runs(self, kernel, first, second)
            else:
                start = Start({name: np.asarray(value)[None] for name, value in given.items()}, ("given",))
            table = None
            if self.minibatch != "none" and not _resumes(kernel):
                start, table = first_passes(self.minibatch, kernel, start, jax.random.fold_in(key, 5))
            run = long_runs(self, kernel, start, progress)
            fit = assemble_fit(self, kernel, start, run, third, args, kwargs, watch)
            if table is not None:
                fit.data["minibatch"] = xr.DataTree(table)
            if isinstance(kernel, StreamedKernel) and kernel.problem.checkpoint is not None:
                kernel.problem.checkpoint.clear()
        if not self.bootstrap:
            return fit
        from triptych.inference.em.bootstrap import with_bootstrap

        return with_bootstrap(self, jax.random.fold_in(key, 4), fit, args, kwargs)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain data, as a config writes them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["model"]
        values["latents"] = None if self.latents is None else list(self.latents)
        return {
            name: value if isinstance(value, str | int | float | list | dict | None) else repr(value)
            for name, value in values.items()
        }

    @property
    def by_hand(self) -> bool:
        """Whether a hand-written kernel is taken where there is one."""
        return (self.latents, self.e_step, self.m_step) == (None, "exact", "auto")

    def climbed(self, kernel: Kernel) -> Problem:
        """Give what is climbed: the kernel's own steps."""
        return kernel.problem

    @property
    def _derives_alone(self) -> bool:
        """Whether the program is all that EM is derived from: no kernel, and no step that the user wrote."""
        plain = isinstance(self.e_step, str) and isinstance(self.m_step, str)
        return plain and not (self.by_hand and has_kernel(self.model))

    def _remembering(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], sample_weight: Any
    ) -> AbstractContextManager[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Take up what an earlier run of the same call compiled, where this one compiles a thing of its own.

        A climb by a hand-written kernel does not: its programs serve any data of the same shape.
        """
        climb_alone = self.draws == 0 and self.by_hand and has_kernel(self.model)
        if climb_alone or sample_weight is not None or (args and isinstance(args[0], Rows)):
            return nullcontext((args, kwargs))
        return remembering(marginal(self.model), args, kwargs)


@in_order
def _one_step(problem: Problem, parameters: Parameters) -> tuple[Parameters, Array]:
    following, objective, _ = problem.step(parameters)
    return following, objective


def _kept(em: EM, kernel: Kernel, path: Path, key: jax.Array) -> Kernel:
    """Have a climb write where it stands, and go on from there."""
    if not isinstance(kernel, StreamedKernel):
        raise InputError("`checkpoint` is for rows that are read in blocks: `run(key, triptych.rows(...))`.")
    if not path.parent.is_dir():
        raise InputError(f"`checkpoint` is {path}, but there is no directory {path.parent}.")
    numbers = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    rows = kernel.problem.rows
    what = (repr(em.model), em.settings, np.asarray(numbers).tolist(), rows.total, rows.names)
    return kernel.writing(Checkpoint(path, hashlib.sha256(repr(what).encode()).hexdigest()))


def _resumes(kernel: Kernel) -> bool:
    """Whether a climb goes on from its checkpoint, past the first passes."""
    found = kernel.problem.checkpoint if isinstance(kernel, StreamedKernel) else None
    return found is not None and found.path.exists()


def _weights(sample_weight: Any, args: tuple[Any, ...]) -> np.ndarray:
    try:
        weights = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError):
        raise InputError("`sample_weight` holds something that is not a number.") from None
    rows = len(args[0]) if args else 0
    if weights.shape != (rows,):
        raise InputError(f"`sample_weight` has shape {weights.shape}: give one weight a row, ({rows},).")
    if not np.all(np.isfinite(weights)) or np.any(weights < 0) or not np.any(weights > 0):
        raise InputError("`sample_weight` must be finite, 0 or more, and not all 0.")
    return weights
