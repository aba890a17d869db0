"""What pictures are made of: a program as a graph, EM's half-steps, packed numbers; and the gallery."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.experiments.report.graph import drawn, structure
from triptych.experiments.report.layout import arrange
from triptych.experiments.report.live import Chart, Line, embedded, packed
from triptych.experiments.report.staircase import half_steps
from triptych.inference.em.ledger import path
from triptych.models import GaussianMixture


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[str], dict[str, list[str]], dict[str, list[str]]]:
    """A random program: sites, of which each depends on some before it, in plates that may be nested."""
    sites = [f"s{i}" for i in range(draw(st.integers(1, 9)))]
    parents = {
        s: draw(st.lists(st.sampled_from(sites[:i]), unique=True)) if i else [] for i, s in enumerate(sites)
    }
    plates: dict[str, list[str]] = {"outer": [], "inner": [], "other": []}
    for site in sites:
        for plate in draw(st.sampled_from([[], ["outer"], ["outer", "inner"], ["other"]])):
            plates[plate].append(site)
    return sites, parents, {plate: held for plate, held in plates.items() if held}


@given(programs())
def test_a_site_stands_below_what_it_depends_on_and_inside_its_own_plates_only(
    program: tuple[list[str], dict[str, list[str]], dict[str, list[str]]],
) -> None:
    sites, parents, plates = program
    found = arrange(sites, parents, plates)
    assert set(found.places) == set(sites)
    assert len(set(found.places.values())) == len(sites)  # no two in one place
    for site, up in parents.items():
        assert all(found.places[one][1] < found.places[site][1] for one in up)
    assert sorted(box[0] for box in found.boxes) == sorted(plates)  # plates that nest are never broken
    for plate, left, right, top, bottom in found.boxes:
        inside = {s for s, (x, y) in found.places.items() if left < x < right and top < y < bottom}
        assert inside == set(plates[plate])


def test_the_graph_of_a_mixture_is_read_off_the_program() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    found = structure(GaussianMixture(2), (x,), {})
    assert found is not None
    assert set(found.sites) == {"weights", "means", "covariances", "z", "x"}
    assert set(found.parents["x"]) == {"means", "covariances", "z"}
    assert found.parents["z"] == ["weights"]
    assert set(found.plates["rows"]) == {"z", "x"}
    assert found.observed == {"x"}
    wicked = found._replace(
        sites=("<b>",), parents={}, distributions={"<b>": '"&'}, plates={"</svg>": ["<b>"]}
    )
    svg = drawn(wicked, 'a "graph" <here>')
    assert "<b>" not in svg
    assert svg.count("</svg>") == 1
    assert structure(lambda: 1 / 0, (), {}) is None


def test_the_gap_closes_at_the_e_step_and_opens_at_the_m_step(faithful: np.ndarray) -> None:
    start = {
        "weights": np.array([0.5, 0.5]),
        "means": faithful[[0, 1]],
        "covariances": np.stack([np.cov(faithful.T)] * 2),
    }
    found = path(GaussianMixture(2), start, faithful, steps=4, objective="mle")
    time, evidence, bound = half_steps(found)
    gap = evidence - bound
    np.testing.assert_array_equal(time, np.arange(9) / 2)
    np.testing.assert_allclose(gap[::2], 0, atol=1e-9 * abs(evidence[0]))  # after every E-step
    np.testing.assert_allclose(gap[1::2], found.kl_after_m, atol=1e-9 * abs(evidence[0]))
    assert np.all(gap[1::2] > 1e-3)
    assert np.all(np.diff(bound) > 0)  # every half-step of EM raises the bound


def test_numbers_reach_the_page_as_json_that_ends_no_script() -> None:
    assert packed(np.array([1.0, 2.0, 3.0, np.nan]), 1.0, 3.0) == [0, 500, 999, None]
    text = embedded({"name": "</script><!--&'", "x": [1.0]})
    assert not re.search("[<>&']", text)
    assert json.loads(text)["name"] == "</script><!--&'"
    with pytest.raises(ValueError, match="JSON"):
        embedded([float("nan")])
    line = Line("</script>", "red", np.arange(3), np.array([1.0, np.inf, 0.1234567891]))
    chart = json.loads(Chart("x", "y", (line,), "text").json)
    assert chart["lines"] == [
        {"name": "</script>", "colour": "red", "x": [0, 1, 2], "y": [1, None, 0.1234568]}
    ]


@pytest.fixture
def gallery() -> ModuleType:
    found = importlib.util.spec_from_file_location(
        "gallery", Path(__file__).parents[2] / "docs" / "gallery.py"
    )
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_gallery_keeps_no_page_that_is_large_or_names_a_place(
    gallery: ModuleType, tmp_path: Path
) -> None:
    page = '<p class="subtitle">A model</p><p class="lead loudly" role="alert">Not &amp; never.</p>'
    assert gallery.unfit(page) == ""
    assert "names a place" in gallery.unfit(f"{page} {Path.home()}/data.csv")
    assert "MB" in gallery.unfit("x" * 5_000_001)
    (tmp_path / "digits.html").write_text(page)
    (tmp_path / "old_faithful.html").write_text(page)
    index = gallery.index(tmp_path)
    assert index.index("old_faithful.html") < index.index("digits.html")
    assert "A model. *Not & never.*" in index
