"""Files of a run directory: written whole or not at all, and told apart by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from triptych.experiments.refusal import refuse

__all__ = ["digest", "file_digest", "read_json", "write_json", "write_text", "write_yaml"]


def write_text(path: Path, text: str) -> None:
    """Write a text file: to a temporary neighbour first, which then takes the name."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes a private file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people to read, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_yaml(path: Path, content: Any, comment: str = "") -> None:
    """Write YAML, its keys in the order given, whole or not at all."""
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    write_text(path, comment + body)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError : it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}.")
    except ValueError as error:
        refuse(f"{path} is not JSON ({error}); run the experiment again.")


def digest(content: Any) -> str:
    """Give the SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
