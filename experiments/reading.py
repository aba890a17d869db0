"""Reading a config: find the file, parse it, lay the overrides over it, say plainly what is wrong."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from triptych.experiments.config import Config
from triptych.experiments.refusal import nearest, refuse
from triptych.experiments.registry import METHODS, MODELS, shipped_configs
from triptych.experiments.settings import DataSettings, ProgramSettings, Simulation

__all__ = ["Experiment", "read_experiment"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A checked config, and the directory that its paths are relative to."""

    config: Config
    base: Path


class _Loader(yaml.SafeLoader):
    """YAML whose keys may not repeat and whose floats may be written 1e-6, as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, Hashable) else id(key_node))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_experiment(source: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read the config of an experiment and lay the overrides over it.

    Parameters
    ----------
    source : path of a YAML file, or the name of a shipped config.
    overrides : texts KEY=VALUE; the key is dotted, the value YAML; `fits.svi=null` removes a fit.

    Raises
    ------
    InputError : no such file, not YAML, or not a config; a line for each thing that is wrong.
    """
    path = _find(source)
    document = _parse(path)
    for override in overrides:
        _lay_over(document, override)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        problems: dict[tuple[str, ...], str] = {}
        for problem in error.errors():  # the branches of a union complain one by one: the first is enough
            problems.setdefault(_place(dict(problem), document), _explain(dict(problem), document))
        refuse("\n".join(f"{path}: {line}" for line in problems.values()))
    return Experiment(config, path.parent.resolve())


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_configs()
    name = str(source).replace("-", "_")
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        refuse(f"{source} is a directory; give a config, such as {path / 'config.yaml'}.")
    meant = nearest(re.sub(r"\.ya?ml$", "", path.name), shipped)
    return refuse(f"There is no config {str(source)!r}, as a file or among the shipped ones; {meant}")


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        refuse(f"{path} is not YAML: {at}{error.problem or error.context}.")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        refuse(f"{path} is not YAML: {' '.join(str(error).split())}")
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}.")
    if not isinstance(document, dict):
        refuse(f"{path} is not a config: it needs keys such as name, model and fits, not {_kind(document)}.")
    return document


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _lay_over(document: dict[str, Any], override: str) -> None:
    """Set one dotted key; the value is parsed as YAML."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        refuse(f"The override {override!r} is not KEY=VALUE, such as fits.mcmc.draws=500.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        refuse(f"The value of the override {override!r} is not YAML; quote it if it is text.")
    if parts[0] not in Config.model_fields:
        refuse(f"The override {override!r} has an unknown key: {nearest(key, _paths(document))}")
    place: dict[str, Any] = document
    for depth, part in enumerate(parts[:-1]):
        below = place.setdefault(part, {})
        if not isinstance(below, dict):
            whole = ".".join(parts[: depth + 1])
            refuse(f"The override {override!r} does not fit: {whole} is {_kind(below)}.")
        place = below
    if parts[0] == "fits" and value is None and len(parts) == 2:
        _remove_fit(document, parts[1])
    elif parts in (["data", "path"], ["model", "program"]) and isinstance(value, str):
        place[parts[-1]] = _from_here(value)
    else:
        place[parts[-1]] = value


def _remove_fit(document: dict[str, Any], name: str) -> None:
    """Take a fit out; if the others were measured against it, they get another reference."""
    if name not in document["fits"]:
        refuse(f"The override fits.{name}=null removes no fit: {nearest(name, document['fits'])}")
    del document["fits"][name]
    if document.get("reference") == name:
        del document["reference"]


def _from_here(value: str) -> str:
    """Read a path on the command line from where the person is, not from where the config is."""
    file, colon, name = value.rpartition(":") if ".py:" in value else (value, "", "")
    return f"{Path(file).resolve()}{colon}{name}" if Path(file).exists() else value


def _paths(document: Mapping[str, Any]) -> list[str]:
    """Name the keys that an override may have meant, as dotted paths and by their last part."""
    fields = list(Config.model_fields)
    for name, fit in (document.get("fits") or {}).items():
        entry = METHODS.get(fit.get("method", "")) if isinstance(fit, dict) else None
        fields += [f"fits.{name}.{key}" for key in (entry.settings.model_fields if entry else ())]
    fields += [f"data.{key}" for key in DataSettings.model_fields]
    return fields + [f"model.{key}" for key in _fields_at(("model",), document)]


def _fields_at(place: tuple[str, ...], document: Any) -> list[str]:
    """Name the keys known at a place of the document."""
    here = document
    for part in place:
        here = here.get(part, {}) if isinstance(here, dict) else {}
    known: Any = {(): Config, ("data",): DataSettings, ("data", "simulate"): Simulation}.get(place)
    if place[:1] == ("fits",) and len(place) == 2 and isinstance(here, dict):
        known = METHODS[here["method"]].settings if here.get("method") in METHODS else None
    elif place == ("model",) and isinstance(here, dict):
        named = MODELS.get(here.get("name", ""))
        known = ProgramSettings if "program" in here else named.settings if named else None
    return list(known.model_fields) if known else []


def _explain(problem: dict[str, Any], document: Any) -> str:
    """Put one of pydantic's findings in a line: where, what, and what to do."""
    kind, place = problem["type"], _place(problem, document)
    at, last = ".".join(place[:-1]) or "the config", place[-1] if place else ""
    if kind == "extra_forbidden":
        return f"unknown key {last!r} in {at}: {nearest(last, _fields_at(place[:-1], document))}"
    if kind == "missing":
        return f"{'.'.join(place)} is missing; give it."
    if kind in ("union_tag_invalid", "union_tag_not_found") and place[:1] == ("fits",):
        return f"{'.'.join(place)}.method: {_choice(problem, 'method', METHODS)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        choice = _choice(problem, "name", MODELS)
        return f"model.name: {choice}" + (
            "" if "missing" not in choice else " Or give program: file.py:name."
        )
    if kind == "value_error":
        said = str(problem["ctx"]["error"])
        return said if not place else f"{'.'.join(place)}: {said}"
    value = problem.get("input")
    shown = f", found {value!r}" if isinstance(value, str | int | float | bool | type(None)) else ""
    return f"{'.'.join(place) or 'the config'}: {problem['msg'][:1].lower()}{problem['msg'][1:]}{shown}."


def _choice(problem: dict[str, Any], key: str, known: Mapping[str, Any]) -> str:
    value = problem.get("input")
    given = value.get(key) if isinstance(value, dict) else None
    if given is None:
        return f"is missing; known are {', '.join(known)}."
    return f"unknown {key} {given!r}: {nearest(str(given), known)}"


def _place(problem: dict[str, Any], document: Any) -> tuple[str, ...]:
    """Follow pydantic's location through the document, leaving out the tags of its unions."""
    place: list[str] = []
    here = document
    for depth, part in enumerate(problem["loc"]):
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            here = here[part]
            place.append(str(part))
        elif problem["type"] == "missing" and depth == len(problem["loc"]) - 1:
            place.append(str(part))
    return tuple(place)
