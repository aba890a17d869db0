"""Checks of data, made before any work starts: each error says what, where and what to do."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from triptych.models.errors import InputError

__all__ = [
    "as_float",
    "binary",
    "cells_in_every_column",
    "distinct_rows",
    "enough_rows",
    "float64_unless_traced",
    "independent_columns",
    "labels",
    "same_width",
    "table",
    "table_shape",
    "varying_columns",
    "vector",
]


def table_shape(x: Any, name: str = "x") -> tuple[int, int]:
    """Give (N, D) of an array that may be traced, so that only its shape can be checked."""
    shape = np.shape(x)
    if len(shape) != 2:
        raise InputError(f"`{name}` must have two dimensions (rows, columns), but has shape {shape}.")
    return shape[0], shape[1]


def as_float(x: Any) -> jax.Array:
    """Give `x`, traced or not, as a JAX array of its own floating type, or of the default one."""
    array = x if isinstance(x, jax.Array) else jnp.asarray(np.asarray(x))
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def same_width(site: str, value: Any, columns: int, name: str = "x") -> None:
    """Check that the value of a site is for as many columns as the data have."""
    if value.shape[-1] != columns:
        raise InputError(
            f"`{name}` has {columns} columns, but `{site}` has {value.shape[-1]}: "
            "give the columns that the model was fitted to."
        )


def float64_unless_traced(x: Any) -> Any:
    """Give `x` as NumPy float64, so that a prior is exact; a traced array is left as it is."""
    return x if isinstance(x, Tracer) else np.asarray(x, np.float64)


def table(
    x: Any, name: str = "x", *, cure: str = "drop those rows or fill the values in", missing: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Give `x` as a finite float array (N, D) with the names of its columns.

    float32 stays float32 (and float16 becomes it); everything else becomes float64. With `missing`, NaN is
    let through, and so are masked cells and pandas' NA, as NaN.

    Raises
    ------
    InputError : not two-dimensional, empty, not numbers, NaN or infinite (row and column named).
    """
    labels = getattr(x, "columns", None)
    array = _numbers(_with_nan(x) if missing else x, name, labels)
    if array.ndim != 2:
        cure = f"; give one column as `{name}[:, None]`" if array.ndim == 1 else ""
        raise InputError(
            f"`{name}` must have two dimensions (rows, columns), but has shape {array.shape}{cure}."
        )
    if 0 in array.shape:
        raise InputError(f"`{name}` must have at least one row and one column, but has shape {array.shape}.")
    names = [str(column) for column in (labels if labels is not None else range(array.shape[1]))]
    _finite(array, name, names, cure, missing=missing)
    return array, names


def vector(y: Any, name: str, rows: int, against: str) -> np.ndarray:
    """Give `y` as a finite float array (N,) with as many rows as the array called `against`."""
    array = _numbers(y, name, None)
    if array.ndim == 2 and array.shape[1] == 1:
        raise InputError(
            f"`{name}` must have one dimension, but has shape {array.shape}: give `{name}.ravel()`."
        )
    if array.ndim != 1:
        raise InputError(f"`{name}` must have one dimension (rows,), but has shape {array.shape}.")
    if len(array) != rows:
        raise InputError(
            f"`{name}` has {len(array)} values but `{against}` has {rows} rows: give one value a row."
        )
    _finite(array[:, None], name, [""])
    return array


def labels(z: Any, rows: int, components: int) -> np.ndarray:
    """Give the labels `z` (N,) of some of the rows as whole numbers, −1 where there is none.

    Raises
    ------
    InputError : not one a row, or none of the components 0 to K − 1.
    """
    array = _numbers(_with_nan(z), "z", None)
    if array.shape != (rows,):
        raise InputError(
            f"`z` has shape {array.shape}, but `x` has {rows} rows: give one label a row, ({rows},)."
        )
    array = np.where(np.isnan(array) | (array == -1), -1.0, array)
    wrong = (array != np.floor(array)) | (array < -1) | (array >= components)
    if np.any(wrong):
        row = int(np.argmax(wrong))
        span = "0" if components == 1 else f"0 to {components - 1}"
        raise InputError(
            f"`z` is {array[row]:g} at row {row}, which is none of the {components} components: number the "
            f"labels {span}, give −1 or NaN where a row has none, or ask for more components."
        )
    return array.astype(int)


