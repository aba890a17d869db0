"""From a cold start: a fresh process with nothing compiled before, until the answer is there.

python benchmarks/cold.py SIDE DRAWS DATA    # what a fresh process does: it prints when it had its draws
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness import Rounds, Row

__all__ = ["page", "to_effective_draws"]

WARMUP, CHAINS, WANTED = 300, 4, 400
LADDER = (100, 150, 200, 300, 450, 700, 1000, 1500, 2200)  # draws a chain


def sample_triptych(x: np.ndarray, prior: dict[str, np.ndarray], draws: int) -> dict[str, Any]:
    """Sample by triptych, from its import on."""
    import jax

    import triptych

    with jax.enable_x64(True):
        sampler = triptych.MCMC(triptych.GaussianMixture(2), warmup=WARMUP, draws=draws, chains=CHAINS)
        fit = sampler.run(jax.random.key(0), x)
    posterior = fit.data["posterior"].dataset
    return {site: posterior[site].values for site in ("weights", "means")}


def sample_numpyro(x: np.ndarray, prior: dict[str, np.ndarray], draws: int) -> dict[str, Any]:
    """Sample the enumerated program by NumPyro, from its import on."""
    import jax
    from numpyro.infer import MCMC, NUTS
    from programs import Prior, full_program

    with jax.enable_x64(True):
        sampler = MCMC(
            NUTS(full_program),
            num_warmup=WARMUP,
            num_samples=draws,
            num_chains=CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        sampler.run(jax.random.key(0), x, Prior(**prior), 2)
        found = sampler.get_samples(group_by_chain=True)
        return {site: np.asarray(found[site]) for site in ("weights", "means")}


def sample_nutpie(x: np.ndarray, prior: dict[str, np.ndarray], draws: int) -> dict[str, Any]:
    """Sample PyMC's marginal mixture by nutpie, from its import on."""
    import nutpie
    from programs import pymc_program

    compiled = nutpie.compile_pymc_model(pymc_program(x, 2))
    trace = nutpie.sample(compiled, tune=WARMUP, draws=draws, chains=CHAINS, seed=0, progress_bar=False)
    return {site: np.asarray(trace.posterior[site]) for site in ("weights", "means")}


SIDES = {"triptych": sample_triptych, "numpyro": sample_numpyro, "nutpie": sample_nutpie}


def fresh(command: list[str], caches: Path) -> tuple[float, str]:
    """Run a command in a fresh process with empty caches: when it began (epoch seconds), what it said."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    empty = {
        "XDG_CACHE_HOME": str(caches / "cache"),
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}",
    }
    begin = time.time()
    done = subprocess.run(command, env=plain | empty, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[1:4]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return begin, done.stdout


def timed(side: str, draws: int, data: Path) -> tuple[float, float, np.ndarray]:
    """Seconds until a fresh process has its draws, the effective ones among them, and the means."""
    with tempfile.TemporaryDirectory() as caches:
        begin, said = fresh([sys.executable, __file__, side, str(draws), str(data)], Path(caches))
    found = json.loads(said.splitlines()[-1])
    return found["at"] - begin, found["effective"], np.asarray(found["means"])


def to_effective_draws(
    x: np.ndarray, side: str, peer: str, target: float | None, rounds: Rounds
) -> list[Row]:
    """Compare the time to 400 effective draws of the slowest parameter of Old Faithful, compilation and all.

    How many draws that takes is found beforehand, from the ladder; a round in which a side falls short by
    chance still counts, in proportion.
    """
    from harness import Row, alternate
    from sampling import prior_of

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, x=x, **prior_of(x, 2)._asdict())
        lengths, means = {}, {}
        for one in ("triptych", side):
            for draws in LADDER:
                lengths[one] = draws
                _, effective, means[one] = timed(one, draws, data)
                if effective >= WANTED:
                    break

        def run(one: str) -> float:
            spent, _, means[one] = timed(one, lengths[one], data)
            return spent

        own, other, ratios = alternate(lambda: run("triptych"), lambda: run(side), rounds)
    gap = float(np.max(np.abs(means["triptych"] - means[side]) / x.std(axis=0)))
    said = (
        f"means within {gap:.1g} sd of the data; draws a chain needed, of {CHAINS} chains after {WARMUP} of "
        f"warm-up: ours {lengths['triptych']}, theirs {lengths[side]}; imports and compilation counted"
    )
    what = f"Old Faithful, {WANTED} effective draws"
    return [Row("Cold start, a fresh process", what, peer, own, other, ratios, "s", said, target, "float64")]


def page(repeats: int) -> list[Row]:
    """Time `triptych run old_faithful`, from the command to the page, with nothing compiled before."""
    from harness import Row

    spent = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "run"
            command = [sys.executable, "-m", "triptych", "run", "old_faithful", "--output", str(output)]
            begin, _ = fresh(command, Path(folder))
            spent.append(time.time() - begin)
            if not (output / "report.html").is_file():
                raise RuntimeError("the run left no page")
    said = (
        f"EM, SVI and NUTS, compared, the page written; {min(spent):.1f} to {max(spent):.1f} s in {repeats}"
    )
    what = "`triptych run old_faithful` to the page"
    return [
        Row("Cold start, a fresh process", what, "", float(np.median(spent)), None, (), "s", said, limit=30)
    ]


def main() -> None:
    """Do what a fresh process is for, and say when it was done."""
    side, draws, data = sys.argv[1:]
    with np.load(data) as arrays:
        held = dict(arrays)
    x = held.pop("x")
    found = SIDES[side](x, held, int(draws))
    at = time.time()
    from draws import ordered, slowest

    means = ordered(found)["means"].mean((0, 1)).tolist()
    print(json.dumps({"at": at, "effective": slowest(found), "means": means}))


if __name__ == "__main__":
    main()
