"""The page of a run: whole, offline, escaped, and loud about what did not work."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from triptych.experiments.report.page import write_report
from triptych.inference.arguments import record
from triptych.inference.fit import Evidence, Fit, Seconds
from triptych.inference.posterior import build
from triptych.inference.status import Finding, Status
from triptych.models import BayesianLinearRegression, BernoulliMixture, GaussianMixture, InputError

METHODS = ("em", "svi", "mcmc")


def fit_of(
    method: str,
    model: Any,
    point: Mapping[str, np.ndarray],
    spread: float,
    data: Mapping[str, np.ndarray],
    **more: Any,
) -> Fit:
    """Make a fit by hand: Gaussian draws around a point, the shape of its sites kept."""
    rng = np.random.default_rng(len(method))
    chains, draws = (4, 100) if method == "mcmc" else (1, 400)
    shapes = {"em": 0.9, "svi": 0.6, "mcmc": 1.0}
    posterior = {}
    for site, given in point.items():
        value = np.asarray(given, dtype=float)
        noise = shapes[method] * spread * rng.normal(size=(chains, draws, *value.shape))
        scale = np.maximum(np.abs(value), 0.05)
        if site == "covariances":
            noise = (noise + np.swapaxes(noise, -1, -2)) / 2 if value.ndim == 3 else noise
            noise = 0.2 * noise
        if site == "probs":
            posterior[site] = np.clip(value + 0.02 * noise, 0.001, 0.999)
        elif site in ("lambda", "beta"):
            posterior[site] = value * np.exp(noise)  # precisions
        else:
            posterior[site] = value + scale * noise
        if site == "weights":
            posterior[site] = np.abs(posterior[site]) / np.abs(posterior[site]).sum(axis=-1, keepdims=True)
    steps = {
        "em": -1130.0 - 60 * np.exp(-0.7 * np.arange(30)),
        "svi": -1150 - 300 * np.exp(-0.004 * np.arange(3000)) + 3 * rng.normal(size=3000),
        "mcmc": np.zeros(0),
    }
    observed = {name: value for name, value in data.items() if name != "X"}
    constant, attrs = record(model, list(data.values()), {}, observed)
    tree = build(
        posterior, observed_data=observed, constant_data=constant, attrs=attrs,
        sample_stats={"lp": rng.normal(size=(chains, draws))},
    )  # fmt: skip
    if method == "em":
        import xarray as xr

        tree["restarts"] = xr.DataTree(
            xr.Dataset(
                {
                    "objective": ("restart", -1130.0 - np.array([0, 0, 0.0, 0.001, 3.2, 3.2, 17, 0, 55, 0])),
                    "start": ("restart", ["kmeans"] * 5 + ["rows"] * 3 + ["random"] * 2),
                    "steps": ("restart", np.arange(10) + 12),
                    "collapsed": ("restart", np.arange(10) == 8),
                }
            )
        )
    return Fit(
        method=method,
        model=model,
        status=Status.CONVERGED,
        seconds=Seconds(0.8, 0.02 if method == "em" else 3.1),
        parameters={site: np.asarray(value, dtype=float) for site, value in point.items()},
        log_likelihood=-1130.264,
        objective=steps[method],
        data=tree,
        evidence=Evidence(elbo=-1149.2 if method == "svi" else None),
        **more,
    )


def write_run(
    directory: Path,
    config: dict[str, Any],
    fits: Mapping[str, Fit],
    columns: list[str],
    failed: Mapping[str, str] | None = None,
) -> Path:
    """Write what a run leaves, but for the page."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    entries: dict[str, Any] = {}
    for name, fit in fits.items():
        fit.save(directory / f"{name}.nc")
        entries[name] = {
            "method": fit.method,
            "status": fit.status.name.lower(),
            "ok": fit.status.ok,
            "message": fit.status.value,
            "findings": [list(finding) for finding in fit.findings],
            "file": f"{name}.nc",
        }
    for name, message in (failed or {}).items():
        entries[name] = {"method": name, "status": "failed", "ok": False, "message": message, "file": None}
    manifest = {
        "name": config["name"], "seed": 0, "precision": "float64", "created": "2026-11-20T10:00:00+00:00",
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "platform": {"system": "Linux", "backend": "cpu"},
        "data": {"name": config["data"].get("name"), "sha256": "ab" * 32, "rows": 272, "columns": columns},
        "fits": entries, "reference": "mcmc" if "mcmc" in entries else next(iter(entries)),
        "seconds": {"import": 2.1, "total": 14.2},
    }  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def config_of(name: str, model: dict[str, Any], data: dict[str, Any], **fits: Any) -> dict[str, Any]:
    fits = fits or {method: {"method": method} for method in METHODS}
    return {"name": name, "seed": 0, "data": data, "model": model, "fits": fits}


