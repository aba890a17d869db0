"""What is ranked: numbers that no relabelling of components changes, so that alignment cannot flatter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from triptych.inference.exchangeable import Exchangeable
from triptych.inference.unconstrained import element_names

__all__ = ["elements_of"]


def elements_of(
    samples: Mapping[str, np.ndarray], groups: Sequence[Exchangeable], supports: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Split draws into scalars: name → (S,).

    Sites whose components may be exchanged are sorted along that axis, each column on its own (a matrix that
    has the labels on two axes gives its sorted diagonal); all others are as they are. Of a simplex the last
    element is left out and of a symmetric matrix the upper triangle: they repeat the others.

    Parameters
    ----------
    samples : site → (S, …).
    groups : exchangeable labels.
    supports : site → NumPyro constraint.
    """
    answer: dict[str, np.ndarray] = {}
    for site, drawn in samples.items():
        name, values = _sorted(site, np.asarray(drawn), groups)
        kept = _kept(values.shape[1:], supports.get(site), diagonal=name.startswith("sorted diagonal"))
        flat = values.reshape(len(values), -1)
        for i, (element, keep) in enumerate(zip(element_names(name, values.shape[1:]), kept, strict=True)):
            if keep:
                answer[element] = flat[:, i]
    return answer


def _sorted(site: str, values: np.ndarray, groups: Sequence[Exchangeable]) -> tuple[str, np.ndarray]:
    """Give a site as no relabelling changes it, and what to call that."""
    name = site
    for group in groups:
        axes, free = group.axes.get(site, ()), list(group.free)
        if len(axes) == 1:
            moved = np.moveaxis(values, axes[0] + 1, 1).copy()
            moved[:, free] = np.sort(moved[:, free], axis=1)
            values, name = np.moveaxis(moved, 1, axes[0] + 1), f"sorted {site}"
        elif axes:
            diagonal = np.diagonal(values, axis1=axes[0] + 1, axis2=axes[1] + 1)[..., free]
            values, name = np.sort(diagonal, axis=-1), f"sorted diagonal of {site}"
    return name, values


def _kept(shape: tuple[int, ...], support: Any, *, diagonal: bool) -> np.ndarray:
    """Say which elements of a site are not given by the others."""
    from numpyro.distributions import constraints

    keep = np.ones(shape, bool)
    if diagonal or not shape:
        return keep.ravel()
    if support is constraints.simplex:
        keep[..., -1] = False
    elif support in (constraints.positive_definite, constraints.corr_matrix) and len(shape) > 1:
        keep &= np.tril(np.ones(shape[-2:], bool))
    return keep.ravel()
