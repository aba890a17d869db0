"""Gibbs sampling of the conjugate models: every full conditional by hand, none of it shared with NUTS."""

from triptych.inference.gibbs.algorithm import Gibbs

__all__ = ["Gibbs"]