FAITHFUL_POINT = {
    "weights": np.array([0.36, 0.64]),
    "means": np.array([[2.04, 54.5], [4.29, 79.97]]),
    "covariances": np.array([[[0.069, 0.435], [0.435, 33.7]], [[0.17, 0.94], [0.94, 36.05]]]),
}


def make_faithful_run(directory: Path, faithful: np.ndarray, **more: Any) -> Path:
    """Make a run of Old Faithful from fits made by hand."""
    model = GaussianMixture(2)
    fits = {m: fit_of(m, model, FAITHFUL_POINT, 0.05, {"x": faithful}, **more) for m in METHODS}
    config = config_of(
        "old-faithful",
        {"name": "gaussian_mixture", "components": 2, "covariance": "full"},
        {"name": "old_faithful"},
    )
    return write_run(directory, config, fits, ["eruptions", "waiting"])


@pytest.fixture(scope="module")
def faithful_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of one run for all the tests that only read it."""
    data = Path(__file__).parents[2] / "experiments" / "data" / "old_faithful.csv"
    faithful = np.loadtxt(data, delimiter=",", skiprows=1)
    return write_report(make_faithful_run(tmp_path_factory.mktemp("run"), faithful))


def galaxies_run(directory: Path, x: np.ndarray) -> Path:
    point = {
        "weights": np.array([0.1, 0.85, 0.05]),
        "means": np.array([[9710.0], [21400.0], [33044.0]]),
        "covariances": np.array([[[180_000.0]], [[4.9e6]], [[850_000.0]]]),
    }
    model = GaussianMixture(3)
    fits = {method: fit_of(method, model, point, 0.03, {"x": x[:, None]}) for method in METHODS}
    config = config_of("galaxies", {"name": "gaussian_mixture", "components": 3}, {"name": "galaxies"})
    return write_run(directory, config, fits, ["velocity"])


def iris_run(directory: Path, table: np.ndarray) -> Path:
    x, target = table[:, :4], table[:, 4]
    groups = [x[target == k] for k in range(3)]
    point = {
        "weights": np.full(3, 1 / 3),
        "means": np.array([g.mean(0) for g in groups]),
        "covariances": np.array([g.var(0) for g in groups]),
    }
    model = GaussianMixture(3, covariance="diagonal")
    fits = {method: fit_of(method, model, point, 0.04, {"x": x}) for method in METHODS}
    config = config_of(
        "iris", {"name": "gaussian_mixture", "components": 3, "covariance": "diagonal"}, {"name": "iris"}
    )
    names = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    return write_run(directory, config, fits, names)


def digits_run(directory: Path, table: np.ndarray) -> Path:
    x, target = (table[:, :64] > 7).astype(float), table[:, 64]
    model = BernoulliMixture(10)
    point = {
        "weights": np.full(10, 0.1),
        "probs": np.clip([x[target == k].mean(0) for k in range(10)], 0.02, 0.98),
    }
    fits = {method: fit_of(method, model, point, 0.1, {"x": x}) for method in ("em", "mcmc")}
    config = config_of(
        "digits",
        {"name": "bernoulli_mixture", "components": 10},
        {"name": "digits", "threshold": 7},
        em={"method": "em"},
        mcmc={"method": "mcmc"},
    )
    return write_run(directory, config, fits, [f"p{i}" for i in range(64)])


def carcinoma_run(directory: Path, table: np.ndarray) -> Path:
    x = (table == 2).astype(float)
    point = {
        "weights": np.array([0.5, 0.5]),
        "probs": np.array(
            [[0.06, 0.22, 0.03, 0.06, 0.12, 0.02, 0.1], [0.9, 0.98, 0.7, 0.5, 0.95, 0.35, 0.97]]
        ),
    }
    model = BernoulliMixture(2)
    fits = {method: fit_of(method, model, point, 0.5, {"x": x}) for method in METHODS}
    config = config_of(
        "carcinoma", {"name": "bernoulli_mixture", "components": 2}, {"name": "carcinoma", "equals": 2}
    )
    return write_run(directory, config, fits, list("ABCDEFG"))


def diabetes_run(directory: Path, table: np.ndarray) -> Path:
    X, y = table[:, :10], table[:, 10]
    X = (X - X.mean(0)) / X.std(0)
    w = np.linalg.lstsq(np.c_[X, np.ones(len(X))], y, rcond=None)[0]
    point = {"w": w[:10], "lambda": np.array(0.002), "beta": np.array(0.00034), "intercept": np.array(w[10])}
    model = BayesianLinearRegression()
    fits = {method: fit_of(method, model, point, 0.1, {"X": X, "y": y}) for method in METHODS}
    config = config_of(
        "diabetes",
        {"name": "bayesian_linear_regression"},
        {"name": "diabetes", "target": "target", "standardize": True},
    )
    return write_run(directory, config, fits, ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"])


RUNS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "galaxies": galaxies_run,
    "iris": iris_run,
    "digits": digits_run,
    "carcinoma": carcinoma_run,
    "diabetes": diabetes_run,
}


class Page(HTMLParser):
    """What a browser would make of the page: its tags, the text, the addresses it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    @property
    def said(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.text))


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_has_the_verdict_first_then_the_panels(faithful_page: Path) -> None:
    assert faithful_page.name == "report.html"
    page = read(faithful_page)
    found = page.said
    parts = (
        "SVI understates the sd",
        "Three panels of one posterior",
        "The data and the fitted components",
        "The numbers",
        "Config and receipt",
    )
    places = [found.index(part) for part in parts]
    assert places == sorted(places)
    assert "component 1, waiting" in found
    assert "−1\u202f130.26" in found
    assert "6 of 10 starts came to the best optimum" in found
    # a symmetric matrix is shown once
    assert "covariances[0,0,1]" in found
    assert "covariances[0,1,0]" not in found


