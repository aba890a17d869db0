"""What has been measured, a JSON line a job, so that a run that is cut off loses nothing.

A line counts for as long as the code, the versions and the machine are those that it was measured with.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from harness import Row, Share, as_row

__all__ = ["Ledger", "machine", "versions"]

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "triptych",
    "jax",
    "jaxlib",
    "numpyro",
    "blackjax",
    "numpy",
    "scikit-learn",
    "pomegranate",
    "torch",
    "stepmix",
    "pymc",
    "nutpie",
)


def versions(packages: Sequence[str] = PACKAGES) -> str:
    """Name the packages that are installed, with their versions."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def machine() -> str:
    """Say what the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = named[0] if named else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Python {platform.python_version()}"


def fingerprint() -> str:
    """Give the hash of all code whose speed is measured, comments and docstrings left out."""
    found = hashlib.sha256()
    for folder in ("models", "inference", "experiments"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            found.update(str(file.relative_to(ROOT)).encode() + statements(file.read_text(encoding="utf-8")))
    return found.hexdigest()[:16]


def statements(source: str) -> bytes:
    """Give a module's syntax tree as text, without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree).encode()


class Ledger:
    """The file of what has been measured: job → its record, the last one of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = {"code": fingerprint(), "machine": machine(), "versions": versions()}
        self.records: dict[str, dict[str, Any]] = {}
        self.stale: set[str] = set()
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the line that was being written when the machine stopped
                continue
            current = all(record.get(name) == value for name, value in self.stamp.items())
            (self.stale.discard if current else self.stale.add)(record["name"])
            if current:
                self.records[record["name"]] = record
            else:
                self.records.pop(record["name"], None)

    def add(self, name: str, rows: Sequence[Row | Share], error: str, spent: float) -> None:
        """Append what a job gave, or why it gave nothing."""
        record = {"name": name, "rows": [dataclasses.asdict(row) for row in rows], "error": error}
        record |= {"seconds": round(spent, 1)} | self.stamp
        self.records[name] = record
        self.stale.discard(name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes() if self.path.is_file() else b""
        cut = bool(before) and not before.endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if cut else "") + json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def forget(self, names: Collection[str]) -> None:
        """Drop the records of some jobs, from the file too."""
        for name in names:
            self.records.pop(name, None)
        text = "".join(json.dumps(record) + "\n" for record in self.records.values())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(self.path)

    def done(self, name: str) -> bool:
        """Whether a job has its rows; one that failed is tried again."""
        return bool(self.records.get(name, {}).get("rows"))

    def rows(self, names: Collection[str]) -> list[Row | Share]:
        """Give the rows of some jobs, in the order of the names."""
        return [as_row(row) for name in names for row in self.records.get(name, {}).get("rows", ())]

    def missing(self, names: Collection[str]) -> Mapping[str, str]:
        """Say which of some jobs gave no rows, and why."""
        why = {name: self.records[name]["error"] for name in names if name in self.records}
        old = "was measured with other code, versions or another machine"
        blank = {name: old if name in self.stale else "not run yet" for name in names}
        return {name: why.get(name) or blank[name] for name in names if not self.done(name)}
