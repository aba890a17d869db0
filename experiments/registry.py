"""What there is to choose from: models, methods, data sets, shipped configs; each list exists once, here."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from triptych.experiments import fit_settings as f
from triptych.experiments import settings as s

__all__ = [
    "CONFIGS",
    "DATA",
    "DATASETS",
    "METHODS",
    "MODELS",
    "Dataset",
    "Entry",
    "algorithm",
    "build",
    "shipped_configs",
]

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / "configs"
DATA = HERE / "data"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model or a method: its settings, and the class that they make, named but not yet imported."""

    settings: type[s.Settings]
    module: str
    attribute: str

    @property
    def text(self) -> str:
        """What it is, in a line."""
        return (self.settings.__doc__ or "").splitlines()[0]

    def make(self, settings: s.Settings, *args: Any) -> Any:
        """Import the class and make it with the settings; lists become tuples, as frozen classes want."""
        made_with = {k: _frozen(v) for k, v in settings.model_dump(exclude={"name", "method"}).items()}
        return getattr(importlib.import_module(self.module), self.attribute)(*args, **made_with)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A shipped table: its file, its default target column, and what it is."""

    file: str
    target: str | None
    text: str

    @property
    def path(self) -> Path:
        """Where the file is installed."""
        return DATA / self.file


MODELS: Mapping[str, Entry] = {
    "gaussian_mixture": Entry(s.GaussianMixtureSettings, "triptych.models", "GaussianMixture"),
    "bernoulli_mixture": Entry(s.BernoulliMixtureSettings, "triptych.models", "BernoulliMixture"),
    "bayesian_linear_regression": Entry(
        s.BayesianLinearRegressionSettings, "triptych.models", "BayesianLinearRegression"
    ),
}

METHODS: Mapping[str, Entry] = {
    "em": Entry(f.EMSettings, "triptych.inference.em", "EM"),
    "ascent": Entry(f.AscentSettings, "triptych.inference.em", "Ascent"),
    "svi": Entry(f.SVISettings, "triptych.inference.svi", "SVI"),
    "mcmc": Entry(f.MCMCSettings, "triptych.inference.mcmc", "MCMC"),
    "gibbs": Entry(f.GibbsSettings, "triptych.inference.gibbs", "Gibbs"),
    "laplace": Entry(f.LaplaceSettings, "triptych.inference.laplace_method", "Laplace"),
    "cavi": Entry(f.CAVISettings, "triptych.inference.cavi", "CAVI"),
    "batch_and_match": Entry(f.BatchAndMatchSettings, "triptych.inference.batch_and_match", "BatchAndMatch"),
    "pathfinder": Entry(f.PathfinderSettings, "triptych.inference.pathfinder", "Pathfinder"),
    "chees": Entry(f.ChEESSettings, "triptych.inference.chees", "ChEES"),
}

DATASETS: Mapping[str, Dataset] = {
    "old_faithful": Dataset("old_faithful.csv", None, "272 eruptions: length and waiting time, minutes"),
    "galaxies": Dataset("galaxies.csv", None, "velocities of 82 galaxies, km/s"),
    "digits": Dataset("digits.csv.gz", "target", "1797 handwritten digits, 8×8 pixels valued 0–16"),
    "iris": Dataset("iris.csv", "target", "150 irises of three species, four lengths in cm"),
    "diabetes": Dataset("diabetes.csv", "target", "442 patients, ten measurements and disease progression"),
    "carcinoma": Dataset("carcinoma.csv", None, "118 slides rated by seven pathologists, 1 = no, 2 = yes"),
    "death_notices": Dataset(
        "death_notices.csv", None, "1096 days of 1910–12 by notices of deaths in The Times"
    ),
    "sleepstudy": Dataset("sleepstudy.csv", "Reaction", "reaction times (ms) of 18 subjects kept from sleep"),
    "airquality": Dataset(
        "airquality.csv", None, "153 days of New York's air in 1973, ozone and sunlight missing on some"
    ),
    "attitude": Dataset(
        "attitude.csv", None, "30 departments' answers to seven questions, percent favourable"
    ),
    "earthquakes": Dataset("earthquakes.csv", None, "major earthquakes a year, 1900–2006"),
    "tone": Dataset("tone.csv", "tuned", "150 tunings of a tone to a stretched one"),
    "election": Dataset(
        "election.csv", None, "1785 voters of 2000: 12 traits of two candidates, coded 1–4, some missing"
    ),
}


def build(settings: Any) -> Callable[..., Any]:
    """Make the built-in model that the settings describe."""
    return MODELS[settings.name].make(settings)


def algorithm(settings: Any, model: Callable[..., Any]) -> Any:
    """Make the algorithm that the settings describe, for this model."""
    return METHODS[settings.method].make(settings, model)


def shipped_configs() -> dict[str, Path]:
    """Name the configs that come with triptych."""
    return {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
