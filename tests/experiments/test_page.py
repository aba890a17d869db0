"""The page in a headless Chromium: opened from disk, looked at closer, read aloud, on a phone, printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from triptych.experiments.report.page import write_report
from triptych.inference.arguments import record
from triptych.inference.fit import Bound, Evidence, Fit, Route, Seconds
from triptych.inference.posterior import build
from triptych.inference.status import Finding, Status
from triptych.models import GaussianMixture

pytestmark = pytest.mark.browser

BAD = "<script>alert(1)</script>"
WORSE = "</script><!--<script>window.hit = 1</script>"
WICKED = '" onload="window.hit = 1'
# Four fits: a page is not always of three.
METHODS = {"em": "em", "svi": "svi", WORSE: "gibbs", "mcmc": "mcmc"}


def fit_of(method: str, x: np.ndarray) -> Fit:
    """Make a fit by hand: two components, draws that are noise around them."""
    rng = np.random.default_rng(len(method))
    shape = (4, 80) if method in ("mcmc", "gibbs") else (1, 320)
    means = np.array([[2.04, 54.5], [4.29, 79.97]])
    weight = np.clip(0.36 + 0.03 * rng.normal(size=(*shape, 1)), 0.05, 0.95)
    posterior = {
        "weights": np.concatenate([weight, 1 - weight], axis=-1),
        "means": means + np.array([0.03, 0.6]) * rng.normal(size=(*shape, 2, 2)),
        "covariances": np.exp(0.1 * rng.normal(size=(*shape, 2, 1))) * np.array([0.1, 35.0]),
    }
    if method == "gibbs":
        posterior["means"][..., 1, 1] += 12  # far from where the others are
    model = GaussianMixture(2, covariance="diagonal")
    constant, attrs = record(model, [x], {}, {"x": x})
    climb = {"em": -1130 - 60 * np.exp(-0.7 * np.arange(30)), "svi": -1150 - 3 * rng.normal(size=500)}
    nats = {"em": -1168.0, "svi": -1168.2}.get(method)
    return Fit(
        method=method,
        model=model,
        status=Status.CONVERGED,
        seconds=Seconds(0.5, 0.1),
        parameters={site: values.mean(axis=(0, 1)) for site, values in posterior.items()},
        log_likelihood=-1130.3,
        objective=climb.get(method, np.zeros(0)),
        data=build(posterior, observed_data={"x": x}, constant_data=constant, attrs=attrs),
        evidence=Evidence(
            elbo=nats,
            elbo_error=0.02,
            routes=(Route("bridge sampling", -1167.9, 0.01),),
            bounds=tuple(Bound(k, nats + 0.1 * i, 0.02) for i, k in enumerate((1, 10, 100))) if nats else (),
        ),
        findings=(Finding("CODE", BAD),),
        settings={"latents": None, "e_step": "exact", "m_step": "auto", "objective": "map"},
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write one page, its names as wicked as they come."""
    directory = tmp_path_factory.mktemp("run")
    x = np.loadtxt(Path(__file__).parents[2] / "experiments/data/old_faithful.csv", delimiter=",", skiprows=1)
    entries: dict[str, Any] = {}
    for place, (name, method) in enumerate(METHODS.items()):
        fit_of(method, x).save(directory / f"{place}.nc")
        findings = [["CODE", BAD]]
        entries[name] = {
            "method": method,
            "status": "converged",
            "ok": True,
            "findings": findings,
            "file": f"{place}.nc",
        }
    fits = {name: {"method": method} for name, method in METHODS.items()}
    model = {"name": "gaussian_mixture", "components": 2, "covariance": "diagonal"}
    config = {"name": WORSE, "seed": 0, "data": {"path": f"{BAD}.csv"}, "model": model, "fits": fits}
    manifest = {
        "name": WORSE, "seed": 0, "versions": {"jax": BAD}, "fits": entries, "reference": "mcmc",
        "data": {"path": BAD, "sha256": "ab" * 32, "rows": 272, "columns": [BAD, WICKED]},
    }  # fmt: skip
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return write_report(directory)


