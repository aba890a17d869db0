"""What the command shows in the terminal: bars while it works, tables when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from triptych.experiments.beside_table import beside_tables
from triptych.experiments.calibration import Calibrated
from triptych.experiments.candidates import Beside
from triptych.experiments.registry import DATASETS, METHODS, MODELS, shipped_configs
from triptych.experiments.run import Outcome
from triptych.experiments.sweep import Sweep
from triptych.experiments.verify import Verdict

__all__ = [
    "Bars",
    "Cells",
    "show_beside",
    "show_calibration",
    "show_choices",
    "show_outcome",
    "show_sweep",
    "show_verdict",
]


def _console() -> Console:
    """Give a console on today's stdout; piped output is not folded at 80 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


class Bars:
    """A bar a fit, on stderr so that stdout holds only results; only lines where it is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.finished: list[str] = []
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, name: str, method: str) -> None:
        """Open the bar of a fit; it moves to and fro until the fit tells how far it is."""
        self._tasks[name] = self._bars.add_task(f"{escape(name)} ({method})", total=None, said="")

    def step(self, name: str, done: int, total: int, value: Any = None) -> None:
        """Move the bar of a fit."""
        if name in self._tasks:
            said = f"{value:.3f}" if isinstance(value, float) else escape(str(value or ""))
            self._bars.update(self._tasks[name], completed=done, total=total, said=said)

    def end(self, name: str, entry: Mapping[str, Any], *, kept: bool) -> None:
        """Close the bar and leave a line."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        if entry["status"] != "failed":
            self.finished.append(name)
        seconds = entry["seconds"]["compile"] + entry["seconds"]["run"]
        took = "kept from the earlier run" if kept else f"{seconds:.1f} s"
        failed = entry["status"] == "failed"
        mark = "[green]✓[/]" if entry["ok"] else "[red]✗[/]" if failed else "[yellow]![/]"
        self.console.print(f"{mark} {escape(name)}: {_words(entry['status'])}, {took}")


