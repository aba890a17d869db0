"""A comparison in the terminal: the verdict, the methods, the parameters."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from triptych.inference.verdict import title

__all__ = ["as_tables", "as_text"]

MOST_ROWS = 30  # parameters shown; the rest are in the frames and in the report
WIDTH = 120


def as_text(comparison: Any) -> str:
    """Give the tables as plain text, for `print`."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH, color_system=None, legacy_windows=False).print(as_tables(comparison))
    return buffer.getvalue().rstrip()


def as_tables(comparison: Any) -> Any:
    """Give the sentences and two tables as one rich renderable."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(f"• {sentence}") for sentence in comparison.sentences]
    return Group(*lines, _methods(comparison), _parameters(comparison))


def _methods(comparison: Any) -> Any:
    from rich.table import Table

    table = Table(title="Methods (nats; seconds)", title_justify="left")
    table.add_column("")
    columns = {
        "log p(x|θ̂)": ("log_likelihood", 2),
        "ELBO": ("elbo", 2),
        "KL(q‖p)": ("kl", 2),
        "log p(x)": ("log_evidence", 2),
        "elpd": ("elpd", 1),
        "R-hat": ("r_hat", 3),
        "ESS": ("ess", 0),
        "k-hat": ("k_hat", 2),
        "compile": ("compile", 1),
        "run": ("run", 1),
    }
    table.add_column("status")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name, row in comparison.methods.iterrows():
        cells = [_number(row[column], digits) for column, digits in columns.values()]
        table.add_row(title(str(name)), row["status"].lower().replace("_", " "), *cells)
    return table


def _parameters(comparison: Any) -> Any:
    from rich.table import Table

    frame, reference = comparison.parameters, comparison.reference
    names = list(dict.fromkeys(frame["parameter"]))
    caption = None
    if len(names) > MOST_ROWS:
        worst = frame.groupby("parameter")["wasserstein"].max().reindex(names).fillna(-1.0)
        chosen = set(worst.sort_values(ascending=False, kind="stable").index[:MOST_ROWS])
        caption = f"The {MOST_ROWS} parameters furthest from the reference, of {len(names)}."
        names = [name for name in names if name in chosen]
    methods = [reference, *(name for name in comparison.methods.index if name != reference)]
    table = Table(
        title=f"Parameters: mean ± sd, distance from {title(reference)} (Wasserstein-1, in its sds)",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    table.add_column("")
    for name in methods:
        table.add_column(title(name), justify="right")
        if name != reference:
            table.add_column("W₁", justify="right")
    rows = {(row["parameter"], row["method"]): row for row in frame.to_dict(orient="records")}
    for parameter in names:
        cells = []
        for name in methods:
            row = rows.get((parameter, name))
            cells.append(f"{row['mean']:.4g} ± {row['sd']:.2g}" if row else "–")
            if name != reference:
                cells.append(_number(row["wasserstein"], 2) if row else "–")
        table.add_row(parameter, *cells)
    return table


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"
