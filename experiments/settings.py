"""The settings that a config may give to a model, a fit or the data; defaults are those of the classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator

from triptych.experiments.autoguides import autoguides
from triptych.experiments.refusal import nearest

__all__ = [
    "AscentSettings",
    "BatchAndMatchSettings",
    "BayesianLinearRegressionSettings",
    "BernoulliMixtureSettings",
    "CAVISettings",
    "ChEESSettings",
    "DataSettings",
    "EMSettings",
    "GaussianMixtureSettings",
    "GibbsSettings",
    "LaplaceSettings",
    "MCMCSettings",
    "PathfinderSettings",
    "ProgramSettings",
    "SVISettings",
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


class AnnealedSettings(Settings):
    """Exact E-steps after flattened ones."""

    name: Literal["annealed"]
    powers: list[PositiveFloat] = [0.3, 0.5, 0.7, 0.85]
    """Powers of the posterior on the way to 1."""
    steps: PositiveInt = 10
    """EM steps at each."""


class VariationalSettings(Settings):
    """A Gaussian guide for continuous latents."""

    name: Literal["variational"]
    draws: Annotated[int, Field(ge=2)] = 32
    """Nodes that the ELBO is averaged over."""
    family: Literal["full", "mean_field"] = "full"
    """One covariance for each row of the latents' plate, or none."""
    steps: PositiveInt = 8
    """Quasi-Newton steps an E-step takes."""


class MonteCarloSettings(Settings):
    """Draws of continuous latents by NUTS."""

    name: Literal["monte_carlo"]
    draws: PositiveInt = 10
    """Draws of a chain an iteration in the first round; each further round takes twice as many."""
    chains: PositiveInt = 4
    """Walkers."""
    warmup: Annotated[int, Field(ge=10)] = 200
    """Steps in which each walker adapts."""
    settle: PositiveInt = 15
    """Iterations of a round on the latest draws alone."""
    averaged: Annotated[int, Field(ge=4)] = 15
    """Iterations of a round whose draws are averaged."""
    rounds: PositiveInt = 4
    """Rounds at most."""
    tol: Annotated[float, Field(ge=0)] = 0.1
    """Monte Carlo error, in standard errors, at which the rounds stop."""


EStepSettings = Annotated[
    AnnealedSettings | VariationalSettings | MonteCarloSettings, Field(discriminator="name")
]


class EMSettings(Settings):
    """Expectation–maximisation."""

    method: Literal["em"]
    objective: Literal["map", "mle"] = "map"
    """"map": the program as declared; "mle": priors on the parameters ignored."""
    restarts: PositiveInt = 10
    """Number of starts; the best is kept."""
    tol: Annotated[float, Field(ge=0)] = 1e-6
    """Stop when the gain still to come is below this, in nats (0: run all steps)."""
    max_steps: PositiveInt = 10_000
    """Most steps a start may take."""
    starts: Literal["portfolio", "k-means++", "random_rows", "random_responsibilities", "k-means", "ward"] = (
        "portfolio"
    )
    """How the starts are drawn: in all ways, or in one of them."""
    update: Literal["em", "fixed_point", "gradient"] = "em"
    """Regression only: how the precisions are updated."""
    acceleration: Literal["mix", "squarem", "acx", "anderson", "daarem", "none"] = "mix"
    """How the way to the optimum is shortened ("none": the textbook's iterates)."""
    latents: list[str] | None = None
    """Continuous sites to integrate out instead of maximising; the program decides if left out."""
    e_step: Literal["exact", "hard", "annealed", "variational", "monte_carlo"] | EStepSettings = "exact"
    """How the latents are inferred; some have settings of their own: `{name: variational, draws: 64}`."""
    m_step: Literal["auto", "gradient"] | dict[str, Literal["auto", "gradient"]] = "auto"
    """Closed forms where there are any ("auto"), or gradient steps, for all sites or each."""
    draws: Annotated[int, Field(ge=0)] = 1000
    """Draws from the Laplace approximation at the optimum (0: none)."""
    bootstrap: Annotated[int, Field(ge=0)] = 0
    """Replicates of a bootstrap of the optimum, rows drawn with replacement (0: none)."""


class AscentSettings(Settings):
    """Gradient ascent of EM's objective."""

    method: Literal["ascent"]
    objective: Literal["map", "mle"] = "map"
    """"map": the program as declared; "mle": priors on the parameters ignored."""
    restarts: PositiveInt = 10
    """Number of starts; the best is kept."""
    tol: Annotated[float, Field(ge=0)] = 1e-6
    """Stop when the gain still to come is below this, in nats (0: run all steps)."""
    max_steps: PositiveInt = 1000
    """Most rounds of ten quasi-Newton steps a start may take."""
    starts: Literal["portfolio", "k-means++", "random_rows", "random_responsibilities", "k-means", "ward"] = (
        "portfolio"
    )
    """How the starts are drawn: in all ways, or in one of them."""
    latents: list[str] | None = None
    """Continuous sites to integrate out instead of maximising; the program decides if left out."""
    draws: Annotated[int, Field(ge=0)] = 1000
    """Draws from the Laplace approximation at the optimum (0: none)."""


