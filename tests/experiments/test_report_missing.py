"""The part of a page on missing cells: what each fit says of them, said of every column that has some."""

from __future__ import annotations

import numpy as np

from triptych.experiments.report.canvas import pens
from triptych.experiments.report.fitted import data_and_components
from triptych.experiments.report.gather import Run, _imputations
from triptych.experiments.report.missing import missing_cells
from triptych.experiments.report.numbers import number
from triptych.inference.fit import Fit, Seconds
from triptych.inference.posterior import build
from triptych.inference.status import Status
from triptych.models import GaussianMixture


def run_of(x: np.ndarray, columns: tuple[str, ...]) -> Run:
    """A run of two fits that know the answer: cells are twice their neighbour, but for noise."""
    D = x.shape[1]
    point = {"weights": np.ones(1), "means": np.zeros((1, D)), "covariances": np.eye(D)[None]}
    if D > 1:
        point["covariances"][0, :2, :2] = [[1.0, 2.0], [2.0, 5.0]]
    fits = {
        method: Fit(
            method=method,
            model=GaussianMixture(1, missing=True),
            status=Status.CONVERGED,
            seconds=Seconds(0.1, 0.1),
            parameters=point,
            log_likelihood=0.0,
            objective=np.zeros(0),
            data=build({site: np.tile(value, (1, 900, *[1] * value.ndim)) for site, value in point.items()}),
        )
        for method in ("em", "mcmc")
    }
    found = _imputations(fits, (x,))
    config = {"model": {"name": "gaussian_mixture"}}
    table = {name: np.ones((len(x), 1)) for name in fits}
    return Run(config, {}, fits, None, "mcmc", x, columns, None, table, imputations=found)


def test_each_column_with_gaps_has_its_picture_and_its_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    x[:90, 1], x[5, 2] = np.nan, np.nan
    run = run_of(x, ("wind", "ozone", "sun"))
    drawn = pens({"em": "em", "mcmc": "mcmc"})
    section = missing_cells(run, drawn)
    assert section is not None
    assert [picture.heading for picture in section.pictures] == ["ozone", "sun"]
    assert "91 cells are missing (15 %), and 110 of 200 rows are whole" in section.intro
    expected = number(2 * x[:90, 0].mean())
    assert f"EM {expected}" in section.pictures[0].caption
    assert f"MCMC {expected}" in section.pictures[0].caption
    assert "± 1.0" in section.pictures[0].caption
    assert "90 of 200 missing" in section.pictures[0].caption
    assert "60 are drawn" in section.pictures[0].caption
    data = data_and_components(run, drawn)
    assert data is not None
    assert "The 90 rows with a missing cell stand where the reference expects that cell." in data.intro


def test_a_page_of_whole_rows_has_no_such_part() -> None:
    run = run_of(np.random.default_rng(0).normal(size=(20, 1)), ("x",))
    assert run.imputations == {}
    assert missing_cells(run, pens({"em": "em", "mcmc": "mcmc"})) is None
    x = np.random.default_rng(0).normal(size=(20, 1))
    x[3] = np.nan
    data = data_and_components(run_of(x, ("x",)), pens({"em": "em", "mcmc": "mcmc"}))
    assert data is not None
    assert "Rows with a missing cell are left out." in data.intro
