"""The models whose full conditionals are known in closed form, for the methods that need them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from triptych.inference.em import EM, MixtureKernel, RegressionKernel
from triptych.inference.em.bernoulli import BernoulliFamily
from triptych.inference.em.fold import MixtureProblem
from triptych.inference.em.gaussian import GaussianFamily
from triptych.models.bernoulli_mixture import BernoulliMixture
from triptych.models.errors import InferenceWarning, InputError
from triptych.models.gaussian_mixture import GaussianMixture
from triptych.models.linear_regression import BayesianLinearRegression

__all__ = ["conjugate_kernel", "optimum"]

MODELS = (GaussianMixture, BernoulliMixture, BayesianLinearRegression)


def conjugate_kernel(
    method: str, instead: str, model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> MixtureKernel | RegressionKernel:
    """Bind a conjugate model to its data: rows and priors in standardised units.

    Parameters
    ----------
    method : who asks, for the message.
    instead : what serves other models.

    Raises
    ------
    InputError : another model, missing cells, or data that the model refuses.
    """
    if type(model) not in MODELS:
        names = ", ".join(kind.__name__ for kind in MODELS)
        raise InputError(
            f"{method} needs full conditionals in closed form, which it has for {names}: use {instead} for "
            f"{getattr(model, '__name__', type(model).__name__)}."
        )
    kernel: Any = EM(model).bind(*args, **kwargs)
    if isinstance(kernel, RegressionKernel):
        return kernel
    whole = isinstance(kernel, MixtureKernel) and isinstance(kernel.problem, MixtureProblem)
    if not (whole and type(kernel.problem.family) in (GaussianFamily, BernoulliFamily)):
        raise InputError(
            f"{method} wants every cell of the data: use {instead}, which integrate missing cells out."
        )
    return kernel


def optimum(
    key: jax.Array, model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Give EM's optimum, site → array in the data's units, without what EM has to say of its own answer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        return dict(EM(model, draws=0).run(key, *args, **kwargs).parameters)
