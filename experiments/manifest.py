"""The manifest of a run, the receipt of its numbers: seed, versions, platform, data, how every fit ended."""

from __future__ import annotations

import datetime
import os
import platform
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from triptych.experiments.config import Config
from triptych.experiments.data import Data
from triptych.experiments.refusal import refuse
from triptych.experiments.settings import Settings
from triptych.experiments.store import digest, file_digest, read_json

__all__ = ["FILE", "failed_entry", "fingerprint", "fit_entry", "new_manifest", "read_manifest", "reusable"]

FILE = "manifest.json"
PACKAGES = ("triptych", "jax", "jaxlib", "numpyro", "numpy", "scipy", "xarray", "arviz-base", "arviz-stats")


def new_manifest(config: Config, data: Data, seconds_import: float) -> dict[str, Any]:
    """Start the manifest of a run, with no fit in it yet."""
    where = {"path": data.source} if config.data.path is not None else {"name": data.source}
    return {
        "name": config.name,
        "command": "triptych run config.yaml",
        "seed": config.seed,
        "precision": config.precision,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "platform": _platform(),
        "data": {
            **where,
            "sha256": data.sha256,
            "arrays_sha256": data.arrays_sha256,
            "rows": len(data.x),
            **({} if data.held_out is None else {"held_out": len(data.held_out[0])}),
            "columns": list(data.columns),
            "target": data.target_name,
        },
        "fits": {},
        "reference": config.reference,
        "seconds": {"import": seconds_import, "total": 0.0},
    }


def versions() -> dict[str, str]:
    """Give the versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def _platform() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        # Programs that an earlier run compiled are loaded, so `compile` seconds depend on this.
        "compilation_cache": getattr(jax.config, "jax_compilation_cache_dir", None) is not None,
    }


def fingerprint(config: Config, name: str, data: Data, program: Path | None) -> str:
    """Give the hash of all that decides the numbers of a fit; while it stays, the fit need not run again."""
    model = config.model.plain()
    if program is not None:  # what the file says counts, not where it lies
        model["program"] = [file_digest(program), str(model["program"]).rpartition(":")[2]]
    return digest(
        {
            "fit": [name, config.fits[name].plain()],
            "model": model,
            "data": data.arrays_sha256,
            "seed": config.seed,
            "precision": config.precision,
        }
    )


def fit_entry(fit: Any, file: Path, mark: str) -> dict[str, Any]:
    """Record a fit that ended, well or not so well."""
    return {
        "method": fit.method,
        "status": fit.status.name.lower(),
        "ok": bool(fit.status.ok),
        "message": fit.status.value,
        "findings": [list(finding) for finding in fit.findings],
        "seconds": {"compile": float(fit.seconds.compile), "run": float(fit.seconds.run)},
        "file": file.name,
        "sha256": file_digest(file),
        "fingerprint": mark,
    }


def failed_entry(settings: Settings, error: BaseException, mark: str) -> dict[str, Any]:
    """Record a fit that raised; the text names the error, the traceback is for whoever mends it."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return {
        "method": getattr(settings, "method", ""),
        "status": "failed",
        "ok": False,
        "message": text if name == "InputError" else f"{name}: {text}",
        "findings": [],
        "seconds": {"compile": 0.0, "run": 0.0},
        "file": None,
        "fingerprint": mark,
        "traceback": "".join(traceback.format_exception(error)),
    }


def reusable(entry: dict[str, Any] | None, mark: str, directory: Path) -> bool:
    """Tell whether a recorded fit still stands: same fingerprint, and its file whole and untouched."""
    if not entry or entry.get("fingerprint") != mark or not entry.get("file"):
        return False
    file = directory / entry["file"]
    return file.is_file() and file_digest(file) == entry.get("sha256")


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a run directory.

    Raises
    ------
    InputError : the directory is not there or holds no run.
    """
    if not directory.is_dir():
        refuse(f"There is no directory {directory}; `triptych run CONFIG` makes one.")
    if not (directory / FILE).is_file():
        refuse(f"{directory} holds no {FILE}, so it is no run directory; `triptych run CONFIG` makes one.")
    found = read_json(directory / FILE)
    if not isinstance(found, dict) or not isinstance(found.get("fits"), dict):
        refuse(f"{directory / FILE} is not the manifest of a run; run the experiment again.")
    return found
