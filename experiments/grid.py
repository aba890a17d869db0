"""A grid of configs: every combination of the values that `KEY=A,B,C` gives, each a run of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from triptych.experiments.reading import Experiment, read_experiment
from triptych.experiments.refusal import refuse

__all__ = ["Cell", "cells", "read_grid"]

MOST_CELLS = 10_000


class Cell(NamedTuple):
    """One run of a sweep: the swept keys and their values, all its overrides, and where its results go."""

    values: Mapping[str, str]
    overrides: tuple[str, ...]
    directory: Path

    @property
    def label(self) -> str:
        """Name the cell by what makes it differ."""
        return self.directory.name


def read_grid(overrides: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read texts KEY=VALUE,VALUE,… as key → its values, each the text of one override.

    A comma inside brackets, braces or quotes belongs to its value, as in YAML: `data.columns=[a,b],[a]` are
    two values.

    Raises
    ------
    InputError : not KEY=VALUE, not YAML, a key or a value given twice, or no key with several values.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            refuse(f"{override!r} is not KEY=VALUE,VALUE,…, such as model.components=1,2,3.")
        if key in grid:
            refuse(f"The key {key!r} is given twice; list all its values once: {key}=A,B,C.")
        grid[key] = _values(key, text)
    if not any(len(values) > 1 for values in grid.values()):
        refuse(
            "There is nothing to sweep over: give at least one key several values, such as "
            "model.components=1,2,3 (one run is `triptych run`)."
        )
    return grid


def _values(key: str, text: str) -> tuple[str, ...]:
    """Cut a list of values at its outer commas, as YAML reads it, and keep the text of each."""
    try:
        node = yaml.compose(f"[{text}]", Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        refuse(f"The values of {key!r} are not YAML: {text!r}; quote what is text.")
    if not isinstance(node, yaml.SequenceNode):
        refuse(f"The values of {key!r} are not a list: {text!r}; write {key}=A,B,C.")
    whole = f"[{text}]"
    values = tuple(whole[n.start_mark.index : n.end_mark.index].strip() for n in node.value)
    if not values or "" in values:
        refuse(f"{key}={text} leaves a value empty; write {key}=A,B,C.")
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        refuse(f"{key} has the value {twice} twice; give each once.")
    return values


def cells(
    source: str | Path, overrides: Sequence[str], directory: Path
) -> tuple[Experiment, tuple[Cell, ...]]:
    """Lay out the runs of a sweep, and check the config of every one before any starts.

    Returns
    -------
    The experiment of the first cell, and the cells, the last key varying fastest. A cell's directory is
    named after the values that are swept, such as `components=2,covariance=full`.

    Raises
    ------
    InputError : the grid, or the config of a cell, is wrong; or there are more than 10 000 cells.
    """
    grid = read_grid(overrides)
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MOST_CELLS:
        refuse(f"The grid has {count} cells, more than {MOST_CELLS}; sweep over fewer keys at a time.")
    swept = [key for key, values in grid.items() if len(values) > 1]
    short = _short_names(swept)
    found: dict[str, Cell] = {}
    experiments: list[Experiment] = []
    for chosen in itertools.product(*grid.values()):
        values = dict(zip(grid, chosen, strict=True))
        given = tuple(f"{key}={value}" for key, value in values.items())
        experiments.append(read_experiment(source, given))
        name = ",".join(f"{short[key]}={_slug(values[key])}" for key in swept)
        while name in found:  # two values that differ in signs a file's name cannot hold
            name += "_"
        found[name] = Cell({key: values[key] for key in swept}, given, directory / name)
    return experiments[0], tuple(found.values())


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Name each key by its last part, or by all of it where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)}


def _slug(value: str) -> str:
    """Give a value as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", value).strip("_")[:40] or "_"
