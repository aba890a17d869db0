"""Coordinate-ascent variational inference of the conjugate models: updates and ELBO in closed form."""

from triptych.inference.cavi.algorithm import CAVI

__all__ = ["CAVI"]
