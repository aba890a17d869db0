"""A program as a generator of data sets: parameters from its prior, data from them, the prior held fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers

from triptych.inference.arguments import checked, with_arrays
from triptych.inference.marginal import marginal
from triptych.inference.posterior import observed
from triptych.inference.replicate import Redrawn
from triptych.inference.survey import feasible
from triptych.models.distributions import Flat
from triptych.models.errors import InputError
from triptych.models.linear_regression import BayesianLinearRegression

__all__ = ["Generator", "Simulated", "fixed", "generator"]


class Simulated(NamedTuple):
    """Parameters drawn from the prior, and the arguments of the program with data drawn from them."""

    parameters: dict[str, np.ndarray]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Generator = Callable[[jax.Array], Simulated]


def fixed(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], bool]:
    """Give a model whose prior no longer follows the data, and whether it did so before."""
    fix: Any = getattr(model, "fix_prior", None)
    if fix is None:
        return model, False
    held = fix(*args, **kwargs)
    return held, held != model


def generator(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], key: jax.Array
) -> Generator:
    """Make a function key → (parameters, data) of a program called as in the example.

    Arguments that are equal to an observed site are data, and are drawn; all others (a design, sizes) are
    conditioned on. Cells that are NaN in the example are NaN in every data set: missing at random.

    Parameters
    ----------
    model : a program with a proper prior that does not depend on the data (`fixed`).
    args, kwargs : an example call; its data set shapes, no more.
    key : for the check of the prior.

    Raises
    ------
    InputError : a site that cannot be drawn, data that are no argument, a prior that follows the data.
    """
    args, kwargs = checked(model, args, kwargs)
    m = marginal(model)
    structure = m.structure(*args, **kwargs)
    leaves, tree = jax.tree.flatten((tuple(args), dict(kwargs)))
    places = _places(leaves, observed(m, args, kwargs))
    _check_sites(model, args, kwargs)
    program, arrays = with_arrays(model, args, kwargs)
    names = tuple(structure.parameters)

    @jax.jit
    def draw(key: jax.Array, *arrays: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        with handlers.trace() as trace, handlers.seed(rng_seed=key), Redrawn():
            program(*arrays)
        return {n: trace[n]["value"] for n in names}, {n: trace[n]["value"] for n in places}

    def generate(key: jax.Array) -> Simulated:
        parameters, data = jax.tree.map(np.asarray, draw(key, *arrays))
        filled = list(leaves)
        for site, (place, example) in places.items():
            value = data[site].astype(example.dtype)
            if example.dtype.kind == "f":
                value = np.where(np.isnan(example), np.nan, value)
            filled[place] = value
        given, named = jax.tree.unflatten(tree, filled)
        return Simulated(parameters, given, named)

    _check_prior(model, names, generate(key), (tuple(args), dict(kwargs)), key)
    return generate


def _places(leaves: Sequence[Any], values: Mapping[str, np.ndarray]) -> dict[str, tuple[int, np.ndarray]]:
    """Find the argument that each observed site takes its value from: site → (which leaf, its array)."""
    found = {}
    for site, value in values.items():
        for place, leaf in enumerate(leaves):
            array = np.asarray(leaf) if np.ndim(leaf) else None
            same = array is not None and array.dtype.kind in "biuf" and array.shape == np.shape(value)
            if array is not None and same and np.array_equal(array, value, equal_nan=array.dtype.kind == "f"):
                found[site] = (place, array)
                break
        else:
            raise InputError(
                f"The data of site {site!r} are not one of the program's arguments as it is, so that no "
                "other data can be put in their place: make them an argument, or give `simulate=`, a "
                "function key → (parameters, args)."
            )
    if not found:
        raise InputError("The program observes nothing: there are no data to be drawn.")
    return found


def _check_sites(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse what cannot be drawn, by name."""
    cure = "or give `simulate=`, a function key → (parameters, args)."
    with handlers.trace() as trace, handlers.seed(rng_seed=0):
        handlers.substitute(model, substitute_fn=feasible)(*args, **kwargs)  # an improper prior has no draw
    for name, site in trace.items():
        fn: Any = site.get("fn")
        if site["type"] == "param":
            raise InputError(
                f"`numpyro.param` {name!r} has no prior to be drawn from: give it a proper one, {cure}"
            )
        if site["type"] != "sample":
            continue
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        if isinstance(fn, dist.Unit):
            raise InputError(
                f"Site {name!r} is a factor, which weighs and cannot be drawn from (known labels are one): "
                f"leave it out, {cure}"
            )
        # A flat prior along which the data can only be shifted: the ranks are those at any one value.
        shifted = isinstance(model, BayesianLinearRegression) and isinstance(fn, Flat)
        if isinstance(fn, dist.ImproperUniform | Flat) and not shifted:
            raise InputError(f"The prior of site {name!r} is improper: give it a proper one, {cure}")


def _check_prior(
    model: Callable[..., Any],
    names: Sequence[str],
    drawn: Simulated,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    key: jax.Array,
) -> None:
    """Check that log p(θ) is the same beside the example's data and beside the drawn ones, site by site."""

    def prior(args: Any, kwargs: Any) -> dict[str, Any]:
        values = {name: jnp.asarray(value) for name, value in drawn.parameters.items()}
        held = handlers.substitute(model, data=values)
        with handlers.trace() as trace, handlers.seed(rng_seed=key):
            held(*args, **kwargs)
        return {n: jnp.sum(trace[n]["fn"].log_prob(trace[n]["value"])) for n in names}

    here, there = prior(*example), prior(drawn.args, drawn.kwargs)
    for name in names:
        if not np.allclose(float(here[name]), float(there[name]), rtol=1e-6, atol=1e-6, equal_nan=True):
            raise InputError(
                f"The prior of site {name!r} follows the data, so that data drawn from it are fitted under "
                "another one: give the program hyper-parameters of their own, as arguments or constants "
                "(a built-in model's `fix_prior(data)` does)."
            )
