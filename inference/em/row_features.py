"""T(x) of standardised columns, as `fold.py` wants a family: which columns, and what is made of them."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from triptych.inference.em.family import Array

__all__ = ["Piece", "RowFamily", "statistics_of"]


class Piece(NamedTuple):
    """Statistics of the columns from `start` to `stop`.

    kind : "linear" (the columns), "squares", "outer" (x_i x_j, i ≤ j), "codes" (one indicator a level).
    """

    kind: str
    start: int
    stop: int
    levels: int = 0

    @property
    def width(self) -> int:
        """How many statistics."""
        count = self.stop - self.start
        widths = {"outer": count * (count + 1) // 2, "codes": count * self.levels}
        return widths.get(self.kind, count)

    def coefficients(self, values: Array) -> Array:
        """Give coefficients as one axis: (…, D, D) symmetric for "outer", (…, D, levels) for "codes"."""
        if self.kind == "outer":
            first, second = np.triu_indices(self.stop - self.start)
            return values[..., first, second] * np.where(first == second, 1.0, 2.0)
        if self.kind == "codes":
            return jnp.reshape(values, (*values.shape[:-2], self.width))
        return values


@dataclasses.dataclass(frozen=True)
class RowFamily:
    """The statistics that a program reads of a row, and the number of values of its latents together."""

    components: int
    pieces: tuple[Piece, ...]

    @property
    def feature_count(self) -> int:
        """F, the length of T(x)."""
        return 1 + sum(piece.width for piece in self.pieces)

    def features(self, x: Array) -> Array:
        """T(x): (n, C) → (n, F), the first column 1."""
        ones = jnp.ones((x.shape[0], 1), x.dtype)
        return jnp.concatenate([ones, *(statistics_of(x, piece) for piece in self.pieces)], axis=1)


def statistics_of(x: Array, piece: Piece) -> Array:
    """Give one piece of T(x), (n, width)."""
    part = jnp.asarray(x[:, piece.start : piece.stop])
    if piece.kind == "squares":
        return part * part
    if piece.kind == "outer":
        # Row i of the upper triangle at a time: slices, where indices would be a slow gather.
        return jnp.concatenate([part[:, i : i + 1] * part[:, i:] for i in range(part.shape[1])], axis=1)
    if piece.kind == "codes":
        same = part[..., None] == jnp.arange(piece.levels, dtype=part.dtype)
        return jnp.reshape(same.astype(part.dtype), (part.shape[0], math.prod(same.shape[1:])))
    return part
