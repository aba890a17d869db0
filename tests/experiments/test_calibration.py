"""`triptych calibrate`: what it leaves, that it goes on where it stopped, what it says of a bad method."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from triptych.experiments import calibration
from triptych.experiments.calibration import calibrate_config
from triptych.experiments.reading import read_experiment
from triptych.inference.posterior import build
from triptych.inference.status import Status

PROGRAM = """
import numpyro
import numpyro.distributions as dist


def program(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(mu, 1.0).expand(x.shape).to_event(2), obs=x)
"""
CONFIG = """
name: tiny
data: {path: rows.csv}
model: {program: "program.py:program"}
fits:
  em: {method: em}
  svi: {method: svi}
"""


@dataclasses.dataclass
class Conjugate:
    """The exact posterior of the mean, or one with a tenth of its width."""

    model: object
    width: float
    ran: list

    def run(self, key, x):
        self.ran.append(self.width)
        sd = 1 / np.sqrt(x.size + 1)
        draws = x.sum() / (x.size + 1) + self.width * sd * np.asarray(jax.random.normal(key, (1, 40)))
        return SimpleNamespace(
            method="em", data=build({"mu": draws}), parameters={"mu": 0.0}, status=Status.CONVERGED
        )


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "rows.csv").write_text("a<b\n1.0\n2.5\n0.3\n")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    ran = []
    make = calibration.prepare

    def prepare(experiment):
        found = make(experiment)
        methods = {"em": Conjugate(found.model, 1.0, ran), "svi": Conjugate(found.model, 0.1, ran)}
        return dataclasses.replace(found, algorithms=methods)

    monkeypatch.setattr(calibration, "prepare", prepare)
    return read_experiment(tmp_path / "tiny.yaml"), tmp_path / "out", ran


def test_a_calibration_is_left_and_gone_on_with(tiny):
    experiment, directory, ran = tiny
    first = calibrate_config(experiment, directory, simulations=20, draws=30)
    assert len(ran) == 40
    lines = (directory / "em.simulations").read_text().splitlines()
    # Cut off in the middle of a line, as a run that was killed may be.
    (directory / "em.simulations").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9])
    second = calibrate_config(experiment, directory, simulations=25, draws=30)
    assert len(ran) == 40 + 6 + 5
    for name, ranks in first.fits["em"].ranks.items():
        np.testing.assert_array_equal(second.fits["em"].ranks[name][:20], ranks)
    written = json.loads((directory / "calibration.json").read_text())
    assert written["fits"]["em"]["ok"]
    assert not written["fits"]["svi"]["ok"]
    assert not second.ok
    assert len(written["fits"]["svi"]["ranks"]["mu"]) == 25
    page = (directory / "calibration.html").read_text()
    assert "SVI is not calibrated" in page
    assert "too narrow" in page
    assert page.count("<svg") == 6  # three quantities a fit
    assert "http://" not in page.replace("http://www.w3.org", "")
    # Another number of draws is another problem.
    calibrate_config(experiment, directory, simulations=3, draws=20)
    assert len(ran) == 51 + 6
