"""What a program was called with, kept in the fit, so that a comparison can call it again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

__all__ = ["checked", "is_sample", "recall", "record", "record_sample", "with_arrays"]

ATTRIBUTE = "triptych_arguments"
SAMPLED = "triptych_sampled"
SAMPLE = 5000  # rows that a fit keeps of those that it read in blocks


def checked(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, new: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let a model that can check its data do so, before any work; give the arguments as it returns them.

    Parameters
    ----------
    new : the rows are for a model that is fitted already; a model whose `validate` does not know of that is
        not asked.

    Raises
    ------
    InputError : what the model refuses.
    """
    validate = getattr(model, "validate", None)
    if validate is None or not (args or kwargs) or any(value is None for value in args):
        return tuple(args), dict(kwargs)
    signature = inspect.signature(validate)
    if new and "new" not in signature.parameters:
        return tuple(args), dict(kwargs)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # arguments of the program alone, such as `rows`
        return tuple(args), dict(kwargs)
    return tuple(validate(*bound.args, **bound.kwargs, **({"new": True} if new else {}))), {}


def record(
    program: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    observed: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Say how a call can be repeated from ArviZ's groups.

    Arrays that are already among the observed data are pointed to, not stored twice; other arrays become
    constant data, named as the program names its arguments.

    Returns
    -------
    The constant data, and root attributes with the recipe; no recipe where an argument cannot be stored
    (a function, an object): the fit is whole all the same, only the call cannot be repeated from it.
    """
    constant: dict[str, np.ndarray] = {}
    names = _positional_names(program, len(args))
    recipe = []
    for key, name, value in [
        *((i, names[i], value) for i, value in enumerate(args)),
        *((name, name, value) for name, value in kwargs.items()),
    ]:
        if value is None or isinstance(value, bool | int | float | str):
            recipe.append([key, "value", value])
            continue
        array = _numeric(value)
        if array is None:
            return constant, {}
        same = next((site for site, data in observed.items() if _same(data, array)), None)
        if same is not None:
            recipe.append([key, "observed_data", same.replace("/", ".")])
        else:
            constant[name] = array
            recipe.append([key, "constant_data", name])
    return constant, {ATTRIBUTE: json.dumps(recipe)}


def record_sample(program: Callable[..., Any], rows: np.ndarray) -> tuple[dict[str, Any], dict[str, str]]:
    """Have some of a sample of rows stand for all, where the fit cannot keep them (`triptych.rows`)."""
    kept = rows[:: -(-len(rows) // SAMPLE)]
    constant, attrs = record(program, (kept,), {}, {})
    return constant, {**attrs, SAMPLED: "yes"}


def is_sample(data: xr.DataTree) -> bool:
    """Tell whether what `recall` gives is a sample of the rows that were fitted."""
    return SAMPLED in data.attrs


def recall(data: xr.DataTree) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Give the (args, kwargs) that a fit's program was called with, `None` where they were not kept."""
    text = data.attrs.get(ATTRIBUTE)
    if text is None:
        return None
    positional: dict[int, Any] = {}
    keywords: dict[str, Any] = {}
    for key, where, what in json.loads(text):
        value = what if where == "value" else data[where].dataset[what].values
        if isinstance(key, int):
            positional[key] = value
        else:
            keywords[key] = value
    return tuple(positional[i] for i in sorted(positional)), keywords


def _positional_names(program: Callable[..., Any], count: int) -> list[str]:
    fallback = [f"argument_{i}" for i in range(count)]
    try:
        parameters = list(inspect.signature(program).parameters.values())
    except (TypeError, ValueError):
        return fallback
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return (named + fallback[len(named) :])[:count]


def _numeric(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except Exception:  # an object of the user's that refuses to be an array
        return None
    return array if array.dtype.kind in "biuf" else None


def _same(data: np.ndarray, array: np.ndarray) -> bool:
    # The dtype too: the call must be repeated in the precision it had.
    return (
        data.shape == array.shape
        and data.dtype == array.dtype
        and np.array_equal(data, array, equal_nan=True)
    )


def with_arrays(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[jax.Array, ...]]:
    """Give a model as a program of its arrays alone: sizes, names and flags stay what they are."""
    leaves, tree = jax.tree.flatten((args, dict(kwargs)))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | np.generic | jax.Array)]

    def program(*arrays: Any) -> Any:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        given, named = jax.tree.unflatten(tree, filled)
        return model(*given, **named)

    program.__name__ = getattr(model, "__name__", type(model).__name__)
    return program, tuple(jnp.asarray(leaves[place]) for place in places)
