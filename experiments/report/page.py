"""The page of a run: one HTML file that opens offline, on a phone, in dark and light, and on paper."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from triptych.experiments.report.canvas import pens
from triptych.experiments.report.chains import states
from triptych.experiments.report.checks import diagnostics
from triptych.experiments.report.evidence import evidence
from triptych.experiments.report.fitted import components, data_and_components, membership
from triptych.experiments.report.gather import Run, gather
from triptych.experiments.report.graph import model_graph
from triptych.experiments.report.headline import verdict
from triptych.experiments.report.journey import way_there
from triptych.experiments.report.missing import missing_cells
from triptych.experiments.report.numbers import fixed, seconds
from triptych.experiments.report.panels import coefficients, most_shown, parameter_names, three_panels
from triptych.experiments.report.predictive import data_again
from triptych.experiments.report.steps import steps_taken
from triptych.experiments.report.tables import fits_table, parameters_table
from triptych.experiments.report.template import beside_it, fill
from triptych.experiments.store import write_text
from triptych.inference.compare import Comparison
from triptych.inference.verdict import title

__all__ = ["render", "write_report"]

# Rows of the table of numbers beyond the ones drawn; the rest is in comparison.json.
MOST_PARAMETERS = 400
SECTIONS = (
    three_panels,
    data_and_components,
    missing_cells,
    components,
    coefficients,
    states,
    membership,
    data_again,
    evidence,
    diagnostics,
    way_there,
    steps_taken,
    model_graph,
)


def write_report(directory: Path, comparison: Comparison | None = None) -> Path:
    """Write `report.html` of a run from its saved results, whole or not at all.

    Parameters
    ----------
    directory : of the run, with config.yaml, manifest.json and one NetCDF file a fit.
    comparison : of its fits, where it is at hand; else it is made again from the saved fits.

    Returns
    -------
    The path of the page.

    Raises
    ------
    InputError : the directory holds no run, or a part of it cannot be read.
    """
    directory = Path(directory)
    page = render(gather(directory, comparison), directory)
    path = directory / "report.html"
    write_text(path, page)
    return path


def render(run: Run, directory: Path) -> str:
    """Give the page of a run as HTML; every name from the data and the config is escaped."""
    entries = run.manifest.get("fits", {})
    drawn = pens({name: str(entry.get("method", "")) for name, entry in entries.items()})
    fits, heads = fits_table(run)
    script = _script()
    return fill(
        "page.html.j2",
        script=Markup(script),
        # The page lets no other script run, whatever a name in the data says.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        name=run.manifest.get("name") or run.config.get("name") or directory.name,
        subtitle=_subtitle(run),
        pens=drawn,
        labels={name: title(name) for name in entries},
        details={name: _detail(run, name) for name in entries},
        reference=run.reference,
        shown=list(run.fits),
        verdict=verdict(run),
        fits=fits,
        heads=heads,
        side_by_side=_side_by_side(run),
        findings=_findings(run),
        sections=[section for make in SECTIONS if (section := make(run, drawn)) is not None],
        parameters=_parameters(run),
        target=run.manifest.get("data", {}).get("target") or "class",
        receipt=_receipt(run),
        versions=list(run.manifest.get("versions", {}).items()),
        hashes=_hashes(run),
        config=(directory / "config.yaml").read_text(encoding="utf-8"),
        directory=directory.name,
    )


def _script() -> str:
    """Give the page's own script: the scales, the charts, and what wires them to the page."""
    parts = (beside_it(name) for name in ("scales.js", "chart.js", "page.js"))
    return '(() => {\n"use strict";\n' + "".join(parts) + "})();"


def _subtitle(run: Run) -> str:
    model, data = run.config.get("model", {}), run.manifest.get("data", {})
    words = {
        "gaussian_mixture": "Gaussian mixture",
        "bernoulli_mixture": "Bernoulli mixture",
        "bayesian_linear_regression": "Bayesian linear regression",
    }
    what = words.get(run.model) or str(model.get("program", "a program"))
    if model.get("components") is not None:
        what += f" with {model['components']} component{'s' if model['components'] != 1 else ''}"
    if run.model == "gaussian_mixture" and model.get("scale") is None:
        what += f", {model.get('covariance', 'full')} covariance"
    source = data.get("name") or data.get("path") or "data"
    columns = data.get("columns")
    count = len(columns) if isinstance(columns, list) else columns
    size = f"{fixed(data['rows'], 0)} rows" if data.get("rows") is not None else ""
    size += f" × {count} column{'s' if count != 1 else ''}" if size and count else ""
    return f"{what} · {source}" + (f", {size}" if size else "")


def _detail(run: Run, name: str) -> str:
    settings = run.config.get("fits", {}).get(name, {})
    match settings.get("method"):
        case "svi":
            return str(settings.get("guide", ""))
        case "em" | "ascent":
            return str(settings.get("objective", "map")).upper()
        case "mcmc":
            return "NUTS"
        case "laplace" | "batch_and_match":
            return "Gaussian"
        case "pathfinder":
            return f"{settings.get('paths', '')} paths".strip()
        case "chees" | "gibbs":
            return f"{settings.get('chains', '')} chains".strip()
    return ""


def _findings(run: Run) -> list[dict[str, str]]:
    return [
        {"fit": name, "code": str(code), "text": str(text)}
        for name, entry in run.manifest.get("fits", {}).items()
        for code, text in entry.get("findings", ())
    ]


def _parameters(run: Run) -> Mapping[str, Any]:
    """Give the table of numbers: the parameters that are drawn, and the rest folded away."""
    if run.comparison is None:
        return {"shown": [], "rest": [], "left_out": 0}
    drawn, _ = most_shown(run)
    others = [name for name in parameter_names(run) if name not in set(drawn)]
    rest = others[:MOST_PARAMETERS]
    return {
        "shown": parameters_table(run, drawn),
        "rest": parameters_table(run, rest),
        "left_out": len(others) - len(rest),
    }


def _side_by_side(run: Run) -> bool:
    return any(entry.get("side_by_side") for entry in run.manifest.get("fits", {}).values())


def _receipt(run: Run) -> list[tuple[str, str]]:
    manifest = run.manifest
    data, spent = manifest.get("data", {}), manifest.get("seconds", {})
    where = manifest.get("platform", {})
    count = where.get("processors")
    parts = (where.get("system"), f"{count} processors" if count else None, where.get("device"))
    waits = "side by side; the waits for one another are in none's seconds"
    machine = ", ".join(str(part) for part in parts if part)
    rows = [
        ("made", manifest.get("created")),
        ("seed", manifest.get("seed")),
        ("precision", manifest.get("precision")),
        ("data", data.get("name") or data.get("path")),
        ("SHA-256", data.get("sha256")),
        ("import", seconds(spent.get("import"))),
        ("run in all", seconds(spent.get("total"))),
        ("fits", waits if _side_by_side(run) else None),
        ("machine", machine),
    ]
    return [(term, str(value)) for term, value in rows if value not in (None, "", "–")]


def _hashes(run: Run) -> list[tuple[str, str]]:
    """Give the SHA-256 of the arrays that were fitted, and of the file of every fit."""
    found = [("arrays, as fitted", run.manifest.get("data", {}).get("arrays_sha256"))]
    found += [(str(one.get("file")), one.get("sha256")) for one in run.manifest.get("fits", {}).values()]
    return [(term, str(value)) for term, value in found if value]
