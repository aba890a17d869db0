"""The settings that a config may give to a model or the data; defaults are those of the classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

__all__ = [
    "BayesianLinearRegressionSettings",
    "BernoulliMixtureSettings",
    "DataSettings",
    "GaussianMixtureSettings",
    "ProgramSettings",
    "Settings",
    "Simulation",
]


class Settings(BaseModel):
    """Settings that refuse a key they do not know; the docstring of a field is its text in the schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def plain(self) -> dict[str, Any]:
        """Give the settings as plain data for YAML, without what is unset by default."""
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if not (value is None and type(self).model_fields[name].default is None)
        }


class Simulation(Settings):
    """Data made by the program itself, by ancestral sampling."""

    rows: PositiveInt
    """Number of rows to draw."""
    columns: PositiveInt | None = None
    """Number of columns, where the program leaves it open."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Site → value held fixed; every other site is drawn."""


class DataSettings(Settings):
    """Where the data come from (one of `name`, `path`, `simulate`), and what is done to them, in order."""

    name: str | None = None
    """A shipped data set (`triptych list` names them)."""
    path: str | None = None
    """A CSV file (may be gzipped), relative to this config."""
    simulate: Simulation | None = None
    """Draw the data from the model itself."""
    rows: PositiveInt | None = None
    """Use the first so many rows only."""
    blocks: bool = False
    """Read the rows of a CSV, Parquet, .npy or Zarr file in blocks, never all in memory: mixtures, by EM."""
    sample: PositiveInt | None = None
    """Fit so many rows of such a file, drawn at random (with the seed); any model, any method."""
    columns: list[str] | None = None
    """Columns by name, `p*` for all that begin with p; all but the target if left out."""
    target: str | Literal[False] | None = None
    """The answer column: y of a regression; else kept aside for the report. `false`: there is none."""
    repeat: str | None = None
    """A column of counts: each row is taken so many times (a table of frequencies); no column of the data."""
    labels: str | None = None
    """A column that says of which component a row is, blank where it is not known; no column of the data."""
    missing: Literal["refuse", "keep"] = "refuse"
    """What to do with a missing cell: refuse it, or hand it to the program as NaN."""
    threshold: float | None = None
    """Binarise: 1 where a value is above this, else 0."""
    equals: float | None = None
    """Binarise: 1 where a value equals this, else 0."""
    standardize: bool = False
    """Centre each column to mean 0 and scale it to standard deviation 1 (the target is left as it is)."""
    holdout: Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=1)] | None = None
    """Rows kept from the fits, to be predicted: a share of them, or how many; drawn with the seed."""


class GaussianMixtureSettings(Settings):
    """A mixture of Gaussians."""

    name: Literal["gaussian_mixture"]
    components: PositiveInt
    """Number of components, K."""
    covariance: Literal["spherical", "diagonal", "full", "tied"] = "full"
    """Shape of the covariances."""
    scale: PositiveFloat | list[PositiveFloat] | None = None
    """Known standard deviation, one for all or one a component; estimated if left out."""
    concentration: PositiveFloat | list[PositiveFloat] | None = None
    """Dirichlet concentration of the weights; 1 + 1/K if left out."""
    mean_precision: PositiveFloat = 0.01
    """Prior precision of a mean, in rows."""
    degrees_of_freedom: PositiveFloat | None = None
    """Degrees of freedom of the prior of a covariance; D + 2 if left out."""
    location: list[float] | None = None
    """Prior location of the means, one number a column; the column means if left out."""
    spread: PositiveFloat | list[float] | list[list[float]] | None = None
    """Scale of the prior of a covariance; taken from the data if left out."""
    missing: bool = False
    """Whether cells may be missing (`data.missing: keep`): they are integrated out."""


class BernoulliMixtureSettings(Settings):
    """A mixture of products of Bernoullis (latent classes)."""

    name: Literal["bernoulli_mixture"]
    components: PositiveInt
    """Number of components, K."""
    concentration: PositiveFloat | list[PositiveFloat] | None = None
    """Dirichlet concentration of the weights; 1 + 1/K if left out."""
    probs_concentration: tuple[PositiveFloat, PositiveFloat] = (1.5, 1.5)
    """Beta prior of each probability."""


class BayesianLinearRegressionSettings(Settings):
    """Linear regression, the precisions of weights and noise unknown."""

    name: Literal["bayesian_linear_regression"]
    intercept: bool = True
    """Whether to add an unpenalised intercept."""
    lambda_shape: PositiveFloat = 1.0
    """Gamma shape of the weight precision, in standardised units."""
    lambda_rate: PositiveFloat = 0.01
    """Gamma rate of the weight precision, in standardised units."""
    beta_shape: PositiveFloat = 1.0
    """Gamma shape of the noise precision, in standardised units."""
    beta_rate: PositiveFloat = 0.01
    """Gamma rate of the noise precision, in standardised units."""
    target_variance: PositiveFloat | None = None
    """Variance of the target that the priors take their unit from; that of the data if left out."""


class ProgramSettings(Settings):
    """Any NumPyro program from a Python file."""

    program: Annotated[str, Field(pattern=r"^[^:].*:[A-Za-z_][A-Za-z_0-9.]*$")]
    """`file.py:name`, relative to this config, or `package.module:name`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What a class or a factory is made with; else keyword arguments of the program."""
