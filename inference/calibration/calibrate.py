"""Simulation-based calibration: draw θ from the prior, data from θ, and rank θ in the method's posterior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

from triptych.inference.arguments import checked
from triptych.inference.balance_words import title
from triptych.inference.calibration.compiled import Posterior
from triptych.inference.calibration.generate import Generator, Simulated, fixed, generator
from triptych.inference.calibration.quantities import elements_of
from triptych.inference.calibration.result import Calibration, summarise
from triptych.inference.calibration.runners import Drawn, Runner, runner
from triptych.inference.calibration.uniformity import rank_of
from triptych.inference.distances import rhat_and_ess
from triptych.inference.exchangeable import Exchangeable, exchangeable
from triptych.inference.fit import Seconds
from triptych.inference.precision import double_precision
from triptych.inference.status import Finding, say
from triptych.inference.timing import stopwatch
from triptych.models.errors import InputError
from triptych.models.hyperparameters import whole_number

__all__ = ["Simulation", "calibrate"]

COMPILED = "/jax/core/compile/backend_compile_duration"
BAD_SHARE = 0.05  # of the fits that did not end well, above which it is said
LEAST_ESS = 0.8  # of the draws ranked among, that they are worth


class Simulation(NamedTuple):
    """One simulated data set, ranked: a record that can be kept and handed back.

    Attributes
    ----------
    number : which simulation; its random stream depends on nothing else.
    ranks : quantity → rank; empty where the method refused the data.
    ok : whether the method called its fit good.
    ess : what the draws ranked among are worth.
    compile, run : seconds. compilations : programs compiled.
    """

    number: int
    ranks: Mapping[str, int]
    ok: bool
    ess: float
    compile: float
    run: float
    compilations: int


def calibrate(
    algorithm: Any,
    key: jax.Array,
    *args: Any,
    simulations: int = 100,
    draws: int = 100,
    model: Callable[..., Any] | None = None,
    simulate: Callable[[jax.Array], tuple[Mapping[str, Any], tuple[Any, ...]]] | None = None,
    kept: Mapping[int, Simulation] | None = None,
    on_simulation: Callable[[Simulation], None] | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> Calibration:
    """Check that a method's posteriors are calibrated under a program's own prior.

    For s = 1 … S: θ ~ p(θ), x ~ p(x | θ), L draws from the method's posterior given x, and the rank of f(θ)
    among the f of the draws, for the log density, the log likelihood and every parameter element (sorted over
    components that may be exchanged). If the method is exact every rank is uniform on 0 … L (Talts,
    Betancourt, Simpson, Vehtari & Gelman 2018, theorem 1), whatever the program.

    Parameters
    ----------
    algorithm : `EM`, `SVI`, `MCMC` or another method with `model` and `run`; or a function
        (key, *args, **kwargs) → site → (draws, …), with `model=`.
    key : random key.
    *args, **kwargs : an example of what the program is called with. Arguments that are its data are replaced
        by drawn ones of the same shape; the others (a design, sizes) are conditioned on. A built-in model's
        prior, which follows the data, is fixed at the example's.
    simulations : S.
    draws : L, evenly spaced among the method's draws.
    simulate : key → (parameters, args), for a program that cannot be drawn from here (a `scan`).
    kept : simulations done before, by index; they are not done again.
    on_simulation : called with each new one.
    name : what to call the method; its own name if left out.

    Returns
    -------
    The ranks and what they say. Arithmetic is in float64. Data that the model refuses to be fitted to are
    left out and counted: as this depends on the data alone, the other ranks stay uniform.

    Raises
    ------
    InputError : settings out of range; a program that cannot be drawn from, or whose prior follows the data.
    """
    for setting, value, least in (("simulations", simulations, 2), ("draws", draws, 1)):
        whole_number(setting, value, least)
    program = model if model is not None else getattr(algorithm, "model", None)
    if program is None:
        raise InputError("A function that draws needs the program that it is of: give `model=`.")
    with double_precision():
        args, kwargs = _wide(checked(program, args, kwargs))
        job = _prepare(algorithm, program, key, args, kwargs, simulate, draws)
        found = dict(kept or {})
        for index in range(simulations):
            if index not in found:
                found[index] = job.run(index)
                if on_simulation is not None:
                    on_simulation(found[index])
    records = [found[index] for index in range(simulations)]
    if name is None:
        own = getattr(algorithm, "method", None) or type(algorithm).__name__
        name = str(own) if hasattr(algorithm, "run") else "The sampler"
    return _conclude(name, draws, records)


def _wide(call: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def widen(leaf: Any) -> Any:
        array = leaf if isinstance(leaf, np.ndarray | jax.Array) else None
        return np.asarray(array, np.float64) if array is not None and array.dtype.kind == "f" else leaf

    return jax.tree.map(widen, call)


@dataclasses.dataclass(frozen=True)
class _Job:
    """All that a simulation needs, made once."""

    key: jax.Array
    generate: Generator
    posterior: Posterior
    draw: Runner
    groups: tuple[Exchangeable, ...]
    supports: Mapping[str, Any]
    draws: int

    def run(self, index: int) -> Simulation:
        """Do one simulation."""
        key = jax.random.fold_in(self.key, index)
        key_data, key_fit = jax.random.split(key)
        with stopwatch() as watch, _Counter() as counter:
            simulated = self.generate(key_data)
            try:
                args, kwargs = checked(self.posterior.model, simulated.args, simulated.kwargs)
                drawn = self.draw(key_fit, args, kwargs)
            except InputError:
                ranks, ok, ess = {}, False, float("nan")
            else:
                ranks, ess = self._ranks(simulated, drawn, index)
                ok = drawn.ok
        seconds = watch.seconds
        return Simulation(index, ranks, ok, ess, seconds.compile, seconds.run, counter.count)

    def _ranks(self, simulated: Simulated, drawn: Drawn, index: int) -> tuple[dict[str, int], float]:
        chains, count = next(iter(drawn.samples.values())).shape[:2]
        if chains * count < self.draws:
            raise _too_few(self.draws, chains * count)
        chosen = np.linspace(0, chains * count - 1, self.draws).astype(int)
        arrays = self.posterior.arrays(simulated.args, simulated.kwargs)
        every = {  # the truth first
            site: np.concatenate(
                [np.asarray(simulated.parameters[site])[None], value.reshape(-1, *value.shape[2:])[chosen]]
            )
            for site, value in drawn.samples.items()
        }
        joint, likelihood = map(
            np.asarray, self.posterior.log_joint(arrays, jax.tree.map(jnp.asarray, every))
        )
        values = {"log density": joint, "log likelihood": likelihood}
        values |= elements_of(every, self.groups, self.supports)
        rng = np.random.default_rng([index, *np.asarray(jax.random.key_data(self.key)).ravel().tolist()])
        ranks = {
            name: rank_of(value[0], value[1:], rng) for name, value in values.items() if np.ptp(value) > 0
        }
        return ranks, min(float(self.draws), self._ess(drawn.samples))

    def _ess(self, samples: Mapping[str, np.ndarray]) -> float:
        """Give the smallest effective sample size of what labels cannot change, over all draws."""
        chains, count = next(iter(samples.values())).shape[:2]
        if count < 8:
            return float("inf")
        flat = {site: value.reshape(chains * count, *value.shape[2:]) for site, value in samples.items()}
        found = elements_of(flat, self.groups, self.supports)
        # One chain is read as its two halves.
        split = (2, count // 2) if chains == 1 else (chains, count)
        size = split[0] * split[1]
        return rhat_and_ess({name: value[:size].reshape(split) for name, value in found.items()})[1]


def _too_few(wanted: int, there: int) -> ValueError:
    return ValueError(
        f"The method gives {there} draws, fewer than the {wanted} to rank among: lower `draws`, or raise the "
        "method's own."
    )


def _prepare(
    algorithm: Any,
    program: Callable[..., Any],
    key: jax.Array,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    simulate: Callable[[jax.Array], tuple[Mapping[str, Any], tuple[Any, ...]]] | None,
    draws: int,
) -> _Job:
    """Fix the prior, bind the program to the shapes of its data, and make the method's runner."""
    key_check, key_run = jax.random.split(key)
    held, changed = fixed(program, args, kwargs)
    if changed and dataclasses.is_dataclass(algorithm) and hasattr(algorithm, "model"):
        algorithm = dataclasses.replace(algorithm, model=held)  # type: ignore[type-var]
    generate = generator(held, args, kwargs, key_check) if simulate is None else _own(simulate)
    first = generate(key_check)
    posterior = Posterior.of(held, first.args, first.kwargs)
    structure = posterior.m.structure(*posterior.example)
    groups = exchangeable(posterior.m, first.parameters, *posterior.example)
    supports = {site: parameter.support for site, parameter in structure.parameters.items()}
    draw = runner(algorithm, posterior)
    return _Job(key_run, generate, posterior, draw, groups, supports, draws)