class SVISettings(Settings):
    """Stochastic variational inference."""

    method: Literal["svi"]
    guide: str = "AutoMultivariateNormal"
    """Name of a NumPyro autoguide (`triptych list` names them)."""
    steps: PositiveInt = 20_000
    """Most optimiser steps."""
    draws: PositiveInt = 1000
    """Draws from the fitted guide."""
    learning_rate: PositiveFloat = 0.02
    """Learning rate of the first stage, in posterior standard deviations a step."""
    particles: PositiveInt = 8
    """Draws a step that the gradient of the ELBO is averaged over."""
    tol: PositiveFloat = 0.003
    """Nats a parameter; a window of steps that gains less is a plateau."""
    guide_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the autoguide, such as `rank`."""

    @field_validator("guide")
    @classmethod
    def _known(cls, guide: str) -> str:
        if guide not in autoguides():
            meant, known = nearest(guide, autoguides()), f" Known are {', '.join(autoguides())}."
            raise ValueError(f"there is no guide {guide!r}; {meant}{'' if 'nown are' in meant else known}")
        return guide


class MCMCSettings(Settings):
    """NUTS on the marginal."""

    method: Literal["mcmc"]
    warmup: PositiveInt = 1000
    """Warm-up draws a chain, thrown away."""
    draws: PositiveInt = 1000
    """Draws a chain, kept."""
    chains: PositiveInt = 4
    """Number of chains."""
    target_accept: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Target acceptance probability; raise it towards 1 against divergences."""
    max_tree_depth: PositiveInt = 10
    """A trajectory has at most 2^this steps."""
    chain_method: Literal["vectorized", "sequential"] = "vectorized"
    """Whether the chains run in one program or one after the other."""


class GibbsSettings(Settings):
    """Gibbs sampling, for the conjugate built-in models."""

    method: Literal["gibbs"]
    warmup: PositiveInt = 500
    """Draws a chain, thrown away."""
    draws: PositiveInt = 1000
    """Draws a chain, kept."""
    chains: PositiveInt = 4
    """Number of chains."""
    thin: PositiveInt = 5
    """Sweeps a draw."""


class LaplaceSettings(Settings):
    """Laplace's approximation: a Gaussian at the mode of the marginal, in the unconstrained space."""

    method: Literal["laplace"]
    draws: PositiveInt = 1000
    """Draws from the Gaussian."""


class CAVISettings(Settings):
    """Coordinate-ascent variational inference in closed form, for the conjugate built-in models."""

    method: Literal["cavi"]
    restarts: PositiveInt = 10
    """Number of starts; the best is kept."""
    tol: Annotated[float, Field(ge=0)] = 1e-6
    """Stop when the gain of the ELBO still to come is below this, in nats (0: run all steps)."""
    max_steps: PositiveInt = 10_000
    """Most steps a start may take."""
    starts: Literal["portfolio", "k-means++", "random_rows", "random_responsibilities", "k-means", "ward"] = (
        "portfolio"
    )
    """How the starts are drawn: in all ways, or in one of them."""
    acceleration: Literal["mix", "squarem", "acx", "anderson", "daarem", "none"] = "mix"
    """How the way to the optimum is shortened ("none": the textbook's iterates)."""
    draws: PositiveInt = 1000
    """Draws from q."""


class BatchAndMatchSettings(Settings):
    """Batch-and-match: a full-rank Gaussian whose score matches the posterior's."""

    method: Literal["batch_and_match"]
    steps: Annotated[int, Field(ge=20)] = 1000
    """Most steps."""
    batch: Annotated[int, Field(ge=2)] | None = None
    """Gradients a step; twice the coordinates, from 8 to 64, if left out."""
    tol: PositiveFloat = 0.001
    """Nats a coordinate between two quarters of the run, below which it has settled."""
    draws: PositiveInt = 1000
    """Draws from the Gaussian."""


class PathfinderSettings(Settings):
    """Multi-path Pathfinder: Gaussians along L-BFGS paths, resampled by importance."""

    method: Literal["pathfinder"]
    paths: PositiveInt = 8
    """Number of paths."""
    steps: PositiveInt = 200
    """Most steps of L-BFGS on a path."""
    draws: PositiveInt = 1000
    """Draws, resampled."""


class ChEESSettings(Settings):
    """Many short chains of Hamiltonian Monte Carlo that learn their trajectory length together."""

    method: Literal["chees"]
    warmup: Annotated[int, Field(ge=10)] = 300
    """Warm-up draws a chain, thrown away."""
    draws: Annotated[int, Field(ge=4)] = 500
    """Draws a chain, kept."""
    chains: Annotated[int, Field(ge=2)] = 32
    """Number of chains, adapted together."""
