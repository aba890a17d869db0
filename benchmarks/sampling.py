"""NUTS: effective draws a second against NumPyro's enumeration and against PyMC with nutpie."""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from draws import ordered, slowest
from harness import Rounds, Row, alternate
from programs import Prior, full_program, pymc_program

import triptych
from triptych.inference.timing import stopwatch

GROUP = "MCMC, time an effective draw of the slowest parameter"


class Length(NamedTuple):
    """How much a sampler runs."""

    warmup: int
    draws: int
    chains: int = 4


def prior_of(x: np.ndarray, components: int) -> Prior:
    """Give the prior of ours as plain numbers."""
    found = triptych.GaussianMixture(components).prior(x)
    return Prior(*(np.asarray(getattr(found, name)) for name in Prior._fields))


def groups_apart(size: tuple[int, int, int]) -> np.ndarray:
    """Give rows of well separated groups."""
    rows, columns, components = size
    generator = np.random.default_rng(1)
    centres = 4.0 * generator.normal(size=(components, columns))
    return centres[generator.integers(components, size=rows)] + generator.normal(size=(rows, columns))


class Ours:
    """Our side: a run of `triptych.MCMC`, the seconds of its transitions, and the means that it found."""

    def __init__(self, components: int, length: Length, sites: tuple[str, ...]) -> None:
        model = triptych.GaussianMixture(components)
        self.sampler = triptych.MCMC(model, **length._asdict())
        self.sites, self.means = sites, np.zeros(0)

    def __call__(self, key: int, x: np.ndarray) -> float:
        """Seconds an effective draw."""
        told: list[tuple[int, float]] = []

        def progress(done: int, total: int, accept: float) -> None:
            told.append((done, time.perf_counter()))

        fit = self.sampler.run(jax.random.key(key), x, progress=progress)
        posterior = fit.data["posterior"].dataset
        found = {site: posterior[site].values for site in self.sites}
        self.means = ordered(found)["means"].mean((0, 1))
        # From the end of the first block, which is when compiling is over, to the end of the last.
        (first, begin), (last, end) = told[0], told[-1]
        return (end - begin) * last / (last - first) / slowest(found)


def against_numpyro(
    name: str, x: np.ndarray, components: int, target: float, rounds: Rounds, length: Length, peers: Length
) -> list[Row]:
    """Compare with NumPyro's NUTS on the enumerated program, started at our answer."""
    from numpyro.infer import MCMC, NUTS, init_to_value

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = Ours(components, length, ("weights", "means", "covariances"))
        at = triptych.EM(triptych.GaussianMixture(components), draws=0).run(jax.random.key(0), x).parameters
        peer = MCMC(
            NUTS(full_program, init_strategy=init_to_value(values=dict(at))),
            num_warmup=peers.warmup,
            num_samples=peers.draws,
            num_chains=peers.chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        call = (x, prior_of(x, components), components)
        means: dict[str, Any] = {}

        def theirs(key: int) -> float:
            if not means:
                peer.run(jax.random.key(key), *call)
            with stopwatch() as watch:  # a second run compiles two programs again, which does not count
                peer.run(jax.random.key(key + 1), *call)
                jax.block_until_ready(peer.get_samples())
            found = {site: np.asarray(value) for site, value in peer.get_samples(group_by_chain=True).items()}
            means["peer"] = ordered(found)["means"].mean((0, 1))
            return watch.seconds.run / slowest(found)

        keys = iter(range(100, 1000, 10))
        own, other, ratios = alternate(lambda: ours(next(keys), x), lambda: theirs(next(keys)), rounds)
    gap = float(np.max(np.abs(ours.means - means["peer"]) / x.std(axis=0)))
    said = (
        f"means within {gap:.1g} sd of the data; ours {length.chains} × ({length.warmup} + {length.draws}), "
        f"theirs {peers.chains} × ({peers.warmup} + {peers.draws}) from our optimum; all transitions "
        "counted, warm-up too, compilation not"
    )
    return [
        Row(
            GROUP,
            f"NUTS, {name}",
            "NumPyro enumerated",
            1e3 * own,
            1e3 * other,
            ratios,
            "ms",
            said,
            target,
            "float64",
        )
    ]


def against_nutpie(x: np.ndarray, components: int, rounds: Rounds, length: Length) -> list[Row]:
    """Compare with PyMC's marginal mixture sampled by nutpie."""
    import nutpie

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = nutpie.compile_pymc_model(pymc_program(x, components))
        means: dict[str, Any] = {}

        def theirs(key: int) -> float:
            begin = time.perf_counter()
            trace = nutpie.sample(
                compiled,
                tune=length.warmup,
                draws=length.draws,
                chains=length.chains,
                seed=key,
                progress_bar=False,
            )
            spent = time.perf_counter() - begin
            found = {site: np.asarray(trace.posterior[site]) for site in ("weights", "means")}
            means["peer"] = ordered(found)["means"].mean((0, 1))
            return spent / slowest(found)

        with jax.enable_x64(True):
            ours = Ours(components, length, ("weights", "means"))
            keys = iter(range(200, 1000))
            own, other, ratios = alternate(lambda: ours(next(keys), x), lambda: theirs(next(keys)), rounds)
    gap = float(np.max(np.abs(ours.means - means["peer"]) / x.std(axis=0)))
    said = (
        f"means within {gap:.1g} sd of the data (other priors); both {length.chains} × ({length.warmup} + "
        f"{length.draws}), warm-up counted, compilation not"
    )
    return [
        Row(
            GROUP,
            "NUTS, Old Faithful",
            "PyMC with nutpie",
            1e3 * own,
            1e3 * other,
            ratios,
            "ms",
            said,
            1,
            "float64",
        )
    ]
