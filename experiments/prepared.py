"""The model, the data and the algorithms of a config, made and checked before anything is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from triptych.experiments.data import Data, load_data
from triptych.experiments.manifest import fingerprint
from triptych.experiments.programs import load_model, program_file
from triptych.experiments.reading import Experiment
from triptych.experiments.registry import algorithm

__all__ = ["Prepared", "prepare"]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """All that a run needs, made and checked, before anything is written."""

    experiment: Experiment
    model: Callable[..., Any]
    data: Data
    algorithms: Mapping[str, Any]
    fingerprints: Mapping[str, str]


def prepare(experiment: Experiment) -> Prepared:
    """Make the model, the data and the algorithms of a config, and check that they fit together.

    Raises
    ------
    InputError : anything that the config, the data or the program has wrong.
    """
    config = experiment.config
    model = load_model(config.model, experiment.base)
    data = load_data(config, experiment.base, model)
    algorithms = {name: algorithm(settings, model) for name, settings in config.fits.items()}
    _validate(model, data, algorithms)
    file = program_file(config.model, experiment.base)
    return Prepared(
        experiment=experiment,
        model=model,
        data=data,
        algorithms=algorithms,
        fingerprints={name: fingerprint(config, name, data, file) for name in config.fits},
    )


def _validate(model: Callable[..., Any], data: Data, algorithms: Mapping[str, Any]) -> None:
    """Have a built-in check its data, the columns called by name; have any other program traced once."""
    from triptych.inference.rows import Rows

    if isinstance(data.x, Rows):  # one reading: every cell is looked at
        for algorithm in list(algorithms.values())[:1]:
            algorithm.bind(data.x)
    elif hasattr(model, "validate"):
        import pandas as pd

        model.validate(pd.DataFrame(data.x, columns=list(data.columns)), *data.args[1:])  # type: ignore[attr-defined]
    else:
        from triptych.inference.program import describe

        describe(model, *data.args)
    if data.held_out is not None:
        from triptych.inference.heldout import check_rows

        check_rows(model, data.args, data.held_out)
