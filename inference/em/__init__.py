"""Expectation–maximisation: a fold over rows, a closed-form maximisation, many starts."""

from triptych.inference.em.algorithm import EM
from triptych.inference.em.ascent import Ascent
from triptych.inference.em.e_steps import Annealed, Exact, Hard
from triptych.inference.em.kernel import bind, has_kernel
from triptych.inference.em.mixture import MixtureKernel
from triptych.inference.em.monte_carlo import MonteCarlo
from triptych.inference.em.regression_kernel import RegressionKernel
from triptych.inference.em.variational import Variational

__all__ = [
    "EM",
    "Annealed",
    "Ascent",
    "Exact",
    "Hard",
    "MixtureKernel",
    "MonteCarlo",
    "RegressionKernel",
    "Variational",
    "bind",
    "has_kernel",
]
