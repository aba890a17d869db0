"""A method that answers at once, so that the tests of runs are about runs; and a browser for their pages."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import os
import select
import shutil
import subprocess
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

from triptych.experiments import prepared
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
    monkeypatch.setattr(prepared, "algorithm", lambda settings, model: Fake(bench, settings, model))

    class Comparison:
        def __init__(self, fits: dict[str, Fit], reference: str, held_out: Any = None) -> None:
            del held_out
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


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), "")
PATIENCE = 60.0  # seconds
# Chromium reads commands from descriptor 3 and answers on 4; moved there by way of numbers out of reach.
LAUNCH = """
import fcntl, os, sys
for place, old in enumerate([fcntl.fcntl(int(n), fcntl.F_DUPFD, 100) for n in sys.argv[1:3]], start=3):
    os.dup2(old, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One tab of a headless Chromium, by the DevTools protocol over its own pipe: no package is needed."""

    def __init__(self, profile: Path) -> None:
        quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "extensions")
        options = ["--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-pipe"]
        options += [*(f"--disable-{what}" for what in quiet), f"--user-data-dir={profile}", "about:blank"]
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        opened = [sys.executable, "-ISc", LAUNCH, str(commands), str(answers), CHROMIUM, *options]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(opened, pass_fds=(commands, answers), **silent)
        os.close(commands)
        os.close(answers)
        self._count, self._rest, self._tab = itertools.count(1), b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._tab = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._count)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._tab} if self._tab else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready = select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, "Chromium does not answer"
            self._rest += os.read(self._read, 1 << 20)
        one, self._rest = self._rest.split(b"\0", 1)
        return json.loads(one)

    def open(self, page: Path, width: int = 1280, *, dark: bool = False, script: bool = True) -> None:
        """Open a page from disk; what happens meanwhile is in `events`."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        ready = "document.readyState === 'complete'"
        self.wait(f"{ready} && document.documentElement.classList.contains('ready')" if script else ready)

    def wait(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, **more)

    def key(self, name: str) -> None:
        codes = {"ArrowDown": 40, "ArrowRight": 39, "Escape": 27}
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name]
            )

    def print(self) -> bytes:
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def close(self) -> None:
        self._tab = ""
        self.call("Browser.close")
        os.close(self._write)
        os.close(self._read)
        self.process.wait(PATIENCE)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Give a headless Chromium, one for all the tests; skip where there is none."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