def test_it_opens_from_disk_with_no_request_and_no_complaint(browser: Any, page: Path) -> None:
    assert page.stat().st_size < 5_000_000
    for script in (True, False):
        browser.open(page, script=script)
        asked = [
            e["params"]["request"]["url"]
            for e in browser.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        assert [address for address in asked if not address.startswith("data:")] == [page.as_uri()]
        complaints = (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        assert [event for event in browser.events if event.get("method") in complaints] == []


def test_names_do_nothing_and_are_read_as_they_are(browser: Any, page: Path) -> None:
    browser.open(page)
    assert browser.run("window.hit") is None
    assert browser.run("document.querySelector('h1').textContent") == WORSE
    assert BAD in browser.run(
        "[...document.querySelectorAll('#parameter option')].map((o) => o.textContent).join()"
    )
    assert (
        browser.run(
            "[...document.querySelectorAll('*')].filter((node) => node.hasAttribute('onload')).length"
        )
        == 0
    )
    assert browser.run(
        f"[...document.querySelectorAll('#closer th')].some((n) => n.textContent === {json.dumps(WORSE)})"
    )


def test_every_picture_has_words(browser: Any, page: Path) -> None:
    browser.open(page)
    words = "(n) => n.getAttribute('aria-label') || n.alt || ''"
    said = browser.run(f"[...document.querySelectorAll('svg, img')].map({words})")
    assert len(said) > 15
    assert min(map(len, said)) > 8
    assert browser.run("document.querySelectorAll('svg:not([role=img])').length") == 0
    assert browser.run("document.querySelector('#parameter').labels[0].textContent") == "Look closer at"
    ids = browser.run("[...document.querySelectorAll('[id]')].map((n) => n.id)")
    assert len(ids) == len(set(ids))


def test_a_parameter_can_be_chosen_by_keyboard_and_by_its_panel(browser: Any, page: Path) -> None:
    browser.open(page)
    spoken = "document.querySelector('#closer-density svg').getAttribute('aria-label')"
    assert browser.run(spoken).startswith("Posterior of weights[0].")
    browser.run("document.querySelector('#parameter').focus()")
    browser.key("ArrowDown")
    browser.wait(f"{spoken}.startsWith('Posterior of weights[1].')")
    assert browser.run("[...document.querySelectorAll('#closer tbody tr')].length") == len(METHODS)
    mean = float(browser.run("document.querySelector('#closer tbody td').textContent"))
    assert abs(mean - 0.64) < 0.02
    browser.run(
        "[...document.querySelectorAll('button.look')].find((b) => b.textContent === 'means[1,0]').click()"
    )
    assert browser.run(spoken).startswith("Posterior of means[1,0].")
    assert browser.run("document.querySelector('#parameter').selectedOptions[0].textContent").startswith(
        "means[1,0]"
    )
    # the chains of both samplers are shown
    assert browser.run("document.querySelectorAll('#closer-chains .fit').length") == 8


def test_hovering_tells_the_values_and_dragging_zooms(browser: Any, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('#closer-density').scrollIntoView({block: 'center'})")
    box = browser.run("document.querySelector('#closer-density svg').getBoundingClientRect().toJSON()")
    x, width, middle = box["x"], box["width"], box["y"] + box["height"] / 2
    browser.mouse("mouseMoved", x + width / 2, middle)
    told = browser.run(
        "[...document.querySelectorAll('#closer-density .tip .fit')].map((n) => n.textContent)"
    )
    assert len(told) == len(METHODS)
    shares = [float(text.split()[-3]) for text in told]
    assert all(2 < share < 98 for share in shares), told
    ticks = "[...document.querySelectorAll('#closer-density text')].map((n) => n.textContent).join()"
    hidden = "document.querySelector('#closer-density .all').hidden"
    before = browser.run(ticks)
    browser.mouse("mousePressed", x + width * 0.4, middle)
    browser.mouse("mouseMoved", x + width * 0.6, middle, buttons=1)
    browser.mouse("mouseReleased", x + width * 0.6, middle)
    assert browser.run(ticks) != before
    assert not browser.run(hidden)
    browser.run("document.querySelector('#closer-density svg').dispatchEvent(new MouseEvent('dblclick'))")
    assert browser.run(ticks) == before
    assert browser.run(hidden)


def test_a_fit_beyond_the_window_can_be_found(browser: Any, page: Path) -> None:
    browser.open(page)
    look = "[...document.querySelectorAll('button.look')].find((b) => b.textContent === 'means[1,1]')"
    browser.run(f"{look}.click()")
    button = "document.querySelector('#closer-density .all')"
    ticks = "[...document.querySelectorAll('#closer-density text')].map((n) => n.textContent)"
    assert browser.run(f"{button}.textContent") == "See all"
    assert not browser.run(f"{button}.hidden")
    assert "90" not in browser.run(ticks)
    browser.run(f"{button}.click()")
    assert "90" in browser.run(ticks)
    browser.run(f"{button}.click()")
    assert "90" not in browser.run(ticks)


def test_the_ledger_and_the_traces_are_alive_too(browser: Any, page: Path) -> None:
    browser.open(page)
    alive = browser.run(
        "[...document.querySelectorAll('figure.lively .chart svg')].map((n) => n.getAttribute('aria-label'))"
    )
    assert [text.split(":")[0] for text in alive] == ["Ledger of em", "Objective of em", "ELBO of svi"]
    ledger = "document.querySelector('figure.lively .chart')"
    browser.run(f"{ledger}.querySelector('svg').focus()")
    browser.key("ArrowRight")
    said = browser.run(f"{ledger}.querySelector('.unseen').textContent")
    numbers = {
        name: float(part.replace("\u202f", "").replace("−", "-"))
        for name, part in (text.rsplit(" ", 1) for text in said.split("; ")[1:])
    }
    gap = numbers["log p(x | θ)"] - numbers["ELBO(q, θ)"] - numbers["KL(q ‖ p)"]
    assert abs(gap) < 0.3, said  # to what is shown
    browser.key("Escape")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_follows_dark_and_light(browser: Any, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    paper, ink = (
        sum(map(float, browser.run(f"getComputedStyle(document.body).{which}").strip("rgb()").split(",")[:3]))
        / 3
        for which in ("backgroundColor", "color")
    )
    assert (paper < 60 and ink > 180) if dark else (paper > 200 and ink < 80)
    line = browser.run("getComputedStyle(document.querySelector('#closer-density .line')).stroke")
    assert line == ("rgb(47, 196, 150)" if dark else "rgb(0, 128, 93)")  # the reference's


def test_without_a_script_and_on_paper_the_pictures_stand(browser: Any, page: Path) -> None:
    tall = "(n) => n.getBoundingClientRect().height > 20"
    seen = f"[...document.querySelectorAll('figure > svg')].filter({tall}).length"
    every = "document.querySelectorAll('figure > svg').length"
    browser.open(page, script=False)
    assert browser.run(seen) == browser.run(every) > 10
    browser.open(page, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run(seen) == browser.run(every)
    assert browser.run("getComputedStyle(document.querySelector('#closer')).display") == "none"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.print().startswith(b"%PDF")
