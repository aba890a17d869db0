"""Which guide SVI is to fit: NumPyro's autoguides by name, class or maker, or a guide of the user's own."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from triptych.inference.effort import briefly
from triptych.inference.starts import Start
from triptych.models.errors import InputError

__all__ = [
    "Resolved",
    "guide_names",
    "is_point",
    "place_of",
    "resolve",
    "set_up",
    "shape_of",
    "unchecked",
    "whitened",
    "whitening",
]

# Neither a guide to name nor one that a program alone can be given to.
BASES = ("AutoGuide", "AutoContinuous")
# Guides that are as good in any linear coordinates, and so are given uncorrelated ones.
UNCORRELATED = ("AutoMultivariateNormal", "AutoLaplaceApproximation", "AutoDelta", "AutoIAFNormal")
UNCORRELATED += ("AutoBNAFNormal", "AutoDAIS")


class Resolved(NamedTuple):
    """A guide ready for SVI.

    Attributes
    ----------
    guide : the guide program.
    own : whether it is the user's, for the sites of the program itself, and not one on the whitened space.
    name : what to call it.
    """

    guide: Any
    own: bool
    name: str


def guide_names() -> tuple[str, ...]:
    """Name the autoguides of NumPyro that need nothing but the program."""
    return tuple(name for name, kind in _kinds().items() if not _missing(kind))


def resolve(
    guide: Any, program: Callable[[], None], start: Start | None, options: Mapping[str, Any]
) -> Resolved:
    """Make the guide.

    Parameters
    ----------
    guide : name or class of an autoguide; a function that makes one from a program; an autoguide already
        made, on the marginal of the program; or a guide program with a sample site for each parameter.
    program : the whitened program.
    start : where to begin; `None` to check the guide's name and options alone.
    options : keyword arguments of the autoguide.

    Raises
    ------
    InputError : no such guide, one that needs more than a program, or options it does not have.
    """
    from numpyro.infer.autoguide import AutoGuide

    if isinstance(guide, str):
        guide = _by_name(guide)
    if isinstance(guide, AutoGuide):
        return Resolved(_from_start(guide, start), True, type(guide).__name__)
    if isinstance(guide, type) and issubclass(guide, AutoGuide):
        return Resolved(
            _make(guide, program, 1 if start is None else len(start.centre), options), False, guide.__name__
        )
    if not callable(guide):
        raise InputError(
            f"`guide` is {type(guide).__name__}: give the name of an autoguide ({', '.join(guide_names())}), "
            "its class, or a guide program."
        )
    name = getattr(guide, "__name__", None) or type(guide).__name__
    made = _try_maker(guide, program)
    return Resolved(made, False, type(made).__name__) if made is not None else Resolved(guide, True, name)


def is_point(guide: Any) -> bool:
    """Whether a guide is a single point (its ELBO is then no bound on the evidence)."""
    from numpyro.infer.autoguide import AutoDelta

    return isinstance(guide, AutoDelta) or guide is AutoDelta or guide == "AutoDelta"


def whitening(start: Start, guide: Any) -> np.ndarray:
    """Give W, (p, p) or (p,) for a diagonal one: u = centre + W z has about unit scales in z.

    A guide whose family no linear map changes (a full-rank Gaussian), or that is richer than Gaussian, is
    spared the posterior's correlations too; one that is to be mean-field or of low rank in u is only scaled.
    """
    name = guide if isinstance(guide, str) else getattr(guide, "__name__", "")
    factor = start.factor
    if factor is None or factor.shape[1] < len(start.centre) or name not in UNCORRELATED:
        return start.scale
    return factor


def whitened(size: int) -> Callable[..., None]:
    """Give a posterior as a program with one site, z ∈ R^p, u = centre + W z.

    Adam's steps then have the size of the posterior's own scales, whatever the units of the data. The program
    is called with the log density of u, the centre (p,), W, (p, p) or (p,) for a diagonal one, and log |W|.
    """
    import numpyro
    from numpyro.distributions import ImproperUniform, constraints

    def program(density: Any, centre: Any, matrix: Any, log_volume: Any) -> None:
        z = numpyro.sample("z", ImproperUniform(constraints.real_vector, (), (size,)))
        with numpyro.handlers.block():  # the sites inside the density are not this program's
            value = density(centre + (matrix * z if matrix.ndim == 1 else matrix @ z))
        numpyro.factor("log_density", value + log_volume)

    return program


def shape_of(size: int) -> Callable[..., None]:
    """Give the site of `whitened` without its density: all that setting up a Gaussian guide looks at."""
    import numpyro
    from numpyro.distributions import ImproperUniform, constraints

    def program(*_: Any) -> None:
        numpyro.sample("z", ImproperUniform(constraints.real_vector, (), (size,)))

    return program


def place_of(start: Start, matrix: np.ndarray, *, volume: bool = True) -> tuple[jax.Array, ...]:
    """Give what `whitened` is called with beside the density; log |W| is 0 without `volume`."""
    log_volume = np.sum(np.log(matrix)) if matrix.ndim == 1 else np.linalg.slogdet(matrix)[1]
    return (
        jnp.asarray(start.centre, float),
        jnp.asarray(matrix, float),
        jnp.asarray(log_volume if volume else 0.0, float),
    )


def set_up(guide: Any) -> None:
    """Let an autoguide look at its program: compiled whole, and the arrays that it keeps put in its place."""
    from numpyro import handlers

    found: dict[str, Any] = {}

    def look() -> list[Any]:
        with handlers.block(), handlers.seed(rng_seed=0):
            guide._setup_prototype()
        leaves, found["tree"] = jax.tree.flatten(dict(vars(guide)))
        found["known"] = [None if isinstance(leaf, Tracer) else (leaf,) for leaf in leaves]
        return [leaf for leaf in leaves if isinstance(leaf, Tracer)]

    computed = iter(briefly(look, 0)())
    leaves = [next(computed) if known is None else known[0] for known in found["known"]]
    vars(guide).update(jax.tree.unflatten(found["tree"], leaves))


def unchecked(guide: Callable[..., Any]) -> Callable[..., Any]:
    """Give a guide whose distributions check nothing: NumPyro compiles each step of looking at them."""
    from numpyro import validation_enabled

    def program(*args: Any, **kwargs: Any) -> Any:
        with validation_enabled(False):
            return guide(*args, **kwargs)

    return program


def _from_start(guide: Any, start: Start | None) -> Any:
    """Give a copy of the user's autoguide that begins at the start, unless it says itself where to begin."""
    from numpyro.infer.initialization import init_to_uniform, init_to_value

    if start is None or guide.prototype_trace is not None or guide.init_loc_fn is not init_to_uniform:
        return guide
    moved = copy.copy(guide)
    moved.init_loc_fn = init_to_value(values=start.space.constrain(jnp.asarray(start.centre, float)))
    return moved


