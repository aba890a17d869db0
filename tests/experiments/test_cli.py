"""The command: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from triptych.experiments.cli import app
from triptych.experiments.registry import DATASETS, METHODS, MODELS, shipped_configs
from triptych.inference.status import Finding, Status

Writer = Callable[..., Path]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_help_names_the_verbs() -> None:
    text = call("--help").output
    assert all(verb in text for verb in ("run", "report", "verify", "list", "schema"))
    assert "KEY=VALUE" in call("run", "--help").output


def test_list_names_everything_there_is() -> None:
    text = call("list").output
    for name in (*MODELS, *METHODS, *DATASETS, *shipped_configs(), "AutoMultivariateNormal"):
        assert name in text


def test_schema_is_json() -> None:
    assert json.loads(call("schema").output)["title"] == "triptych experiment"


def test_a_run_shows_the_comparison_the_seconds_and_the_report(
    bench: Any, config_file: Writer, tmp_path: Path
) -> None:
    bench.findings = (Finding("K_HAT", "The guide is [poor]."),)
    result = call("run", config_file(), "seed=2", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "measured against mcmc" in result.stdout
    assert "[K_HAT] The guide is [poor]." in result.stdout
    assert "em compile 0.5 and run 0.2" in result.stdout
    assert str(tmp_path / "out" / "report.html") in result.stdout
    assert "mcmc: converged, 0.8 s" in result.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["seed"] == 2
    again = call("run", config_file(), "seed=2", "--output", tmp_path / "out")
    assert again.exit_code == 0
    assert "every fit was kept" in again.stdout


def test_results_go_to_a_directory_named_after_the_run(
    bench: Any, config_file: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("run", config_file()).exit_code == 0
    assert (tmp_path / "results" / "tiny" / "manifest.json").is_file()


def test_a_failed_fit_is_exit_code_1(bench: Any, config_file: Writer, tmp_path: Path) -> None:
    bench.raising = {"svi": RuntimeError("no luck")}
    result = call("run", config_file(), "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "svi failed: RuntimeError: no luck" in result.stdout
    assert "measured against mcmc" in result.stdout


def test_a_fit_that_did_not_converge_is_said_and_is_exit_code_0(
    bench: Any, config_file: Writer, tmp_path: Path
) -> None:
    bench.status = Status.STEP_LIMIT
    result = call("run", config_file(), "--output", tmp_path / "out")
    assert result.exit_code == 0
    assert "Warning, em: The step limit came before convergence" in result.stdout


def test_an_interrupt_says_how_to_go_on(bench: Any, config_file: Writer, tmp_path: Path) -> None:
    bench.raising = {"svi": KeyboardInterrupt()}
    result = call("run", config_file(), "--output", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].endswith("out: em. The same command goes on.")


def test_a_fault_of_ours_is_one_line_too(
    bench: Any, config_file: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triptych.experiments import run as running

    def broken(*_: object) -> None:
        raise AttributeError("a slip")

    monkeypatch.setattr(running, "new_manifest", broken)
    result = call("run", config_file(), "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: AttributeError: a slip (TRIPTYCH_TRACEBACK=1 in the environment shows where.)"
    ]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.componets=3"], "did you mean 'components'?"),
        (["model.components=0"], "model.components"),
        (["model.components=1000"], "1000"),
        (["fits.svi.guide=AutoNorml"], "did you mean 'AutoNormal'?"),
        (["data.name=nope"], "no shipped data set"),
        (["data={path: nope.csv}"], "nope.csv"),
        (["data={path: words.csv}"], "column 'b': 'x' is not a number"),
        (["data={path: holes.csv}"], "column 'b': missing cell"),
        (["data={path: flat.csv}"], "Column b"),
        (["data={path: one.csv}"], "1"),
        (["model={name: bernoulli_mixture, components: 2}"], "eruptions"),
        (["model={program: nope.py:f}"], "no file"),
        (["model={program: bad.py:broken}"], "RuntimeError: nothing works"),
        (["model={program: bad.py:brokn}"], "did you mean 'broken'?"),
        (["model={program: syntax.py:f}"], "syntax.py, line 1"),
        (["model={program: raises.py:f}"], "raises.py, line 2 does not run: ValueError: no"),
        (["model={program: bad.py:number}"], "is a int"),
        (["model={program: bad.py:program, arguments: {sclae: 1}}"], "did you mean 'scale'?"),
        (["model={program: bad.py:Refuses, arguments: {k: 1}}"], "refuses them: ValueError: k is odd"),
        (["model={program: bad.py}"], "model.program"),
        (["model={program: no_such_module:f}"], "no_such_module"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    bench: Any, config_file: Writer, tmp_path: Path, overrides: list[str], said: str
) -> None:
    files = {
        "words.csv": "a,b\n1,2\n3,x\n",
        "holes.csv": "a,b\n1,2\n3,\n",
        "flat.csv": "a,b\n1,2\n3,2\n4,2\n",
        "one.csv": "a,b\n1,2\n",
        "syntax.py": "def f(:\n",
        "raises.py": "x = 1\nraise ValueError('no')\n",
        "bad.py": BAD,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert said in refused("run", config_file(), *overrides, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD = """import numpyro