def cells_in_every_column(x: np.ndarray, names: Sequence[str], name: str = "x") -> None:
    """Check that every column has a cell that is not NaN."""
    empty = [names[column] for column in np.flatnonzero(np.all(np.isnan(x), axis=0)).tolist()]
    if empty:
        raise InputError(f"{_columns(empty)} of `{name}` {_has(empty)} no observed cell: drop {_it(empty)}.")


def enough_rows(x: np.ndarray, least: int, why: str, name: str = "x") -> None:
    """Check that there are at least `least` rows."""
    if len(x) < least:
        rows = "1 row" if len(x) == 1 else f"{len(x)} rows"
        raise InputError(f"`{name}` has {rows}, but {why}: give at least {least} rows.")


def distinct_rows(x: np.ndarray, least: int, name: str = "x") -> None:
    """Check that at least `least` rows differ from one another; repeated rows are welcome otherwise."""
    if np.any(np.isnan(x)):
        x = np.where(np.isnan(x), np.finfo(x.dtype).max, x)  # missing is equal to missing
    # Sorting a large table is slow and hardly ever needed: look at more rows only while too few differ.
    seen, look = 0, 16 * least
    while True:
        seen = len(np.unique(x[:look], axis=0))
        if seen >= least:
            return
        if look >= len(x):
            break
        look *= 8
    cure = f"ask for at most {seen} components" if seen > 1 else "there is nothing to tell apart"
    rows = "distinct rows" if seen > 1 else "distinct row"
    raise InputError(f"`{name}` has only {seen} {rows} among its {len(x)}, fewer than {least}: {cure}.")


def varying_columns(x: np.ndarray, names: Sequence[str], cure: str, name: str = "x") -> None:
    """Check that every column varies, by an amount whose square the arithmetic can hold."""
    highest, lowest = _columnwise(np.fmax, x), _columnwise(np.fmin, x)  # missing cells (NaN) left out
    width = highest - lowest
    if not np.all(width > 0):
        constant = [names[column] for column in np.flatnonzero(~(width > 0)).tolist()]
        if name == "y":
            raise InputError(f"`y` is constant: {cure}.")
        raise InputError(f"{_columns(constant)} of `{name}` {_is(constant)} constant: {cure}.")
    limits = np.finfo(x.dtype)
    largest, least = np.sqrt(limits.max / len(x)), np.sqrt(limits.tiny / limits.eps)
    extreme = (np.maximum(highest, -lowest) > largest) | (width < least)
    if np.any(extreme):
        which = [names[column] for column in np.flatnonzero(extreme).tolist()]
        raise InputError(
            f"{_columns(which)} of `{name}` {_is(which)} too large or too small "
            f"to be squared in {x.dtype}: choose another unit."
        )


