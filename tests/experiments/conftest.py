"""A method that answers at once, so that the tests of runs are about runs."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
import yaml

from triptych.experiments import run as running
from triptych.inference.fit import Fit, Seconds
from triptych.inference.status import Finding, Status

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "seed": 0,
    "data": {"name": "old_faithful"},
    "model": {"name": "gaussian_mixture", "components": 2},
    "fits": {"em": {"method": "em"}, "svi": {"method": "svi"}, "mcmc": {"method": "mcmc"}},
    "reference": "mcmc",
}


@dataclasses.dataclass
class Bench:
    """What the fake methods did, and how they shall behave."""

    ran: list[str] = dataclasses.field(default_factory=list)
    raising: dict[str, BaseException] = dataclasses.field(default_factory=dict)
    status: Status = Status.CONVERGED
    findings: tuple[Finding, ...] = ()
    drift: float = 0.0
    reports: int = 0


@dataclasses.dataclass(frozen=True)
class Fake:
    """A method whose answer is the mean of the data and whose draws are noise around it."""

    bench: Bench
    settings: Any
    model: Callable[..., Any]

    def run(self, key: jax.Array, x: Any, *rest: Any, progress: Any = None) -> Fit:
        method = self.settings.method
        self.bench.ran.append(method)
        if progress is not None:
            progress(1, 2)
        if method in self.bench.raising:
            raise self.bench.raising[method]
        means = np.asarray(x).mean(axis=0) + self.bench.drift
        noise = np.asarray(jax.random.normal(key, (1, 5, *means.shape)))
        posterior = xr.Dataset({"means": (("chain", "draw", "column"), means + noise)})
        return Fit(
            method=method,
            model=self.model,
            status=self.bench.status,
            seconds=Seconds(0.5, 0.25),
            parameters={"means": means},
            log_likelihood=-1.5,
            objective=np.array([-3.0, -1.5]),
            data=xr.DataTree.from_dict({"posterior": posterior}),
            findings=self.bench.findings,
        )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Put the fake methods, a comparison and a report in the place of the real ones."""
    bench = Bench()
    monkeypatch.setattr(running, "algorithm", lambda settings, model: Fake(bench, settings, model))

    class Comparison:
        def __init__(self, fits: dict[str, Fit], reference: str) -> None:
            seconds = {"compile": time.perf_counter(), "run": time.perf_counter()}
            self.content = {"reference": reference, "fits": sorted(fits), "methods": [seconds]}

        def to_json(self) -> str:
            return json.dumps(self.content)

        def __rich__(self) -> str:
            return f"measured against {self.content['reference']}"

    compare: Any = ModuleType("triptych.inference.compare")
    compare.compare = Comparison
    monkeypatch.setitem(sys.modules, "triptych.inference.compare", compare)

    def write_report(directory: Path, comparison: Any = None) -> Path:
        del comparison
        bench.reports += 1
        page = directory / "report.html"
        page.write_text("<html></html>")
        return page

    page: Any = ModuleType("triptych.experiments.report.page")
    page.write_report = write_report
    monkeypatch.setitem(sys.modules, "triptych.experiments.report.page", page)
    return bench


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a config, a small one with changes by key."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
        return path

    return write
