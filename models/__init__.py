"""Generative programs: what is modelled, knowing nothing of inference."""

from triptych.models.bernoulli_mixture import BernoulliMixture, mixture_covariance, mixture_mean
from triptych.models.errors import InferenceWarning, InputError
from triptych.models.gaussian_mixture import GaussianMixture
from triptych.models.linear_regression import BayesianLinearRegression
from triptych.models.simulation import simulate

__all__ = [
    "MODELS",
    "BayesianLinearRegression",
    "BernoulliMixture",
    "GaussianMixture",
    "InferenceWarning",
    "InputError",
    "mixture_covariance",
    "mixture_mean",
    "simulate",
]

MODELS = {
    "gaussian_mixture": GaussianMixture,
    "bernoulli_mixture": BernoulliMixture,
    "bayesian_linear_regression": BayesianLinearRegression,
}
