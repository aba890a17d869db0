"""The Python in README and CONTRIBUTING runs as it stands, block after block."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKS = {
    "README.md": "assert svi.status.ok and Path('em.nc').is_file() and triptych.load('em.nc').method == 'em'",
    "CONTRIBUTING.md": """
import triptych
counts = np.random.default_rng(0).poisson(np.repeat([4.0, 30.0], 100)).astype(float)
model = PoissonMixture(2)
fit = triptych.EM(model, restarts=3).run(jax.random.key(0), counts)
assert fit.status.ok, fit.status
density = triptych.marginal(model).log_density(fit.parameters, counts)
assert abs(float(density) - fit.objective[-1]) < 1e-6 * abs(fit.objective[-1])
assert np.allclose(np.sort(fit.parameters["rates"]), [4, 30], rtol=0.1)
assert fit.data["information"]["disagreement"] < 1e-5
best = triptych.EM(model, restarts=3, e_step=Best()).run(jax.random.key(0), counts)
hard = triptych.EM(model, restarts=3, e_step="hard").run(jax.random.key(0), counts)
assert abs(best.objective[-1] - hard.objective[-1]) < 1e-8
""",
}


def blocks(name: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / name).read_text(), flags=re.DOTALL | re.MULTILINE
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_code_runs(name: str, tmp_path: Path) -> None:
    program = "\n\n".join(["from pathlib import Path", *blocks(name, "python"), CHECKS[name]])
    file = tmp_path / "program.py"
    file.write_text(program)
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, file.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_config_in_the_readme_is_one(tmp_path: Path) -> None:
    from triptych.experiments.reading import read_experiment

    (block,) = blocks("README.md", "yaml")
    (tmp_path / "penguins.yaml").write_text(block)
    assert read_experiment(tmp_path / "penguins.yaml").config.name == "penguins"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_the_pages_point_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not (ROOT / link).exists()] == []
