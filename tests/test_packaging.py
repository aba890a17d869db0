"""What is installed is what is in the tree: the list of packages is explicit, so it is compared."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import triptych

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "inference", "experiments")
SHIPPED = {".py", ".yaml", ".csv", ".gz", ".md", ".j2", ".css", ".js"}


def test_every_folder_with_code_is_a_listed_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    code = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")}
    packages = {"triptych." + ".".join(folder.relative_to(ROOT).parts) for folder in code}
    assert set(settings["packages"]) == packages | {"triptych"}
    assert set(settings["package-dir"]) == set(settings["packages"])


def test_the_version_is_the_installed_one() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert triptych.__version__ == settings["version"]


@pytest.mark.slow
def test_the_wheel_built_from_the_sdist_holds_the_tree(tmp_path: Path) -> None:
    # An export of what git would ship, so that nothing ignored or half-built slips into the comparison.
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tracked.returncode:
        pytest.skip("not a git checkout")
    source = tmp_path / "source"
    names = [name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    for name in names:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("triptych/")}
    tree = {
        f"triptych/{name}"
        for name in names
        if name.startswith(tuple(f"{folder}/" for folder in FOLDERS)) and Path(name).suffix in SHIPPED
    }
    assert packed == tree | {f"triptych/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
