"""Data drawn again: a program with its parameters held and its data drawn, draw after draw of a fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import xarray as xr
from numpyro import handlers
from numpyro.primitives import Messenger

from triptych.inference.arguments import checked, with_arrays
from triptych.inference.effort import briefly, cells
from triptych.inference.fit import Fit
from triptych.inference.marginal import marginal
from triptych.inference.posterior import draws as draws_of
from triptych.inference.posterior import variable
from triptych.inference.precision import matching_precision
from triptych.models.errors import InputError

__all__ = ["Redrawn", "Replicator", "predict", "with_predictions"]

LARGEST = 10_000_000  # numbers drawn in all; above, fewer draws


class Redrawn(Messenger):
    """Let what a program conditions on be drawn; factors, which cannot be, stay.

    Raises
    ------
    InputError : a `scan`, whose body is run apart, so that its data would stay what they are.
    """

    def process_message(self, msg: Any) -> None:
        """Take the observed value away."""
        if msg["type"] == "control_flow":
            raise InputError(
                "What a `scan` observes is not drawn here: there are no replicates of it, and its "
                "calibration needs `simulate=`, a function key → (parameters, args)."
            )
        if msg["type"] == "sample" and msg["is_observed"] and not isinstance(msg["fn"], dist.Unit):
            msg["is_observed"], msg["value"] = False, None


@dataclasses.dataclass(frozen=True, eq=False)
class Replicator:
    """Draws of a program's data given parameters, p(x | θ), compiled once for all fits to the same data.

    Discrete latents are drawn anew with the data; continuous ones that a fit has draws of are held.

    Attributes
    ----------
    size : numbers in one replicate.
    """

    size: int
    run: Callable[[jax.Array, Mapping[str, Any]], dict[str, jax.Array]]

    @classmethod
    def of(cls, model: Callable[..., Any], *args: Any, **kwargs: Any) -> Replicator:
        """Bind a program to what it is called with.

        Raises
        ------
        InputError : a chain written with `scan`, whose steps are not drawn here.
        """
        structure = marginal(model).structure(*args, **kwargs)
        if any(latent.chain is not None for latent in structure.latents.values()):
            raise InputError("The steps of a `scan` are not drawn again: there are no replicates of a chain.")
        program, arrays = with_arrays(model, args, kwargs)
        sites = tuple(structure.observed)

        def run(key: jax.Array, thetas: Mapping[str, Any], arrays: Any) -> dict[str, jax.Array]:
            def one(both: tuple[Any, Any]) -> dict[str, jax.Array]:
                held = handlers.substitute(program, data=both[1])
                with handlers.trace() as trace, handlers.seed(rng_seed=both[0]), Redrawn():
                    held(*arrays)
                return {site: jnp.asarray(trace[site]["value"]) for site in sites}

            keys = jax.random.split(key, len(next(iter(thetas.values()))))
            return jax.lax.map(one, (keys, dict(thetas)))

        size = sum(int(np.prod(shape)) for shape in structure.observed.values())
        run = briefly(run, 400 * cells(arrays))
        return cls(size, lambda key, thetas: run(key, thetas, arrays))

    def draw(self, key: jax.Array, fit: Fit, draws: int) -> dict[str, np.ndarray]:
        """Draw at most so many replicates: observed site → (draws, …), evenly from a fit's draws."""
        flat = {s: v.reshape(-1, *v.shape[2:]) for s, v in draws_of(fit).items()}
        there = len(next(iter(flat.values())))
        count = int(min(draws, there, max(20, LARGEST // max(self.size, 1))))
        chosen = np.linspace(0, there - 1, count).astype(int)
        thetas = {site: values[chosen] for site, values in flat.items()}
        return jax.tree.map(np.asarray, self.run(key, thetas))


def predict(fit: Fit, key: jax.Array, *args: Any, draws: int = 400, **kwargs: Any) -> xr.Dataset:
    """Draw from the posterior predictive, x* ~ p(x | θ_s), θ_s the fit's own draws.

    Parameters
    ----------
    fit : of any method; EM's draws are those around its optimum.
    key : random key.
    *args, **kwargs : what the program is called with: the data of the fit for replicates of them, others (a
        new design; rows of which only the shape counts) for predictions.
    draws : how many, at most; fewer where a data set is large.

    Returns
    -------
    Observed site → (chain = 1, draw, …).

    Raises
    ------
    InputError : a chain written with `scan`.
    """
    args, kwargs = checked(fit.model, args, kwargs, new=True)
    with matching_precision(args, kwargs):
        found = Replicator.of(fit.model, *args, **kwargs).draw(key, fit, draws)
    return _dataset(found)


def with_predictions(fit: Fit, key: jax.Array, *args: Any, draws: int = 400, **kwargs: Any) -> Fit:
    """Give the fit with its posterior predictive draws as ArviZ's group `posterior_predictive`."""
    tree = fit.data.copy()
    tree["posterior_predictive"] = xr.DataTree(predict(fit, key, *args, draws=draws, **kwargs))
    return dataclasses.replace(fit, data=tree)


def _dataset(found: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Name the dimensions as those of the observed data are."""
    return xr.Dataset(
        {
            variable(site): (
                ("chain", "draw", *(f"{variable(site)}_dim_{axis}" for axis in range(values.ndim - 1))),
                values[None],
            )
            for site, values in found.items()
        }
    )
