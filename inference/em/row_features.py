"""T(x) of standardised columns, as `fold.py` wants a family: which columns, and what is made of them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from triptych.inference.em.family import WIDE, Array
from triptych.models.matrices import WRITTEN_OUT

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

    @property
    def pairs(self) -> np.ndarray:
        """The columns whose products these are, (2, width), behind a 1 as column 0; "codes" are none."""
        own = np.arange(1 + self.start, 1 + self.stop)
        if self.kind == "outer":
            return own[np.array(np.triu_indices(len(own)))]
        return np.stack([own if self.kind == "squares" else np.zeros_like(own), own])

    def coefficients(self, values: Array) -> Array:
        """Give coefficients as one axis: (…, D, D) symmetric for "outer", (…, D, levels) for "codes"."""
        if self.kind == "outer":
            count = self.stop - self.start
            first, second = np.triu_indices(count)
            if count <= WRITTEN_OUT:  # slices, whose transpose in a gradient is no scatter
                upper = jnp.concatenate([values[..., i, i:] for i in range(count)], axis=-1)
            else:
                upper = values[..., first, second]
            return upper * np.where(first == second, 1.0, 2.0)
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

    @property
    def plain(self) -> bool:
        """Whether T(x) is made of the columns as they are, or if they are many, of their squares too."""
        kinds = {piece.kind for piece in self.pieces}
        columns = sum(piece.width for piece in self.pieces if piece.kind == "linear")
        return kinds == {"linear"} or (kinds == {"linear", "squares"} and columns >= WIDE)

    def features(self, x: Array) -> Array:
        """T(x): (n, C) → (F, n), the first row 1.

        With the 1 as column 0 the statistics are products of two columns, made in one go, whole rows of T at
        a time: a float32 iteration of (100 000, 8, 8), outer products, takes half as long as by pieces.
        """
        padded = jnp.concatenate([jnp.ones((1, x.shape[0]), x.dtype), x.T])
        if self.plain or any(piece.kind == "codes" for piece in self.pieces):
            return jnp.concatenate([padded[:1], *(statistics_of(x, piece) for piece in self.pieces)])
        first, second = np.concatenate([[[0], [0]], *(piece.pairs for piece in self.pieces)], axis=1)
        return padded[first] * padded[second]


def statistics_of(x: Array, piece: Piece) -> Array:
    """Give one piece of T(x), (width, n)."""
    part = jnp.asarray(x[:, piece.start : piece.stop]).T
    if piece.kind == "squares":
        return part * part
    if piece.kind == "outer":
        first, second = np.triu_indices(len(part))
        return part[first] * part[second]
    if piece.kind == "codes":
        same = part[:, None] == jnp.arange(piece.levels, dtype=part.dtype)[:, None]
        return jnp.reshape(same.astype(part.dtype), (piece.width, part.shape[1]))
    return part
