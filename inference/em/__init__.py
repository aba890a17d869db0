"""Expectation–maximisation: a fold over rows, a closed-form maximisation, many starts."""

from triptych.inference.em.algorithm import EM
from triptych.inference.em.kernel import bind, has_kernel
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.em.regression_kernel import RegressionKernel

__all__ = ["EM", "MixtureKernel", "RegressionKernel", "bind", "has_kernel"]