class Cells:
    """A line a finished cell of a sweep, on stderr, and a spinner until the last has ended."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.finished: list[str] = []
        self._status = self.console.status("sweeping …")

    def __enter__(self) -> Cells:
        if self.console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def end(self, label: str, record: Mapping[str, Any], kept: bool) -> None:
        """Leave a line on how a cell ended."""
        if record["ok"]:
            self.finished.append(label)
        mark = "[green]✓[/]" if record["ok"] else "[red]✗[/]"
        took = "kept from the earlier sweep" if kept else f"{record['seconds']:.1f} s"
        said = f": {escape(record['message'])}" if record["message"] else ""
        self.console.print(f"{mark} {escape(label)}, {took}{said}", soft_wrap=True)


def show_beside(found: Beside) -> None:
    """Show runs side by side: the answer, the runs, and fit by fit what each is worth."""
    for part in beside_tables(found):
        _console().print(part, soft_wrap=isinstance(part, str))


def show_sweep(swept: Sweep) -> None:
    """Show what failed in a sweep, and where the results are."""
    console = _console()
    failed = [label for label, record in swept.records.items() if not record["ok"]]
    if failed:
        tell = f"{len(failed)} of {len(swept.records)} runs failed; the same command tries them again."
        console.print(f"[red]{tell}[/]")
    page = swept.directory / "sweep.html"
    console.print(f"Sweep: {page if page.is_file() else swept.directory}", soft_wrap=True)


def show_outcome(outcome: Outcome) -> None:
    """Show the comparison, what must be known about it, where the time went, and where the report is."""
    console = _console()
    manifest = outcome.manifest
    if outcome.comparison is not None:
        console.print(outcome.comparison)
    for name, entry in manifest["fits"].items():
        if entry["status"] == "failed":
            console.print(f"[red]{escape(name)} failed:[/] {escape(entry['message'])}")
        elif not entry["ok"]:
            console.print(f"[yellow]Warning, {escape(name)}:[/] {escape(entry['message'])}")
        for code, text in entry["findings"]:
            if code.lower() == entry["status"]:
                continue
            console.print(f"[yellow]{escape(name)}[/] {escape(f'[{code}]')} {escape(text)}")
    console.print(escape(_times(manifest)), soft_wrap=True)
    told = {f"{name}: {e['message']}" for name, e in manifest["fits"].items() if e["status"] == "failed"}
    for line in outcome.trouble:
        if line not in told:
            console.print(f"[red]Could not be made:[/] {escape(line)}")
    if len(outcome.kept) == len(manifest["fits"]):
        console.print("Nothing had changed: every fit was kept, and the page was written again.")
    elif outcome.kept:
        console.print(f"Kept from the earlier run: {escape(', '.join(outcome.kept))}.")
    page = outcome.directory / "report.html"
    console.print(f"Report: {page}" if page.is_file() else f"Results: {outcome.directory}", soft_wrap=True)


def show_calibration(found: Calibrated) -> None:
    """Say which fits are calibrated, what fails and how, and where the page is."""
    console = _console()
    for line in found.trouble:
        console.print(f"[red]Could not be calibrated:[/] {escape(line)}")
    for name, calibration in found.fits.items():
        for i, sentence in enumerate(calibration.sentences):
            mark = "" if calibration.ok or i else "[red]✗[/] "
            console.print(f"{mark}{escape(sentence if not i else f'  {sentence}')}", soft_wrap=True)
        for finding in calibration.findings:
            console.print(f"[yellow]{escape(name)}[/] {escape(f'[{finding.code}]')} {escape(finding.text)}")
    console.print(f"Page: {found.directory / 'calibration.html'}", soft_wrap=True)


def _times(manifest: Mapping[str, Any]) -> str:
    """Say where the time went: imports, then compilation and run of each fit."""
    parts = [f"import {manifest['seconds']['import']:.1f}"]
    for name, entry in manifest["fits"].items():
        seconds = entry["seconds"]
        parts.append(f"{name} compile {seconds['compile']:.1f} and run {seconds['run']:.1f}")
    beside = ", side by side" if any(e.get("side_by_side") for e in manifest["fits"].values()) else ""
    return f"Seconds: {'; '.join(parts)}; in all {manifest['seconds']['total']:.1f}{beside}."


def _words(status: str) -> str:
    return status.replace("_", " ")


def show_verdict(verdict: Verdict, directory: Path, tolerance: float) -> None:
    """Say whether a run came out the same, and if not, show where."""
    console = _console()
    changed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in verdict.versions.items())
    if verdict.ok:
        how = (
            "to the last bit"
            if verdict.largest == 0
            else f"within {tolerance:g} of the largest entry (largest difference {verdict.largest:.1e})"
        )
        console.print(f"{directory}: the same, {verdict.compared} quantities {how}.", soft_wrap=True)
    else:
        console.print(f"{directory}: not the same.", soft_wrap=True)
        table = Table()
        for heading in ("fit", "quantity", "recorded", "again", "relative"):
            table.add_column(heading, justify="left" if heading in ("fit", "quantity") else "right")
        for d in verdict.differences:
            size = "" if d.size is None else f"{d.size:.1e}"
            table.add_row(*map(escape, (d.fit, d.quantity, d.recorded, d.again, size)))
        console.print(table)
    if changed:
        console.print(f"Recorded with other versions: {escape(changed)}.")


def show_choices() -> None:
    """Show the models, methods, guides, data sets and shipped configs."""
    from triptych.experiments.autoguides import autoguides

    console = _console()
    console.print(_choices("Models (model.name)", {name: entry.text for name, entry in MODELS.items()}))
    console.print(_choices("Methods (fits.*.method)", {name: entry.text for name, entry in METHODS.items()}))
    console.print(_choices("Guides (fits.*.guide)", dict.fromkeys(autoguides(), "")))
    console.print(_choices("Data sets (data.name)", {n: d.text for n, d in DATASETS.items()}))
    configs = {name: _comment(path) for name, path in shipped_configs().items()}
    console.print(_choices("Shipped configs (triptych run NAME)", configs))


def _choices(title: str, choices: Mapping[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in choices.items():
        table.add_row(f" {name}", text)
    return table


def _comment(path: Path) -> str:
    """Give the first comment of a config, which says what it is."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
