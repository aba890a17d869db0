"""How near the optimum EM, accelerated EM and three minibatch EMs are after 2, 5, 10 and 20 E-steps a row.

    python benchmarks/minibatch.py [--rows 30000] [--starts 10]

Figures are nats a row below the best optimum that any method found in the case, the median over the starts;
behind it, how many of the starts were within 1e-6 of it. All methods begin at the same starts (equal
components around K rows drawn at random), MAP. E-steps are counted as they are taken: one a row and round of
stepwise and incremental EM, three of variance-reduced EM, so that its columns hold 0, 1, 3 and 6 rounds.

The second table is what they are for: E-steps a row until the accelerated iterations that follow ended
(tol=1e-6), the passes themselves included, the mean; and the time of two rounds over that of as many plain EM
steps in the same process, the median of five turns.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from triptych.inference.em import EM
from triptych.inference.em.accelerated import Accelerator
from triptych.inference.em.flat import space_of
from triptych.inference.em.fold import infer
from triptych.inference.em.loop import climb
from triptych.inference.em.minibatch import Deal, deal, passes
from triptych.inference.em.stepwise import least_rows
from triptych.inference.precision import double_precision
from triptych.models import GaussianMixture

EPOCHS = (2, 5, 10, 20)
COST = {"stepwise": 1, "incremental": 1, "variance_reduced": 3}
CLOSE = 1e-6


def separated(rows: int) -> tuple[GaussianMixture, np.ndarray]:
    """Five groups in five columns, centres some four standard deviations from each other."""
    random = np.random.default_rng(0)
    centres = 3.0 * random.normal(size=(5, 5))
    x = centres[random.integers(5, size=rows)] + random.normal(size=(rows, 5))
    return GaussianMixture(5), x


def overlapping(rows: int) -> tuple[GaussianMixture, np.ndarray]:
    """Four groups in three columns, of different shapes, that lie over each other."""
    random = np.random.default_rng(1)
    centres, shapes = 1.5 * random.normal(size=(4, 3)), 0.6 * random.normal(size=(4, 3, 3)) + np.eye(3)
    group = random.choice(4, size=rows, p=[0.4, 0.3, 0.2, 0.1])
    x = centres[group] + np.einsum("nij,nj->ni", shapes[group], random.normal(size=(rows, 3)))
    return GaussianMixture(4), x


@jax.jit
def heights(problem: Any, stacked: Any) -> Any:
    """Give the objectives of stacked points, nats."""
    return jax.vmap(lambda point: infer(problem, point)[1])(stacked)


def exact(kernel: Any, starts: Any, method: str, steps: int, tolerance: float) -> Any:
    """Run exact EM, accelerated or not."""
    space = space_of({name: value[0] for name, value in starts.items()}, kernel.supports)
    accelerator = None if method == "none" else Accelerator(method, space)
    return climb(
        kernel.problem,
        starts,
        tolerance=tolerance,
        count=kernel.count,
        epsilon=kernel.epsilon,
        max_steps=steps,
        accelerator=accelerator,
    )


def led(kernel: Any, starts: Any, method: str, dealt: Deal, rounds: int) -> list[Any]:
    """Give the points after 0, 1, … rounds by minibatches."""
    found = [starts]
    for point, _ in passes(method, kernel, starts, jax.random.key(1), dealt, rounds):
        found.append({name: np.asarray(value) for name, value in point.items()})
    return found


def dearer(kernel: Any, starts: Any, method: str, dealt: Deal, cost: int) -> float:
    """Compare the time of two rounds by minibatches with that of as many E-steps of plain EM."""
    ratios = []
    for _ in range(6):
        began = time.perf_counter()
        led(kernel, starts, method, dealt, 2)
        between = time.perf_counter()
        exact(kernel, starts, "none", 2 * cost, 0.0)
        ratios.append((between - began) / (time.perf_counter() - between))
    return float(np.median(ratios[1:]))  # the first turn compiles


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--least", type=int, default=0, help="rows of a minibatch (0: the default)")
    settings = parser.parse_args()
    with double_precision():
        for case in (separated, overlapping):
            model, x = case(settings.rows)
            kernel: Any = EM(model).bind(x)
            starts = kernel.starts(jax.random.key(0), settings.starts, "random_rows").parameters
            least = settings.least or least_rows(model.components, x.shape[1])
            report(case.__name__, kernel, starts, deal(len(x), least, len(x)))


def report(name: str, kernel: Any, starts: Any, dealt: Deal) -> None:
    """Measure one case."""
    number = len(next(iter(starts.values())))
    rows, ends, times = {}, {}, {}
    for label, method in (("EM", "none"), ("EM, accelerated", "mix")):
        short = np.stack(exact(kernel, starts, method, EPOCHS[-1] + 1, 0.0).traces)
        # The objective of step n + 1 is that of the point after n E-steps.
        rows[label] = [short[:, epoch] for epoch in EPOCHS]
        run = exact(kernel, starts, method, 20_000, 1e-6)
        ends[label] = [(0, run.steps, run.objective)]
    for method, cost in COST.items():
        points = led(kernel, starts, method, dealt, EPOCHS[-1] // cost)
        rows[method] = [np.asarray(heights(kernel.problem, points[epoch // cost])) for epoch in EPOCHS]
        ends[method] = []
        for rounds in (1, 2, 4, 6):
            run = exact(kernel, jax.tree.map(jnp.asarray, points[rounds]), "mix", 20_000, 1e-6)
            ends[method].append((rounds * cost, rounds * cost + run.steps, run.objective))
        times[method] = f"{dearer(kernel, starts, method, dealt, cost):.2f}"
    best = max(float(np.max(end[2])) for found in ends.values() for end in found)
    print(f"\n{name}: {kernel.count:.0f} rows, minibatches of {dealt.size}, {number} starts\n")
    print("| method |" + "".join(f" {epoch} E-steps |" for epoch in EPOCHS))
    print("|---|" + "---|" * len(EPOCHS))
    for method, values in rows.items():
        cells = [(best - value) / kernel.count for value in values]
        print(f"| {method} |" + "".join(f" {np.median(c):.1e} ({np.sum(c < CLOSE)}) |" for c in cells))
    print("\n| first passes | E-steps of them | E-steps to the end | at the best optimum | time an E-step |")
    print("|---|---|---|---|---|")
    for method, found in ends.items():
        for before, steps, objective in found:
            ended = f"{np.mean(steps):.1f} | {np.sum(best - objective < 0.1)} of {number}"
            print(f"| {method} | {before} | {ended} | {times.get(method, '')} |")


if __name__ == "__main__":
    main()