def test_the_page_asks_for_nothing_and_every_picture_has_words(faithful_page: Path) -> None:
    page = read(faithful_page)
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "data"):
            address = attributes.get(name) or ""
            assert address.startswith(("#", "data:")) or not address, address
        if tag == "svg":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"] or "") > 20
        if tag == "img":
            assert attributes["alt"]
    css = faithful_page.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in css
    assert "@import" not in css
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert faithful_page.stat().st_size < 5_000_000


def test_names_from_data_and_config_do_nothing(tmp_path: Path, faithful: np.ndarray) -> None:
    bad = "<script>alert(1)</script>"
    model = GaussianMixture(2)
    fits = {
        method: fit_of(method, model, FAITHFUL_POINT, 0.05, {"x": faithful}, findings=(Finding("CODE", bad),))
        for method in METHODS
    }
    config = config_of(bad, {"name": "gaussian_mixture", "components": 2}, {"path": f"{bad}.csv"})
    run = write_run(tmp_path / "run", config, fits, [bad, '"onload="alert(2)'])
    path = write_report(run)
    page = read(path)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert sum(attributes.get("type") != "application/json" for attributes in scripts) == 1  # the page's own
    assert not [a for _, a in page.tags if "onload" in a]
    assert bad not in path.read_text(encoding="utf-8")
    assert html.escape(bad) in path.read_text(encoding="utf-8")