def _columnwise(operation: np.ufunc, x: np.ndarray, strip: int = 64) -> np.ndarray:
    """Reduce the rows of a table, many side by side first: NumPy is slow on rows of a few numbers."""
    wide = len(x) // strip * strip
    parts = [x[wide:]]
    if wide:
        parts.append(operation.reduce(x[:wide].reshape(wide // strip, -1), axis=0).reshape(strip, -1))
    return np.asarray(operation.reduce(np.concatenate(parts), axis=0))


def independent_columns(x: np.ndarray, names: Sequence[str], cure: str, name: str = "x") -> None:
    """Check that no column is a linear combination of the others (with a constant)."""
    rows, columns = x.shape
    if rows <= columns:
        raise InputError(
            f"`{name}` has {rows} rows and {columns} columns, but a covariance matrix of {columns} columns "
            f"needs more rows than columns: {cure}."
        )
    scaled = np.asarray(x, np.float64) - np.nanmean(x, axis=0, dtype=np.float64)
    scaled = np.where(np.isnan(scaled), 0.0, scaled)
    scaled /= np.sqrt(np.mean(scaled**2, axis=0))
    values, vectors = np.linalg.eigh(scaled.T @ scaled / rows)
    if values[0] < 4 * columns * np.finfo(x.dtype).eps:
        share = np.abs(vectors[:, 0])
        which = [names[column] for column in np.flatnonzero(share > 1e-3 * np.max(share)).tolist()]
        raise InputError(f"{_columns(which)} of `{name}` are linearly dependent: {cure}.")


def binary(x: np.ndarray, names: Sequence[str], name: str = "x") -> None:
    """Check that every value is 0 or 1."""
    wrong = (x != 0) & (x != 1)
    if np.any(wrong):
        row, column = np.argwhere(wrong)[0].tolist()
        raise InputError(
            f"`{name}` must hold only 0 and 1, but row {row}, column {names[column]} is {x[row, column]:g}: "
            "code the two answers as 0 and 1."
        )


def _numbers(x: Any, name: str, labels: Any) -> np.ndarray:
    """Give `x` as float32 or float64, or say which cell is not a number."""
    if hasattr(x, "tocsr"):
        raise InputError(f"`{name}` is a sparse matrix, which is not supported: give `{name}.toarray()`.")
    if np.ma.isMaskedArray(x) and np.ma.getmaskarray(x).any():
        raise InputError(f"`{name}` has masked values: drop or fill in the rows that have them.")
    try:
        array = np.asarray(x)
    except ValueError:
        raise InputError(
            f"`{name}` has rows of different lengths: give every row the same columns."
        ) from None
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    if array.dtype.kind == "O" and not any(isinstance(value, str) for value in array.flat):
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError):
            pass
    raise InputError(f"`{name}` must be numbers, but {_first_other(array, labels)}.")


def _first_other(array: np.ndarray, labels: Any) -> str:
    """Say where the first value is that is not a number."""
    for place, value in np.ndenumerate(array):
        if isinstance(value, str) or not isinstance(value, numbers.Real):
            where = ", ".join(
                f"{axis} {labels[index] if axis == 'column' and labels is not None else index}"
                for axis, index in zip(("row", "column"), place, strict=False)
            )
            shown = value.item() if isinstance(value, np.generic) else value
            return f"{where} is {shown!r}" if where else f"it is {shown!r}"
    return f"its type is {array.dtype}"


def _finite(
    array: np.ndarray,
    name: str,
    names: Sequence[str],
    cure: str = "drop those rows or fill the values in",
    *,
    missing: bool = False,
) -> None:
    """Check that every value is finite (or NaN, if let), or name the first that is not, and count them."""
    finite = ~np.isinf(array) if missing else np.isfinite(array)
    if np.all(finite):
        return
    row, column = np.argwhere(~finite)[0].tolist()
    what = "NaN" if np.isnan(array[row, column]) else "infinite"
    where = f"row {row}, column {names[column]}" if names[column] else f"row {row}"
    count = int(np.sum(~finite))
    more = f" (and {count - 1} more such values)" if count > 1 else ""
    raise InputError(f"`{name}` is {what} at {where}{more}: {cure}.")


def _columns(names: Sequence[str]) -> str:
    """Give "Column a" or "Columns a, b, c", cut off after eight."""
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"Column{'s' if len(names) > 1 else ''} {shown}"


def _with_nan(x: Any) -> Any:
    """Give masked cells and pandas' NA as NaN; anything else as it is."""
    if np.ma.isMaskedArray(x):
        return np.ma.filled(np.ma.asarray(x).astype(float), np.nan)
    try:
        array = np.asarray(x)
    except ValueError:
        return x
    if array.dtype.kind != "O":
        return x
    # pandas' NA is the one value that is neither equal to itself nor different, and None the other gap.
    gap = np.array([value is None or type(value).__name__ == "NAType" for value in array.flat], bool)
    return np.where(gap.reshape(array.shape), np.nan, array)


def _is(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _has(names: Sequence[str]) -> str:
    return "have" if len(names) > 1 else "has"


def _it(names: Sequence[str]) -> str:
    return "them" if len(names) > 1 else "it"