import numpyro.distributions as dist
number = 3
def broken(x=None):
    raise RuntimeError("nothing works")
def program(x=None, *, scale=1.0):
    numpyro.sample("x", dist.Normal(0.0, scale).expand([2]).to_event(1), obs=x)
class Refuses:
    def __init__(self, k):
        raise ValueError("k is odd")
"""


def test_factories_classes_and_keywords(bench: Any, config_file: Writer, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    for program in ("make", "Made", "plain"):
        model = f"model={{program: mine.py:{program}, arguments: {{scale: 2.0}}}}"
        result = call("run", config_file(), model, "--output", tmp_path / program)
        assert result.exit_code == 0, result.output


FACTORY = """
import dataclasses, numpyro
import numpyro.distributions as dist

def plain(x=None, *, scale):
    mean = numpyro.sample("mean", dist.Normal(0.0, scale))
    with numpyro.plate("rows", 10 if x is None else len(x)):
        numpyro.sample("x", dist.Normal(mean, scale).expand([2]).to_event(1), obs=x)

def make(scale):
    return lambda x=None: plain(x, scale=scale)

@dataclasses.dataclass(frozen=True)
class Made:
    scale: float
    def __call__(self, x=None):
        plain(x, scale=self.scale)
"""


def test_report_and_verify_need_a_run(bench: Any, config_file: Writer, tmp_path: Path) -> None:
    assert "no directory" in refused("report", tmp_path / "nope")
    assert "no run directory" in refused("verify", tmp_path)
    out = tmp_path / "out"
    call("run", config_file(), "--output", out)
    assert f"Report: {out / 'report.html'}" in call("report", out).stdout
    same = call("verify", out)
    assert same.exit_code == 0
    assert "to the last bit" in same.stdout
    bench.drift = 1.0
    other = call("verify", out)
    assert other.exit_code == 1
    assert "not the same" in other.stdout
    assert "parameters means[" in other.stdout
    (out / "manifest.json").write_text("{")
    assert "not JSON" in refused("report", out)
    (out / "manifest.json").write_text("[]")
    assert "not the manifest" in refused("report", out)


def test_unknown_verbs_and_options_are_exit_code_2() -> None:
    assert call("rnu").exit_code == 2
    assert call("run").exit_code == 2
    assert call("run", "old_faithful", "--nope").exit_code == 2


def test_the_installed_command_starts_fast_and_refuses_in_one_line(tmp_path: Path) -> None:
    code = "import sys; from triptych.experiments.cli import main; sys.argv[0] = 'triptych'; main()"

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    found = command("run", "old_fathful")
    assert found.returncode == 2
    assert found.stderr.splitlines() == [
        "Error: There is no config 'old_fathful', as a file or among the shipped ones; "
        "did you mean 'old_faithful'?"
    ]
    assert list(tmp_path.iterdir()) == []
    quick = (
        "import sys; from triptych.experiments.cli import app; app(['schema'], standalone_mode=False); "
        "app(['list'], standalone_mode=False); "
        "print([m for m in ('jax', 'numpyro', 'pandas') if m in sys.modules])"
    )
    listed = subprocess.run([sys.executable, "-c", quick], capture_output=True, text=True, check=True)
    assert listed.stdout.splitlines()[-1] == "[]"