def _kinds() -> dict[str, type]:
    from numpyro.infer import autoguide

    return {
        name: kind
        for name, kind in sorted(vars(autoguide).items())
        if isinstance(kind, type) and issubclass(kind, autoguide.AutoGuide) and name not in BASES
    }


def _missing(kind: type) -> str | None:
    """Say what a guide needs beyond a program."""
    if kind.__name__ == "AutoGuideList":
        return "guides to put together"
    required = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return ", ".join(f"`{name}`" for name in required[1:]) or None


def _by_name(name: str) -> type:
    kinds = _kinds()
    if name in kinds:
        return kinds[name]
    near = difflib.get_close_matches(name, guide_names(), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"There is no guide {name!r}.{hint} The guides are: {', '.join(guide_names())}.")


def _make(kind: type, program: Callable[[], None], size: int, options: Mapping[str, Any]) -> Any:
    from numpyro.infer.initialization import init_to_value

    accepted = inspect.signature(kind).parameters
    missing = _missing(kind)
    if missing and not all(name.strip("`") in options for name in missing.split(", ")):
        raise InputError(
            f"{kind.__name__} needs {missing} beside the program: build it yourself on `marginal(model)` and "
            "give the guide itself, or choose another."
        )
    unknown = [name for name in options if name not in accepted]
    if unknown:
        known = ", ".join(name for name in accepted if name not in ("self", "model", "prefix", "init_loc_fn"))
        raise InputError(f"{kind.__name__} has no option {unknown[0]!r}: it has {known}.")
    extra: dict[str, Any] = {}
    if "init_loc_fn" in accepted:
        extra["init_loc_fn"] = init_to_value(values={"z": np.zeros(size, jnp.result_type(float))})
    if "batch_ndim" in accepted:
        extra["batch_ndim"] = 0  # the coordinates are one vector
    if "init_scale" in accepted:
        extra["init_scale"] = 1.0  # z has unit scales
    return kind(program, **(extra | dict(options)))


def _try_maker(guide: Callable[..., Any], program: Callable[[], None]) -> Any | None:
    """Call `guide` with a program, quietly, to see whether it makes an autoguide."""
    from numpyro import handlers
    from numpyro.infer.autoguide import AutoGuide

    try:
        with handlers.block(), handlers.seed(rng_seed=0):
            made = guide(program)
    except Exception:  # a guide program, not made for this argument
        return None
    return made if isinstance(made, AutoGuide) else None
