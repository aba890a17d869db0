"""The config: model, data, fits and seed of an experiment, checked before any work starts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from triptych.experiments.fit_settings import (
    AscentSettings,
    BatchAndMatchSettings,
    CAVISettings,
    ChEESSettings,
    EMSettings,
    GibbsSettings,
    LaplaceSettings,
    MCMCSettings,
    PathfinderSettings,
    SVISettings,
)
from triptych.experiments.settings import (
    BayesianLinearRegressionSettings,
    BernoulliMixtureSettings,
    DataSettings,
    GaussianMixtureSettings,
    ProgramSettings,
    Settings,
)

__all__ = ["Config", "FitSettings", "ModelSettings", "schema"]


def _which_model(value: Any) -> str | None:
    """Tell a built-in (`name`) from a program of the user's (`program`)."""
    if isinstance(value, ProgramSettings):
        return "program"
    if isinstance(value, Settings):
        return getattr(value, "name", None)
    if not isinstance(value, dict):
        return None
    return "program" if "program" in value else value.get("name")


ModelSettings = Annotated[
    Annotated[GaussianMixtureSettings, Tag("gaussian_mixture")]
    | Annotated[BernoulliMixtureSettings, Tag("bernoulli_mixture")]
    | Annotated[BayesianLinearRegressionSettings, Tag("bayesian_linear_regression")]
    | Annotated[ProgramSettings, Tag("program")],
    Discriminator(_which_model),
]
FitSettings = Annotated[
    EMSettings
    | AscentSettings
    | SVISettings
    | MCMCSettings
    | GibbsSettings
    | LaplaceSettings
    | CAVISettings
    | BatchAndMatchSettings
    | PathfinderSettings
    | ChEESSettings,
    Field(discriminator="method"),
]

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
FitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Config(Settings):
    """One experiment: a model, its data, and the fits to put side by side."""

    name: RunName
    """Name of the run; its directory is `results/<name>` unless another is given."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of every random number; each fit has its own stream, named after the fit."""
    precision: Literal["float64", "float32"] = "float64"
    """Width of the arithmetic."""
    data: DataSettings
    """The data."""
    model: ModelSettings
    """The generative program."""
    fits: Annotated[dict[FitName, FitSettings], Field(min_length=1)]
    """Fits by name; each names its `method`."""
    reference: str = ""
    """The fit that the others are measured against; if left out, the first by chains, else the last."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, document: Any) -> Any:
        """Leave out the fits that are null, and choose a reference where none is given."""
        if not isinstance(document, dict) or not isinstance(document.get("fits"), dict):
            return document
        fits = {name: fit for name, fit in document["fits"].items() if fit is not None}
        return {**document, "fits": fits, "reference": document.get("reference") or default_reference(fits)}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        """Check what no single field can know."""
        given = [key for key in ("name", "path", "simulate") if getattr(self.data, key) is not None]
        if len(given) != 1:
            said = f"not {' and '.join(given)}" if given else "none is given"
            raise ValueError(f"data: give exactly one of name, path and simulate ({said})")
        self._readable_in_blocks()
        if self.data.threshold is not None and self.data.equals is not None:
            raise ValueError("data: give threshold or equals, not both")
        if self.reference not in self.fits:
            raise ValueError(f"reference: {self.reference!r} is none of the fits ({', '.join(self.fits)})")
        return self

    def _readable_in_blocks(self) -> None:
        """Check what rows that are read in blocks can be used for."""
        data = self.data
        if data.blocks and data.sample is not None:
            raise ValueError("data: give blocks (all rows, by EM) or sample (some, by any method), not both")
        key = "blocks" if data.blocks else "sample"
        if not data.blocks and data.sample is None:
            return
        if data.path is None:
            raise ValueError(f"data.{key}: rows are read in blocks from a file; give its path")
        aside = ("rows", "target", "repeat", "labels", "threshold", "equals", "holdout")
        given = [name for name in aside if getattr(data, name) not in (None, False)]
        given += ["standardize"] * data.standardize + ["missing"] * (data.missing == "keep")
        if given:
            raise ValueError(f"data.{key}: rows are taken as they are; take out {' and '.join(given)}")
        if any(mark in name for name in data.columns or () for mark in "*?"):
            raise ValueError(f"data.{key}: name each column; there are no patterns here")
        if not data.blocks:
            return
        if not isinstance(self.model, GaussianMixtureSettings | BernoulliMixtureSettings):
            raise ValueError(
                "data.blocks: only the two mixtures read rows in blocks; give data.sample: 20000 in its place"
            )
        other = [name for name, fit in self.fits.items() if fit.method != "em"]
        if other:
            raise ValueError(
                f"data.blocks: only method em reads rows in blocks; take out {' and '.join(other)}, or fit a "
                "random sample by data.sample: 20000 in place of blocks"
            )
        keeps = [name for name, fit in self.fits.items() if isinstance(fit, EMSettings) and fit.bootstrap]
        if keeps:
            raise ValueError(f"fits.{keeps[0]}.bootstrap needs its rows in memory; take it out")

    def plain(self) -> dict[str, Any]:
        """Give the resolved config as plain data for YAML."""
        return {
            "name": self.name,
            "seed": self.seed,
            "precision": self.precision,
            "data": {
                **self.data.plain(),
                **({"simulate": self.data.simulate.plain()} if self.data.simulate else {}),
            },
            "model": self.model.plain(),
            "fits": {name: fit.plain() for name, fit in self.fits.items()},
            "reference": self.reference,
        }


def default_reference(fits: dict[str, Any]) -> str:
    """Choose what the others are measured against: the first fit by MCMC, Gibbs or ChEES, else the last."""

    def method(fit: Any) -> Any:
        return fit.get("method") if isinstance(fit, dict) else getattr(fit, "method", None)

    chains = (
        name for kind in ("mcmc", "gibbs", "chees") for name, fit in fits.items() if method(fit) == kind
    )
    return next(chains, next(reversed(fits), ""))


def schema() -> dict[str, Any]:
    """Give the JSON Schema of a config, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "triptych experiment",
    }
