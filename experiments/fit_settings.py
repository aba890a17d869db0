"""The settings that a config may give to a fit, by method; defaults are those of the classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from triptych.experiments.autoguides import autoguides
from triptych.experiments.refusal import nearest
from triptych.experiments.settings import Settings

__all__ = [
    "AscentSettings",
    "BatchAndMatchSettings",
    "CAVISettings",
    "ChEESSettings",
    "EMSettings",
    "GibbsSettings",
    "LaplaceSettings",
    "MCMCSettings",
    "PathfinderSettings",
    "SVISettings",
]


class AnnealedSettings(Settings):
    """Exact E-steps after flattened ones."""

    name: Literal["annealed"]
    powers: list[PositiveFloat] = Field(default=[0.3, 0.5, 0.7, 0.85])
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
    minibatch: Literal["none", "stepwise", "incremental", "variance_reduced", "auto"] = "none"
    """First passes over a mixture's rows by minibatches, before the exact steps."""


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