def test_a_fit_that_failed_or_ended_badly_is_said_first_and_loud(
    tmp_path: Path, faithful: np.ndarray
) -> None:
    import dataclasses

    model = GaussianMixture(2)
    fits = {m: fit_of(m, model, FAITHFUL_POINT, 0.05, {"x": faithful}) for m in ("em", "mcmc")}
    fits["mcmc"] = dataclasses.replace(fits["mcmc"], status=Status.NOT_MIXED)
    config = config_of("run", {"name": "gaussian_mixture", "components": 2}, {"name": "old_faithful"})
    run = write_run(
        tmp_path / "run", config, fits, ["eruptions", "waiting"], failed={"svi": "out of <memory>"}
    )
    page = read(write_report(run))
    alerts = [a for tag, a in page.tags if a.get("role") == "alert"]
    assert len(alerts) == 1
    first = page.said.split("Not to be relied on as it stands: ")[1].split(".")[0]
    assert first.startswith("MCMC, the reference, has not converged (not mixed")
    assert "SVI failed" in page.said.split("Not to be relied on")[1].split("is not to be")[0]
    assert page.said.index("MCMC, the reference, is not to be relied on") < page.said.index("Two panels")
    assert page.said.index("SVI failed. out of <memory>") < page.said.index("Two panels")
    assert page.said.count("The chains disagree") == 1  # in the box, not again as a sentence
    assert "not mixed" in page.said


def test_a_run_in_which_everything_failed_still_has_a_page(tmp_path: Path) -> None:
    config = config_of("run", {"name": "gaussian_mixture", "components": 2}, {"name": "old_faithful"})
    run = write_run(tmp_path / "run", config, {}, ["a", "b"], failed={"em": "No.", "mcmc": "Neither."})
    said = read(write_report(run)).said
    assert "EM failed. No." in said
    assert "panels of one posterior" not in said


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("galaxies", "diabetes") else pytest.mark.slow) for n in RUNS],
)
def test_every_kind_of_run_has_its_pictures(
    name: str, tmp_path: Path, data_path: Callable[[str], Path]
) -> None:
    table = np.loadtxt(data_path(name), delimiter=",", skiprows=1)
    path = write_report(RUNS[name](tmp_path / name, table))
    page = read(path)
    assert path.stat().st_size < 5_000_000
    wanted = {
        "galaxies": "velocity",
        "iris": "The 3 columns in which the components differ most",
        "digits": "these are the 24 whose means differ most",
        "carcinoma": "How probable a 1 is",
        "diabetes": "The coefficients",
    }
    assert wanted[name] in page.said
    if name == "digits":
        images = [a for tag, a in page.tags if tag == "img"]
        assert len(images) == 20
        assert all(re.match(r"(em|mcmc), component \d, weight", a["alt"] or "") for a in images)
    if name == "iris":
        assert "Known classes by likeliest component" in page.said


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml is missing"):
        write_report(tmp_path)


def test_the_page_is_written_whole_or_not_at_all(
    faithful_page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = faithful_page.read_bytes()

    def fail(*args: object) -> str:
        raise RuntimeError

    monkeypatch.setattr("triptych.experiments.report.page.gather", lambda *_: None)
    monkeypatch.setattr("triptych.experiments.report.page.render", fail)
    with pytest.raises(RuntimeError):
        write_report(faithful_page.parent)
    assert faithful_page.read_bytes() == before
    assert not list(faithful_page.parent.glob("*.part"))


def test_numbers_are_rounded_to_what_they_are_worth() -> None:
    from triptych.experiments.report.numbers import fixed, number, seconds

    assert [number(v) for v in (0.0, 1234.5, -0.012345, 1e9, float("nan"), None, float("-inf"))] == [
        "0", "1\u202f234", "−0.0123", "1.00e9", "–", "–", "−∞",
    ]  # fmt: skip
    assert fixed(-0.0001, 2) == "0.00"
    assert fixed(-1130.264, 2) == "−1\u202f130.26"
    assert [seconds(v) for v in (0.0001, 0.02, 3.14159, 600)] == ["< 1 ms", "20 ms", "3.1 s", "10.0 min"]
