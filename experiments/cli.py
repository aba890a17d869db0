"""The command `triptych`. Exit codes: 0 done, 1 something did not hold, 2 the input was wrong."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from triptych.experiments.compilation import keep_compilations

__all__ = ["app", "main"]

app = typer.Typer(
    name="triptych",
    help="One latent-variable model, three panels: EM, variational inference and MCMC side by side.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run, such as results/old_faithful.")]


def _plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Say what went wrong in a line, and exit with the right code; no traceback for bad input."""

    @functools.wraps(command)
    def said(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.TyperException, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:
            from triptych.models.errors import InputError

            if isinstance(error, InputError):
                typer.echo(f"Error: {error}", err=True)
                raise typer.Exit(2) from None
            if os.environ.get("TRIPTYCH_TRACEBACK"):
                raise
            text = " ".join(str(error).split())
            hint = "TRIPTYCH_TRACEBACK=1 in the environment shows where."
            typer.echo(f"Error: {type(error).__name__}: {text} ({hint})", err=True)
            raise typer.Exit(1) from None

    return said


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"triptych {installed('triptych')}")
        raise typer.Exit


@app.command("run")
@_plainly
def run_command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped config's name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE ...]", help="Such as model.components=4 fits.svi=null seed=3."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; default results/<name>."),
    ] = None,
    one_by_one: Annotated[
        bool,
        typer.Option("--one-by-one", help="Fits do not run side by side: the seconds of each are its own."),
    ] = False,
) -> None:
    """Run an experiment: its fits, their comparison and the report.

    What is finished stays finished: the same command goes on where a run was cut off, and runs again only
    the fits whose config has changed.
    """
    started = time.perf_counter()
    from triptych.experiments.display import Bars, show_outcome
    from triptych.experiments.reading import read_experiment

    experiment = read_experiment(config, overrides or ())
    directory = output or Path("results") / experiment.config.name
    from triptych.experiments.run import run

    bars = Bars()
    try:
        with bars:
            outcome = run(experiment, directory, progress=bars, started=started, one_by_one=one_by_one)
    except KeyboardInterrupt:
        finished = ", ".join(bars.finished) or "no fit yet"
        typer.echo(
            f"Interrupted; finished and kept in {directory}: {finished}. The same command goes on.", err=True
        )
        raise typer.Exit(130) from None
    show_outcome(outcome)
    raise typer.Exit(0 if outcome.ok else 1)


@app.command("sweep")
@_plainly
def sweep_command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped config's name.")],
    values: Annotated[
        list[str],
        typer.Argument(metavar="KEY=A,B,C ...", help="Such as model.components=1,2,3 seed=0,1."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; default results/<name>-sweep."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default half the number of cores.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Scheduler of a running dask.distributed cluster."),
    ] = None,
) -> None:
    """Run every combination of the values, each a run of its own, and put them side by side.

    What is finished stays finished: the same command goes on where it was cut off, a run that fails is
    reported, and the others go on.
    """
    from triptych.experiments.display import Cells, show_sweep
    from triptych.experiments.reading import read_experiment
    from triptych.experiments.sweep import clustered, local, sweep

    directory = output
    if directory is None:
        directory = Path("results") / f"{read_experiment(config).config.name}-sweep"
    shown = Cells()
    try:
        with shown:
            swept = sweep(
                config,
                values,
                directory,
                executor=lambda: clustered(cluster) if cluster else local(workers),
                tell=shown.end,
            )
    except KeyboardInterrupt:
        done = f"{len(shown.finished)} finished and kept in {directory}"
        typer.echo(f"Interrupted; {done}. The same command goes on.", err=True)
        raise typer.Exit(130) from None
    if len(swept.finished) > 1:
        from triptych.experiments.beside import side_by_side
        from triptych.experiments.display import show_beside
        from triptych.experiments.report.beside import write_page

        found = side_by_side(swept.finished)
        show_beside(found)
        write_page(found, swept.directory / "sweep.html")
    show_sweep(swept)
    raise typer.Exit(0 if swept.ok else 1)


@app.command("calibrate")
@_plainly
def calibrate_command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped config's name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE ...]", help="Such as data.rows=50 fits.svi=null."),
    ] = None,
    simulations: Annotated[int, typer.Option(min=2, help="Data sets to draw and fit.")] = 100,
    draws: Annotated[int, typer.Option(min=1, help="Posterior draws that the truth is ranked among.")] = 100,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; default results/<name>-calibration."),
    ] = None,
) -> None:
    """Check that posteriors are calibrated: draw data from the model, fit them, rank the truth.

    Simulations that are done are kept: the same command goes on, with --simulations to more of them. Exit
    code 1 if a fit is not calibrated.
    """
    from triptych.experiments.display import Bars, show_calibration
    from triptych.experiments.reading import read_experiment

    experiment = read_experiment(config, overrides or ())
    directory = output or Path("results") / f"{experiment.config.name}-calibration"
    from triptych.experiments.calibration import calibrate_config

    with Bars() as bars:
        found = calibrate_config(experiment, directory, simulations=simulations, draws=draws, progress=bars)
    show_calibration(found)
    raise typer.Exit(0 if found.ok else 1)


@app.command("report")
@_plainly
def report_command(directory: Directory) -> None:
    """Write the report of a run again, from its saved results."""
    from triptych.experiments.manifest import read_manifest

    read_manifest(directory)
    from triptych.experiments.report.page import write_report

    typer.echo(f"Report: {write_report(directory)}")


@app.command("compare")
@_plainly
def compare_command(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR [DIR ...]", help="Runs, such as results/g3 results/g4.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PAGE", help="Write a page too: page.html."),
    ] = None,
) -> None:
    """Put several runs side by side: evidence, Bayes factors, predictions, verdicts.

    Exit code 1 if they are of different data, which cannot be compared.
    """
    from triptych.experiments.beside import side_by_side
    from triptych.experiments.display import show_beside

    found = side_by_side(directories)
    show_beside(found)
    if output is not None:
        from triptych.experiments.report.beside import write_page

        typer.echo(f"Page: {write_page(found, output)}")
    raise typer.Exit(0 if found.same_data else 1)


@app.command("verify")
@_plainly
def verify_command(
    directory: Directory,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Relative difference that counts as the same; 0: the same bits."),
    ] = 1e-8,
) -> None:
    """Run it again and compare every number; exit 1 and a table of what differs if they are not the same."""
    from triptych.experiments.display import Bars, show_verdict
    from triptych.experiments.verify import verify

    with Bars() as bars:
        verdict = verify(directory, tolerance=tolerance, progress=bars)
    show_verdict(verdict, directory, tolerance)
    raise typer.Exit(0 if verdict.ok else 1)


@app.command("list")
@_plainly
def list_command() -> None:
    """List the models, methods, guides, data sets and shipped configs there are to choose from."""
    from triptych.experiments.display import show_choices

    show_choices()


@app.command("schema")
@_plainly
def schema_command() -> None:
    """Print the JSON Schema of a config, for editors."""
    from triptych.experiments.config import schema

    typer.echo(json.dumps(schema(), indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command line."""
    # XLA logs to stderr before anything of ours; a person reads only what matters to them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # NumPy's matrices are small here, and threads that wait for one another on a busy machine cost seconds;
    # what is large is XLA's, which has its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    keep_compilations(os.environ)
    sys.exit(app())
