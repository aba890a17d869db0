"""The page of the GPU's figures: a row a comparison, written whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ledger import versions

__all__ = ["PRODUCT", "Line", "line", "write"]

PRODUCT = 8192  # rows and columns of the matrices whose product is the card's rate


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of the table: medians in ms, the ratio of each round, useful GFLOP/s and their share."""

    what: str
    precision: str
    peer: str
    own: float
    other: float
    ratios: tuple[float, ...]
    gap: float
    rate: float | None
    share: float | None

    def __str__(self) -> str:
        span = f"{min(self.ratios):.3g} to {max(self.ratios):.3g}, {len(self.ratios)}"
        rate = "" if self.rate is None else f"{self.rate:,.0f}"
        share = "" if self.share is None else f"{self.share:.0%}"
        return (
            f"| {self.what} | {self.precision} | {self.peer} | {self.own:.3g} ms | {self.other:.3g} ms | "
            f"**{np.median(self.ratios):.3g}×** ({span}) | {rate} | {share} | {self.gap:.0e} |"
        )


def line(
    what: str,
    dtype: Any,
    peer: str,
    own: np.ndarray,
    other: np.ndarray,
    gap: float,
    work: float | None,
    card: float,
) -> Line:
    """Make a line of two sides' seconds, the FLOP of an iteration and the card's FLOP/s."""
    seconds = float(np.median(own))
    found = Line(
        what,
        np.dtype(dtype).name,
        peer,
        1e3 * seconds,
        1e3 * float(np.median(other)),
        tuple((other / own).tolist()),
        gap,
        None if work is None else work / seconds / 1e9,
        None if work is None else work / seconds / card,
    )
    print(found, flush=True)
    return found


HEAD = """\
# On a GPU

Written by `SCIPY_ARRAY_API=1 python benchmarks/gpu.py --into docs/gpu.md` (peers as for
`make bench`, JAX and PyTorch built for the GPU), last on one {card}. Versions: {versions}.

One EM iteration of triptych against the peer's, both on the same card and the same data, in turns: medians,
and the ratio of each round (least to most, and how many), above 1 where triptych is ahead. scikit-learn
computes through its array API on PyTorch's tensors. GFLOP/s are the useful work 4 N F K of a full-covariance
iteration, F = 1 + D + D(D + 1)/2; the share is of the card's own product of two {product} × {product}
matrices (the faster of JAX's and PyTorch's, in full precision): {rates}.
"gap" is the difference of the two sides' log-likelihoods a row after the same steps, in nats.

| what | dtype | peer | triptych | peer's | ratio | GFLOP/s | share | gap |
|---|---|---|--:|--:|--:|--:|--:|--:|
"""


def write(path: Path, lines: Sequence[Line], card: str, rates: str, fits: str) -> None:
    """Write the page, whole or not at all."""
    head = HEAD.format(card=card, versions=versions(), product=PRODUCT, rates=rates)
    part = path.with_name(path.name + ".part")
    part.write_text(head + "\n".join(map(str, lines)) + f"\n\n{fits}.\n", encoding="utf-8")
    part.replace(path)
