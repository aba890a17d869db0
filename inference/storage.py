"""Fits on disk: one NetCDF file each, never pickle, written whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from triptych.inference.fit import Bound, Evidence, Fit, Route, Seconds
from triptych.inference.status import Finding, Status
from triptych.models.errors import InputError

__all__ = ["MissingProgram", "load", "save"]

GROUP = "triptych"  # the group, beside ArviZ's, with what is triptych's own
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class MissingProgram:
    """Stands for a program that a file can name but not hold; calling it says how to supply it."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise an `InputError` that says how to load the fit with its program."""
        raise InputError(
            f"This fit was made with the program {self.name!r}, which a file cannot hold: "
            "load it with `triptych.load(path, model=the_program)`."
        )


def save(fit: Fit, path: str | PathLike[str]) -> None:
    """Write a fit to one NetCDF file (HDF5 underneath).

    The file appears under its name only when it is complete: a cut-off save leaves what was there.

    Raises
    ------
    InputError : the folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"Cannot save to {str(path)!r}: it is a folder. Give the name of a file in it.")
    if not path.parent.is_dir():
        raise InputError(
            f"Cannot save {path.name!r}: the folder {str(path.parent)!r} does not exist. Make it first."
        )
    tree = fit.data.copy()
    tree[GROUP] = xr.DataTree(_own_dataset(fit))
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise InputError(f"Cannot write to the folder {str(path.parent)!r}: {error.strerror}.") from error
    os.close(handle)
    try:
        tree.to_netcdf(temporary, engine="h5netcdf")
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes a private file; a result is as readable as any other file of the user's.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def load(path: str | PathLike[str], model: Callable[..., Any] | None = None) -> Fit:
    """Read a fit that `save` wrote.

    Parameters
    ----------
    path : the file.
    model : the program, for a fit of a program that is not built in; built-in models are made again
        from their name and fields. Without it such a fit can be read and compared, but not called.

    Raises
    ------
    InputError : no such file, or not (or no longer) a whole fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {str(path)!r}.")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            tree = opened.load()
    except Exception as error:  # h5py and xarray raise many kinds for a damaged file
        raise InputError(
            f"Cannot read {str(path)!r}: it is not a NetCDF file, or it is damaged or cut off ({error}). "
            "Run the fit again."
        ) from error
    if GROUP not in tree.children:
        raise InputError(f"{str(path)!r} is a NetCDF file, but not a fit saved by triptych.")
    own = tree[GROUP].to_dataset()
    header = json.loads(own["header"].item())
    if header["format"] > FORMAT:
        raise InputError(
            f"{str(path)!r} was saved by a newer triptych ({header['version']}): upgrade to read it."
        )
    data = tree.copy()
    del data[GROUP]
    return Fit(
        method=header["method"],
        model=model if model is not None else _rebuild(header["model"]),
        status=Status[header["status"]],
        seconds=Seconds(*header["seconds"]),
        parameters={site: own[f"parameter_{i}"].values for i, site in enumerate(header["sites"])},
        log_likelihood=header["log_likelihood"],
        objective=own["objective"].values,
        data=data,
        evidence=_evidence(decode(header["evidence"])),
        findings=tuple(Finding(*finding) for finding in header["findings"]),
        settings=decode(header["settings"]),
    )


def _evidence(fields: dict[str, Any]) -> Evidence:
    """Make the ledger again; a file of an earlier version has fewer fields."""
    bounds = tuple(Bound(*bound) for bound in fields.pop("bounds", ()))
    routes = tuple(Route(*route) for route in fields.pop("routes", ()))
    return Evidence(**fields, bounds=bounds, routes=routes)


def _own_dataset(fit: Fit) -> xr.Dataset:
    header = {
        "format": FORMAT,
        "version": _version(),
        "method": fit.method,
        "model": _described(fit.model),
        "status": fit.status.name,
        "seconds": [float(second) for second in fit.seconds],
        "log_likelihood": float(fit.log_likelihood),
        "sites": list(fit.parameters),
        "evidence": encode(dataclasses.asdict(fit.evidence)),
        "findings": [list(finding) for finding in fit.findings],
        "settings": encode(dict(fit.settings)),
    }
    # Numbered names: a site may be called anything, a NetCDF variable may not.
    variables: dict[str, Any] = {
        f"parameter_{i}": _variable(f"parameter_{i}", value)
        for i, value in enumerate(fit.parameters.values())
    }
    variables["objective"] = _variable("objective", fit.objective)
    variables["header"] = ((), json.dumps(header))
    return xr.Dataset(variables)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triptych")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _variable(name: str, value: Any) -> tuple[tuple[str, ...], np.ndarray]:
    array = np.asarray(value)
    return tuple(f"{name}_dim_{axis}" for axis in range(array.ndim)), array


def _described(model: Callable[..., Any]) -> dict[str, Any]:
    from triptych.models import MODELS

    for name, kind in MODELS.items():
        if type(model) is kind:
            fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}  # type: ignore[arg-type]
            return {"name": name, "fields": encode(fields)}
    if isinstance(model, MissingProgram):
        return {"program": model.name}
    return {"program": getattr(model, "__qualname__", None) or type(model).__qualname__}


def _rebuild(description: Mapping[str, Any]) -> Callable[..., Any]:
    from triptych.models import MODELS

    if "program" in description:
        return MissingProgram(description["program"])
    return MODELS[description["name"]](**decode(description["fields"]))


def encode(value: Any) -> Any:
    """Turn settings into what JSON has, tuples and arrays marked; anything else becomes its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {"__tuple__": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        return {"__array__": array.tolist(), "dtype": str(array.dtype)}
    return getattr(value, "__qualname__", None) or str(value)


def decode(value: Any) -> Any:
    """Undo `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__tuple__" in value:
        return tuple(decode(item) for item in value["__tuple__"])
    if "__array__" in value:
        return np.asarray(value["__array__"], dtype=value["dtype"])
    return {key: decode(item) for key, item in value.items()}
