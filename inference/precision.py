"""The arithmetic follows the data: float64 in, float64 through; float32 in, float32 through."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np

__all__ = ["double_precision", "matching_precision"]


def double_precision() -> AbstractContextManager[Any]:
    """Open a block in which JAX computes in float64; the user's own setting is left alone."""
    return jax.enable_x64(True)


def matching_precision(*trees: Any) -> AbstractContextManager[Any]:
    """Open a block whose arithmetic is as wide as the widest array handed in, as in scikit-learn."""
    leaves = jax.tree.leaves(trees)
    wide = any(np.dtype(getattr(leaf, "dtype", np.float32)) == np.float64 for leaf in leaves)
    return double_precision() if wide else nullcontext()
