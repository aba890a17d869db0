"""The posteriors of the discrete latents at many draws, p(z = k | x, θ_s), compiled once for all who ask."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from triptych.inference.batches import batches, bounded
from triptych.inference.effort import cells
from triptych.inference.marginal import Marginal
from triptych.inference.sharing import shared

__all__ = ["posteriors_of"]


def posteriors_of(
    m: Marginal, draws: Mapping[str, Any], args: Any, kwargs: Mapping[str, Any]
) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """Go through draws, site → (S, ...), a batch at a time: which, and latent → (batch, plates..., K)."""
    latents = m.structure(*args, **kwargs).latents.values()
    batch = bounded(max([int(np.prod(latent.places[:-1])) for latent in latents] or [1]))
    # One function for all who ask within `sharing`, so that it is compiled once.
    function = shared("posteriors", m, args, kwargs, lambda: functools.partial(_posteriors, m, args, kwargs))
    return batches(function, dict(draws), batch, numbers=cells(args, kwargs))


def _posteriors(m: Marginal, args: Any, kwargs: Mapping[str, Any], theta: Any) -> Any:
    return m.posteriors(theta, *args, **kwargs)
