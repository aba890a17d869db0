"""Which latents' labels may be permuted, read off the program: what is indexed by a latent, and symmetric."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from triptych.inference.effort import cells
from triptych.inference.label_search import Exchangeable, find_exchangeable, permute
from triptych.inference.marginal import Marginal
from triptych.inference.precision import double_precision
from triptych.inference.remembered import LARGEST, digest
from triptych.inference.sharing import call_of, shared

__all__ = ["Exchangeable", "exchangeable", "permute"]


def exchangeable(
    m: Marginal, parameters: Mapping[str, Any], *args: Any, **kwargs: Any
) -> tuple[Exchangeable, ...]:
    """Find which labels are exchangeable, and which axes of which sites they index.

    A site's axis is indexed by latent z if log p(x, z = k | θ) does not change with the slices j ≠ k of
    it. What is found is then checked: swapping two labels, and shifting all, must leave log p(x, θ) as it
    is (with the priors) at a point that has no symmetry of its own. An ordered prior fails this, rightly.
    Where only some labels can be swapped (rows of which the labels are known fix the others), it is those.

    Parameters
    ----------
    m : the marginal of the program.
    parameters : site → array, a point in the bulk of the posterior.

    Returns
    -------
    One entry for each group of latents that share labels, and for each class of labels that can be swapped.
    """
    return shared("exchangeable labels", m, args, kwargs, lambda: _remembered(m, parameters, args, kwargs))


# Which labels may be exchanged is asked by every method about the same program and data, and costs a second.
REMEMBERED = 8
_FOUND: dict[Any, tuple[str, tuple[Exchangeable, ...]]] = {}


def _remembered(
    m: Marginal, parameters: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Exchangeable, ...]:
    """Find them, or give what was found for the same call, if the density is still the same.

    A model that is a record of its settings is known by them; a function may read more than its arguments.
    """
    settled = dataclasses.is_dataclass(m.program)
    key = call_of(m, args, kwargs) if settled or cells(args, kwargs) <= LARGEST else None
    if key is None:
        return find_exchangeable(m, parameters, args, kwargs)
    mark = "" if settled else _digest(m, parameters, args, kwargs)
    before = _FOUND.get(key)  # at once: another thread may let go of it
    if before is not None and before[0] == mark:
        return before[1]
    found = find_exchangeable(m, parameters, args, kwargs)
    while len(_FOUND) >= REMEMBERED:
        _FOUND.pop(next(iter(_FOUND)), None)
    _FOUND[key] = (mark, found)
    return found


def _digest(
    m: Marginal, parameters: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    with double_precision():
        point = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
        structure = m.structure(*args, **kwargs)
        return digest(structure, lambda theta: m.log_density(theta, *args, **kwargs), point)
