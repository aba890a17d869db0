"""A method's second run in one process, which takes up what the first compiled, against that first one.

python benchmarks/second_run.py METHOD DATA    # what a fresh process does: it prints the seconds of both
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness import Rounds, Row

__all__ = ["GROUP", "METHODS", "against_first"]

GROUP = "A second run in one process"
METHODS = ("EM", "EM derived", "SVI", "MCMC", "CAVI", "Gibbs", "ChEES", "BatchAndMatch", "Pathfinder")


def two_rates(x: Any) -> None:
    """Declare a mixture of Poissons of whole minutes, for which nobody wrote a kernel."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        rates = numpyro.sample("rates", dist.Gamma(2.0, 0.1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.Poisson(rates[z]), obs=x)


def both(method: str, x: np.ndarray) -> dict[str, Any]:
    """Run a method twice with its default settings: the seconds of each, and how far their draws differ."""
    import jax

    import triptych

    derived = method == "EM derived"
    algorithm = getattr(triptych, method.split()[0])(two_rates if derived else triptych.GaussianMixture(2))
    data = np.round(x[:, 1]) if derived else x
    spent, found = [], []
    with jax.enable_x64(True):
        for _ in range(2):
            begin = time.perf_counter()
            fit = algorithm.run(jax.random.key(0), data)
            spent.append(time.perf_counter() - begin)
            found.append(fit.data["posterior"].dataset)
    gap = max(float(np.max(np.abs(found[0][site] - found[1][site]))) for site in found[0])
    return {"first": spent[0], "second": spent[1], "gap": gap}


def against_first(method: str, x: np.ndarray, rounds: Rounds) -> list[Row]:
    """Compare the two runs, in a fresh process each round."""
    from cold import fresh
    from harness import Row, alternate

    said: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npy"
        np.save(data, x)

        def second() -> float:
            _, out = fresh([sys.executable, __file__, method, str(data)], Path(folder))
            said.update(json.loads(out.splitlines()[-1]))
            return said["second"]

        own, other, ratios = alternate(second, lambda: said["first"], rounds)
    agreement = f"default settings, float64; every draw the same to {said['gap']:.0e}"
    return [Row(GROUP, f"{method}, Old Faithful", "its first run", own, other, ratios, "s", agreement)]


def main() -> None:
    """Do what a fresh process is for."""
    method, data = sys.argv[1:]
    print(json.dumps(both(method, np.load(data))))


if __name__ == "__main__":
    main()