def _own(simulate: Callable[[jax.Array], tuple[Mapping[str, Any], tuple[Any, ...]]]) -> Generator:
    def generate(key: jax.Array) -> Simulated:
        parameters, given = simulate(key)
        return Simulated({site: np.asarray(v) for site, v in parameters.items()}, tuple(given), {})

    return generate


class _Counter:
    """Count the programs that XLA compiles inside a block."""

    count = 0

    def __enter__(self) -> _Counter:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        del duration_secs
        self.count += event == COMPILED


def _conclude(method: str, draws: int, records: list[Simulation]) -> Calibration:
    ranked = [record for record in records if record.ranks]
    if len(ranked) < 2:
        raise InputError(
            f"The method refused {len(records) - len(ranked)} of {len(records)} simulated data sets: the "
            "prior draws data that cannot be fitted. Give a narrower prior, or more rows."
        )
    findings = []
    if len(ranked) < len(records):
        text = (
            f"{len(records) - len(ranked)} of {len(records)} data sets could not be fitted and are left out "
            "(too few distinct rows, a constant column); the other ranks are uniform all the same."
        )
        findings.append(say(Finding("DATA_REFUSED", text)))
    bad = sum(not record.ok for record in ranked)
    if bad > BAD_SHARE * len(ranked):
        text = (
            f"{bad} of {len(ranked)} fits did not end well by their own account (not converged, "
            "divergences): their ranks count all the same."
        )
        findings.append(say(Finding("FITS_NOT_CONVERGED", text)))
    ess = float(np.nanmedian([record.ess for record in ranked]))
    if ess < LEAST_ESS * draws:
        text = (
            f"The {draws} draws that each truth is ranked among are worth about {ess:.0f} independent ones: "
            "extreme ranks are then too frequent, which looks like a posterior too narrow. Lower `draws`, or "
            "give the method longer chains."
        )
        findings.append(say(Finding("DRAWS_CORRELATED", text)))
    names = [name for name in ranked[0].ranks if all(name in record.ranks for record in ranked)]
    ranks = {name: np.array([record.ranks[name] for record in ranked]) for name in names}
    seconds = Seconds(sum(record.compile for record in records), sum(record.run for record in records))
    counts = tuple(record.compilations for record in records)
    return summarise(title(method), draws, ranks, tuple(findings), seconds, counts)
