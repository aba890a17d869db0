"""Runs side by side in the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from triptych.experiments.candidates import Beside, Candidate

__all__ = ["beside_tables"]


def beside_tables(found: Beside) -> list[str | Table]:
    """Give the answer, the notes, a table of the runs and one fit by fit, for a rich console."""
    look = "bold" if found.same_data else "bold red"
    said = [f"[{look}]{escape(found.first)}[/]", *(f"• {escape(note)}" for note in found.notes)]
    keys = list(dict.fromkeys(key for one in found.candidates for key in one.settings))
    runs = Table(title="Runs, the best first (nats)", title_justify="left")
    for head in ("run", *keys, "log p(x)", "log10 Bayes factor", "by"):
        runs.add_column(escape(head), justify="right" if head == "log p(x)" else "left", overflow="fold")
    for one in found.candidates:
        settings = [escape(one.settings[key]) for key in keys]
        nats = number(one.log_evidence, one.error, 2)
        runs.add_row(escape(one.run), *settings, nats, factor(one.factor), escape(one.how))
    return [*said, runs, _fits(found), *map(_verdict, found.candidates)]


def _verdict(one: Candidate) -> str:
    trouble = f"[red]not to be relied on ({escape(one.trouble)})[/]. " if one.trouble else ""
    return f"{escape(one.run)}: {trouble}{escape(one.verdict)}"


def _fits(found: Beside) -> Table:
    from triptych.inference.verdict import title  # late: it takes JAX and NumPyro with it

    table = Table(title="Fit by fit, against the best run under the same fit", title_justify="left")
    columns = {
        "log p(x)": lambda row: number(row.log_evidence, row.error, 2),
        "log10 Bayes factor": lambda row: factor(row.factor),
        "elpd (LOO)": lambda row: number(row.elpd, row.elpd_se, 1),
        "difference": lambda row: number(row.difference, row.difference_se, 1),
        "held out": lambda row: number(row.held_out, None, 2),
        "AIC": lambda row: number(row.aic, None, 1),
        "BIC": lambda row: number(row.bic, None, 1),
        "ICL": lambda row: number(row.icl, None, 1),
    }
    shown = {head: [cell(row) for row in found.rows] for head, cell in columns.items()}
    shown = {head: cells for head, cells in shown.items() if any(cell != "–" for cell in cells)}
    for head in ("run", "fit", *shown):
        table.add_column(head, justify="left" if head in ("run", "fit") else "right", overflow="fold")
    for i, row in enumerate(found.rows):
        name = escape(title(row.fit)) if row.ok else f"[red]{escape(title(row.fit))}[/]"
        table.add_row(escape(row.run), name, *(cells[i] for cells in shown.values()))
    return table


def number(value: float | None, error: float | None, places: int) -> str:
    """Write a number with its standard error."""
    if value is None:
        return "–"
    return f"{value:.{places}f}" if error is None else f"{value:.{places}f} ± {error:.{places}f}"


def factor(found: object) -> str:
    """Write a Bayes factor against the best, in words too."""
    log10 = getattr(found, "log10", None)
    if log10 is None:
        return "–"
    return "best" if log10 == 0 else f"{log10:.2f} ({getattr(found, 'words', '')})"
