"""Every row of docs/benchmarks.md by name, and what makes it. Names start with their group, for `--only`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from harness import Rounds, Row, Share

__all__ = ["jobs"]

DATA = Path(__file__).parent.parent / "experiments" / "data"
Job = Callable[[], Sequence[Row | Share]]
FULL = (((500_000, 16, 16), 14), ((200_000, 32, 32), 10), ((100_000, 64, 8), 4), ((1_000_000, 2, 4), 10))
F64, F32 = np.float64, np.float32


def faithful() -> np.ndarray:
    """Give Old Faithful, (272, 2)."""
    return np.loadtxt(DATA / "old_faithful.csv", delimiter=",", skiprows=1)


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Give the diabetes data, (442, 10) and the progression."""
    table = np.loadtxt(DATA / "diabetes.csv", delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1]


def digits() -> np.ndarray:
    """Give scikit-learn's digits as bits, (1797, 64): a pixel is on above half of its range."""
    from sklearn.datasets import load_digits

    return (load_digits().data >= 8).astype(float)


def synthetic_bits() -> np.ndarray:
    """Give (200 000, 784) bits of ten groups."""
    from mixtures import bernoulli_case

    return bernoulli_case(200_000, 784, 10, F64).x


def jobs(repeats: int) -> dict[str, Job]:
    """Name every job, with the time that its rounds may take."""

    def rounds(seconds: float) -> Rounds:
        return Rounds(repeats, seconds)

    table: dict[str, Job] = {}
    _iterations(table, rounds)
    _fits(table, rounds)
    _posteriors(table, rounds)
    _cold(table, rounds)
    return table


def _iterations(table: dict[str, Job], rounds: Callable[[float], Rounds]) -> None:
    import mixtures

    for size, target in FULL:
        for dtype in (F64, F32):
            aim = target if dtype is F64 or size[1] == 2 else None
            name = f"iteration-full-{size[0]}-{np.dtype(dtype).name}"
            table[name] = partial(mixtures.against_scikit, size, dtype, "full", aim, rounds(20))
    for covariance in ("diagonal", "spherical", "tied"):
        for size, _ in FULL[:3]:
            for dtype in (F64, F32):
                name = f"iteration-{covariance}-{size[0]}-{np.dtype(dtype).name}"
                table[name] = partial(mixtures.against_scikit, size, dtype, covariance, 10, rounds(10))
    for dtype in (F64, F32):
        name = f"iteration-full-272-{np.dtype(dtype).name}"
        table[name] = partial(mixtures.against_scikit, (272, 2, 2), dtype, "full", None, rounds(5))
    table["iteration-full-5000000-float32"] = partial(
        mixtures.against_scikit, (5_000_000, 16, 16), F32, "full", None, rounds(60)
    )
    for kind in ("full", "diagonal"):
        table[f"iteration-pomegranate-{kind}"] = partial(
            mixtures.against_pomegranate, (200_000, 16, 16), kind, rounds(15)
        )
    table["iteration-pomegranate-bernoulli"] = partial(
        mixtures.against_pomegranate, (200_000, 784, 10), "Bernoulli", rounds(30)
    )
    table["iteration-stepmix-digits"] = lambda: mixtures.against_stepmix(
        digits(), 10, "Bernoulli, digits (1 797, 64, 10)", None, rounds(10)
    )
    table["iteration-stepmix-synthetic"] = lambda: mixtures.against_stepmix(
        synthetic_bits(), 10, "Bernoulli (200 000, 784, 10)", 10, rounds(60)
    )
    for size, _ in FULL[:3]:
        for dtype in (F64, F32):
            name = f"rate-{size[0]}-{np.dtype(dtype).name}"
            table[name] = partial(mixtures.share_of_rate, size, dtype, rounds(0))


def _fits(table: dict[str, Job], rounds: Callable[[float], Rounds]) -> None:
    import fits
    import regressions

    for covariance in ("full", "diagonal", "spherical", "tied"):
        table[f"fit-{covariance}"] = partial(fits.same_optimum, (20_000, 8, 6), covariance, rounds(30))
    table["fit-digits"] = lambda: fits.digits_to_optimum(digits(), 10, rounds(20))
    table["fit-restarts-loose"] = lambda: fits.restarts(faithful(), None, 10, rounds(20))
    table["fit-restarts-tight"] = lambda: fits.restarts(faithful(), 1e-6, 10, rounds(20))
    for size in ((442, 10), (100_000, 100), (5_000, 1_000), (1_000_000, 10), (20_000, 1_000)):
        table[f"ridge-{size[0]}-{size[1]}"] = partial(regressions.against_ridge, *size, rounds(30))
    table["derived"] = partial(_derived, rounds(0).most)


def _posteriors(table: dict[str, Job], rounds: Callable[[float], Rounds]) -> None:
    import gradients
    import guides
    import sampling
    from sampling import Length

    table["gradient-mixture"] = partial(gradients.of_mixture, (50_000, 10, 8), 20, rounds(10))
    for rows in (1_000, 1_000_000):
        table[f"gradient-regression-{rows}"] = partial(gradients.of_regression, rows, rounds(10))
    problems: dict[str, Callable[[], guides.Problem]] = {
        "faithful": lambda: guides.mixture(faithful()),
        "regression": guides.well_conditioned,
        "diabetes": lambda: guides.regression("diabetes (442, 10)", *diabetes()),
    }
    for name, problem in problems.items():
        table[f"svi-gradients-{name}"] = lambda problem=problem: guides.gradients(problem(), 5)
    for name in ("faithful", "regression"):
        problem = problems[name]
        table[f"svi-elbo-{name}"] = lambda problem=problem: guides.to_same_elbo(problem(), rounds(40))
    table["nuts-numpyro-faithful"] = lambda: sampling.against_numpyro(
        "Old Faithful", faithful(), 2, 5, rounds(150), Length(300, 1000), Length(300, 1000)
    )
    large = (10_000, 5, 4)
    table["nuts-numpyro-10000"] = lambda: sampling.against_numpyro(
        "(10 000, 5, 4)", sampling.groups_apart(large), 4, 5, rounds(0), Length(200, 200), Length(60, 60, 2)
    )
    table["nuts-nutpie"] = lambda: sampling.against_nutpie(faithful(), 2, rounds(60), Length(300, 1000))


def _cold(table: dict[str, Job], rounds: Callable[[float], Rounds]) -> None:
    import cold
    import second_run

    few = min(rounds(0).most, 3)
    for side, peer in (("numpyro", "NumPyro enumerated"), ("nutpie", "PyMC with nutpie")):
        table[f"cold-{side}"] = lambda side=side, peer=peer: cold.to_effective_draws(
            faithful(), side, peer, None, rounds(60)
        )
    table["cold-page"] = lambda: cold.page(few)
    for method in second_run.METHODS:
        name = f"second-{method.replace(' ', '-').lower()}"
        table[name] = partial(second_run.against_first, method, faithful(), Rounds(few, 60))


def _derived(repeats: int) -> Sequence[Row]:
    """Compare derived EM with the hand-written kernels."""
    from derived_em import row

    return row(repeats)
