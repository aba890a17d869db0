"""The page of a calibration: which quantities fail and in which direction, then the ECDF bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import GRID, INK, MUTED, pens
from triptych.experiments.report.numbers import fixed, number
from triptych.experiments.report.template import fill
from triptych.experiments.store import write_text

__all__ = ["PAGE", "ecdf", "write_calibration"]

PAGE = "calibration.html"
MOST = 24  # pictures a fit, the worst first


def write_calibration(
    directory: Path, config: Mapping[str, Any], fits: Mapping[str, Any], trouble: Sequence[str] = ()
) -> Path:
    """Write `calibration.html`: one offline file, every name escaped.

    Parameters
    ----------
    directory : where to. config : the resolved config, plain. fits : name → `Calibration`.
    trouble : what could not be calibrated, in words.
    """
    drawn = pens({name: str(config["fits"][name]["method"]) for name in fits})
    page = fill(
        "calibrated.html.j2",
        name=config["name"],
        trouble=list(trouble),
        fits=[_fit(name, found, drawn[name]) for name, found in fits.items()],
        simulations=max((found.simulations for found in fits.values()), default=0),
        draws=max((found.draws for found in fits.values()), default=0),
    )
    write_text(directory / PAGE, page)
    return directory / PAGE


def _fit(name: str, found: Any, pen: canvas.Pen) -> dict[str, Any]:
    table = found.quantities.sort_values("p_value", kind="stable")
    rows = [
        {
            "name": str(quantity),
            "loud": not row["ok"],
            "cells": (
                number(row["p_value"], 2),
                str(row["direction"]) or "–",
                fixed(row["shift"], 2),
                fixed(row["width"], 2),
                number(row["asymmetry_p"], 2),
            ),
        }
        for quantity, row in table.iterrows()
    ]
    pictures = [
        {
            "name": str(quantity),
            "image": ecdf(found, str(quantity), pen),
            "said": _caption(table.loc[quantity]),
        }
        for quantity in table.index[:MOST]
    ]
    return {
        "name": name,
        "variable": pen.variable,
        "ok": found.ok,
        "lead": found.sentences[0],
        "sentences": list(found.sentences[1:]),
        "findings": [finding.text for finding in found.findings],
        "rows": rows,
        "pictures": pictures,
        "left_out": max(0, len(table) - MOST),
    }


def _caption(row: Any) -> str:
    said = f"p = {number(row['p_value'], 2)}"
    return f"{said}: {row['direction']}" if row["direction"] else said


def ecdf(found: Any, quantity: str, pen: canvas.Pen) -> Markup:
    """Draw the ECDF of the ranks less the diagonal, in the band that holds 95 % of calibrated methods.

    Above the band on the left and below it on the right: too many extreme ranks, the posterior is too narrow;
    above it throughout: the posterior lies too high.
    """
    z, gap, lower, upper = found.ecdf_difference(quantity)
    row = found.quantities.loc[quantity]
    text = f"Ranks of {quantity}: {_caption(row)}. ECDF less uniform, in its 95 % simultaneous band."
    with canvas.drawing(300, 180) as (figure, axes):
        axes.fill_between(z, lower, upper, step="post", color=GRID, alpha=0.6, linewidth=0)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.step(z, gap, where="post", color=pen.colour if row["ok"] else INK)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1])
        axes.set_xlabel("rank, as a share of the draws")
        axes.locator_params(axis="y", nbins=5)
        return canvas.picture(figure, text)
