"""The model of a config: a built-in by name, or a program from the user's own file."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from triptych.experiments.refusal import nearest, refuse
from triptych.experiments.registry import CONFIGS, build
from triptych.experiments.settings import ProgramSettings, Settings

__all__ = ["load_model", "positional", "program_file"]


def load_model(settings: Settings, base: Path) -> Callable[..., Any]:
    """Give the program that a config names.

    A class is made with `arguments`; a function of which they leave no positional parameter free is
    a factory, and is called with them; any other function is the program, and gets them as keywords.

    Parameters
    ----------
    settings : the model section of a config.
    base : the directory that paths are relative to.

    Raises
    ------
    InputError : the file or the name in it is not there, the file does not run, or the arguments do not fit.
    """
    if not isinstance(settings, ProgramSettings):
        return build(settings)
    where, _, name = settings.program.rpartition(":")
    module = _module(where, base)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            refuse(f"model.program: there is no {name!r} in {where}; {nearest(name, known)}")
        found = getattr(found, part)
    if not callable(found):
        refuse(
            f"model.program: {settings.program} is a {type(found).__name__}, not a program; name a callable."
        )
    return _with_arguments(found, settings)


def program_file(settings: Settings, base: Path) -> Path | None:
    """Find the file of a user's program: beside the config, else among the shipped ones; None if a module."""
    if not isinstance(settings, ProgramSettings):
        return None
    where = settings.program.rpartition(":")[0]
    if not where.endswith(".py"):
        return None
    beside = base / where
    return beside if beside.is_file() or not (CONFIGS / where).is_file() else CONFIGS / where


def positional(program: Callable[..., Any]) -> list[str]:
    """Name the parameters of a program that data may be handed to by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(program).parameters.values()
    except (TypeError, ValueError):
        return ["x"]
    bound = program.keywords if isinstance(program, functools.partial) else {}
    return [p.name for p in parameters if p.kind in kinds and p.name not in bound]


def _module(where: str, base: Path) -> ModuleType:
    if not where.endswith(".py"):
        return _run(lambda: importlib.import_module(where), where)
    beside = base / where
    file = beside if beside.is_file() else CONFIGS / where
    if not file.is_file():
        refuse(f"model.program: there is no file {beside}; paths are relative to the config.")
    spec = importlib.util.spec_from_file_location(f"triptych_program_{file.stem}", file)
    if spec is None or spec.loader is None:
        refuse(f"model.program: {file} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    sys.path.insert(0, str(file.parent.resolve()))  # so that a program may import its neighbours
    try:
        _run(lambda: spec.loader.exec_module(module), str(file))  # pyright: ignore[reportOptionalMemberAccess]
    finally:
        sys.path.remove(str(file.parent.resolve()))
    return module


def _run(load: Callable[[], Any], where: str) -> Any:
    """Run the user's module; whatever it raises is said in a line, with the place."""
    try:
        return load()
    except SyntaxError as error:
        refuse(f"model.program: {where}, line {error.lineno}: {error.msg}.")
    except Exception as error:  # the user's code may raise anything
        trace, line = error.__traceback__, ""
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == where:
                line = f", line {trace.tb_lineno}"
            trace = trace.tb_next
        refuse(f"model.program: {where}{line} does not run: {type(error).__name__}: {_one_line(error)}.")


def _with_arguments(found: Callable[..., Any], settings: ProgramSettings) -> Callable[..., Any]:
    arguments: Mapping[str, Any] = settings.arguments
    is_class = inspect.isclass(found)
    if not arguments and not is_class:
        return found
    signature = inspect.signature(found)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in () if takes_any else arguments:
        if key not in signature.parameters:
            known = list(signature.parameters)
            refuse(f"model.arguments: {settings.program} takes no {key!r}; {nearest(key, known)}")
    program = functools.update_wrapper(functools.partial(found, **arguments), found)
    if not is_class and positional(program):
        return program
    try:
        made = found(**arguments)
    except Exception as error:  # the user's code may raise anything
        refuse(
            f"model.arguments: {settings.program} refuses them: {type(error).__name__}: {_one_line(error)}."
        )
    if not callable(made):
        refuse(f"model.program: {settings.program} makes a {type(made).__name__}, which is not a program.")
    return made


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
