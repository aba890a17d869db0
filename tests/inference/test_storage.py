"""Saving and loading: what comes back is what was put in, and a damaged file is one clear line."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from triptych.inference import storage
from triptych.inference.fit import Evidence, Fit, Seconds
from triptych.inference.posterior import build, draws
from triptych.inference.status import Finding, Status
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture, InputError


def make_fit(model=None, chains=1) -> Fit:
    random = np.random.default_rng(0)
    samples = {
        "means": random.normal(size=(chains, 7, 2, 3)),
        "β": random.normal(size=(chains, 7)).astype(np.float32),
        "scope/w": random.normal(size=(chains, 7, 1)),
    }
    tree = build(
        samples,
        log_likelihood={"x": random.normal(size=(chains, 7, 5))},
        sample_stats={"diverging": np.zeros((chains, 7), bool), "n_steps": np.ones((chains, 7), int)},
        observed_data={"x": random.normal(size=5)},
        constant_data={"X": random.normal(size=(5, 2)).astype(np.float32)},
        attrs={"note": "größer"},
    )
    return Fit(
        method="svi",
        model=model or GaussianMixture(2, location=(1.0, 2.5)),
        status=Status.STEP_LIMIT,
        seconds=Seconds(1.25, 0.1),
        parameters={"means": np.ones((2, 3)), "β": np.float32(0.1) * np.ones(()), "scope/w": np.zeros(1)},
        log_likelihood=-np.inf,
        objective=np.array([-np.inf, np.nan, -3.5]),
        data=tree,
        evidence=Evidence(elbo=-1.5, standard_error=np.nan, method="ELBO é"),
        findings=(Finding("STEP_LIMIT", "zu früh — “stopped”"),),
        settings={"guide": "AutoNormal", "guide_options": {}, "steps": 10, "shape": (1, 2), "none": None},
    )


@pytest.mark.parametrize("chains", [1, 4])
def test_round_trip_keeps_everything(tmp_path, chains):
    fit = make_fit(chains=chains)
    path = tmp_path / "fit ü.nc"
    fit.save(path)
    again = storage.load(path)
    for field in ("method", "model", "status", "seconds", "log_likelihood", "findings", "settings"):
        assert getattr(again, field) == getattr(fit, field), field
    np.testing.assert_equal(dataclasses.asdict(again.evidence), dataclasses.asdict(fit.evidence))
    np.testing.assert_array_equal(again.objective, fit.objective)
    assert list(again.parameters) == list(fit.parameters)
    for site, value in fit.parameters.items():
        np.testing.assert_array_equal(again.parameters[site], value)
        assert again.parameters[site].dtype == value.dtype
        np.testing.assert_array_equal(draws(again)[site], draws(fit)[site])
    assert again.data.groups == fit.data.groups
    for group in fit.data.children:
        xr.testing.assert_identical(again.data[group].to_dataset(), fit.data[group].to_dataset())
        for name, variable in fit.data[group].data_vars.items():
            assert again.data[group][name].dtype == variable.dtype
    assert again.data.attrs["note"] == "größer"


@pytest.mark.parametrize(
    "model",
    [
        GaussianMixture(3, covariance="tied"),
        GaussianMixture(2, scale=(1.0, 0.5)),
        BernoulliMixture(2, probs_concentration=(2.0, 1.0)),
        BayesianLinearRegression(intercept=False),
    ],
)
def test_built_in_models_are_made_again(tmp_path, model):
    make_fit(model).save(tmp_path / "fit.nc")
    assert storage.load(tmp_path / "fit.nc").model == model


def test_a_program_is_named_and_supplied(tmp_path):
    def my_program(x):
        return x

    make_fit(my_program).save(tmp_path / "fit.nc")
    without = storage.load(tmp_path / "fit.nc")
    with pytest.raises(InputError, match=r"my_program.*model="):
        without.model(1)
    assert storage.load(tmp_path / "fit.nc", model=my_program).model is my_program
    without.save(tmp_path / "again.nc")  # and it can be passed on
    assert storage.load(tmp_path / "again.nc").model == without.model


def test_an_empty_objective_and_no_statistics(tmp_path):
    fit = dataclasses.replace(make_fit(), objective=np.zeros(0), data=build({"means": np.zeros((1, 1, 2))}))
    fit.save(tmp_path / "fit.nc")
    again = storage.load(tmp_path / "fit.nc")
    assert again.objective.shape == (0,)
    assert again.data["posterior"]["means"].shape == (1, 1, 2)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_what_is_not_a_fit_is_refused_in_words(tmp_path, damage):
    path = tmp_path / "fit.nc"
    make_fit().save(path)
    whole = path.read_bytes()
    if damage == "other":
        xr.Dataset({"a": ("b", [1.0])}).to_netcdf(path, engine="h5netcdf")
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(InputError, match=r"fit\.nc"):
        storage.load(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no file"):
        storage.load(tmp_path / "none.nc")
    with pytest.raises(InputError, match="does not exist"):
        make_fit().save(tmp_path / "nowhere" / "fit.nc")
    with pytest.raises(InputError, match="folder"):
        make_fit().save(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "fit.nc"
    make_fit().save(path)
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        make_fit().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["fit.nc"]


def test_a_killed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "fit.nc"
    make_fit().save(path)
    before = path.read_bytes()
    script = f"""
        import os, signal, importlib.util
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("test_storage", {str(Path(__file__))!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        module.make_fit().save({str(path)!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert path.read_bytes() == before
    storage.load(path)
