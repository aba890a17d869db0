"""Draws of a mixture with their labels sorted, and how many effective ones there are."""

from __future__ import annotations

import numpy as np

__all__ = ["ordered", "slowest"]


def ordered(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sort components by the first column of their means, draw by draw: site → (chain, draw, …)."""
    order = np.argsort(draws["means"][..., 0], axis=-1)
    taken = {}
    for site, value in draws.items():
        index = order.reshape(order.shape + (1,) * (value.ndim - 3))
        taken[site] = np.take_along_axis(value, index, axis=2)
    return taken


def slowest(draws: dict[str, np.ndarray]) -> float:
    """Effective draws of the slowest element of the sorted draws."""
    from arviz_base import from_dict
    from arviz_stats import ess

    found = ess(from_dict({"posterior": ordered(draws)}))
    return min(float(np.nanmin(values.values)) for values in found.data_vars.values())
