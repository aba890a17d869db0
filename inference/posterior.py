"""One layout of draws for the three methods: ArviZ's groups in a DataTree, dims (chain, draw, …)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from triptych.inference.arguments import record
from triptych.inference.batches import bounded, in_batches
from triptych.inference.effort import briefly, cells
from triptych.inference.precision import matching_precision
from triptych.inference.scans import SteadyScan
from triptych.inference.sharing import shared
from triptych.inference.status import Finding
from triptych.inference.survey import feasible
from triptych.models.errors import InputError

__all__ = [
    "assemble",
    "batch_size",
    "build",
    "draws",
    "in_batches",
    "log_likelihood_at",
    "observed",
    "observed_values",
    "point_estimate",
    "pointwise",
    "prepared",
]

# Numbers (draws × rows) kept at most in the pointwise log-likelihood: 160 MB in float64.
LARGEST_LOG_LIKELIHOOD = 20_000_000


def build(
    posterior: Mapping[str, Any],
    *,
    log_likelihood: Mapping[str, Any] | None = None,
    sample_stats: Mapping[str, Any] | None = None,
    observed_data: Mapping[str, Any] | None = None,
    constant_data: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Put draws and what goes with them into ArviZ's groups, the same way for EM, SVI and MCMC.

    Parameters
    ----------
    posterior : site → (chain, draw, …); one chain for EM's Laplace draws and for SVI.
    log_likelihood : observed site → (chain, draw, rows), log p(x_n|θ) in nats, latents summed out.
    sample_stats : name → (chain, draw).
    observed_data, constant_data : name → array without sample dims.
    coords, dims : as in `arviz_base.from_dict`.
    attrs : attributes of the root.

    Returns
    -------
    A DataTree on which `arviz_stats.loo`, `summary` and `rhat` work. A site named "a/b" becomes the variable
    "a.b", because a slash separates groups.

    Raises
    ------
    InputError : a site is named as a sample dimension ("chain", "draw"), or two names become one.
    """
    from arviz_base import from_dict

    groups = {
        "posterior": posterior,
        "log_likelihood": log_likelihood,
        "sample_stats": sample_stats,
        "observed_data": observed_data,
        "constant_data": constant_data,
    }
    named = {group: _named(variables) for group, variables in groups.items() if variables}
    tree = from_dict(
        named,
        coords=dict(coords) if coords else None,
        dims={variable(name): list(names) for name, names in (dims or {}).items()},
        # A single draw of many chains is ours to judge, not a convention to warn about.
        check_conventions=False,
    )
    tree.attrs = {"creation_library": "triptych", **(attrs or {})}
    return tree


def variable(site: str) -> str:
    """Give the name a site has in the DataTree, where a slash separates groups."""
    return site.replace("/", ".")


def _named(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    named: dict[str, np.ndarray] = {}
    for site, value in variables.items():
        name = variable(site)
        if name in ("chain", "draw"):
            raise InputError(f"Site {site!r} has the name of a sample dimension: call it something else.")
        if name in named:
            raise InputError(f"Two sites are called {name!r} once slashes are dots: rename one.")
        named[name] = np.asarray(value)
    return named


def draws(fit: Any) -> dict[str, np.ndarray]:
    """Give a fit's posterior draws under their site names, each (chain, draw, …)."""
    posterior = fit.data["posterior"].dataset
    return {site: posterior[variable(site)].values for site in fit.parameters}


def point_estimate(samples: Mapping[str, np.ndarray], supports: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Give the posterior mean of every site, as a point that the program accepts.

    The mean of the draws where the support is convex (the real line, the simplex, positive definite
    matrices, …); where it leaves the support (a correlation Cholesky factor), the mean in the
    unconstrained space, carried back.

    Parameters
    ----------
    samples : site → (chain, draw, …), labels aligned.
    supports : site → NumPyro constraint.

    Returns
    -------
    site → array without the sample dims.
    """
    from numpyro.distributions import biject_to

    estimate = {}
    with matching_precision(samples):
        for site, values in samples.items():
            mean = np.mean(values, axis=(0, 1))
            support = supports.get(site)
            if support is not None and not np.all(support(mean)):
                transform = biject_to(support)
                unconstrained = transform.inv(jnp.asarray(values))
                mean = np.asarray(transform(jnp.mean(unconstrained, axis=(0, 1))))
            estimate[site] = np.asarray(mean)
    return estimate


def batch_size(structure: Any) -> int:
    """Say how many densities of a program may be computed at a time, from its observed sites."""
    return bounded(max([int(np.prod(shape[:1])) for shape in structure.observed.values()] or [1]))


def pointwise(
    m: Any, samples: Mapping[str, np.ndarray], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray] | None, tuple[Finding, ...]]:
    """Give log p(x_n | θ_s) for every row and draw, discrete latents summed out, in nats.

    Parameters
    ----------
    m : the marginal of the program.
    samples : site → (chain, draw, …).

    Returns
    -------
    observed site → (chain, draw, rows), or `None` with a finding where that would not fit in memory. A chain
    alone is one unit, which nothing can be left out of: it is left out itself, with a finding.
    """
    chains, count = next(iter(samples.values())).shape[:2] if samples else (0, 0)
    if chains * count == 0:
        return None, ()

    with matching_precision(samples, args, dict(kwargs)):
        flat = {site: np.reshape(v, (chains * count, *v.shape[2:])) for site, v in samples.items()}
        first = {site: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for site, v in flat.items()}
        shapes = jax.eval_shape(lambda theta: m.log_likelihood(theta, *args, **kwargs), first)
        chains_of = [latent for latent in m.structure(*args, **kwargs).latents.values() if latent.chain]
        whole = {name for name, shape in shapes.items() if chains_of and not shape.shape}
        # At a single point nobody asks for `loo`.
        findings = tuple(_one_unit(name) for name in sorted(whole)) if chains * count > 1 else ()
        if whole == set(shapes):
            return None, findings
        rows = sum(int(np.prod(shape.shape)) for name, shape in shapes.items() if name not in whole)
        if rows * chains * count > LARGEST_LOG_LIKELIHOOD:
            finding = Finding(
                "LOG_LIKELIHOOD_SKIPPED",
                f"The pointwise log-likelihood of {chains * count} draws on {rows} rows was not stored "
                f"(more than {LARGEST_LOG_LIKELIHOOD} numbers): `loo` needs it. Ask for fewer draws.",
            )
            return None, (finding, *findings)
        one = _units(m, args, kwargs, frozenset(whole))
        values = in_batches(one, flat, bounded(rows), numbers=cells(args, kwargs))
    return {name: v.reshape(chains, count, *v.shape[1:]) for name, v in values.items()}, findings


def _units(m: Any, args: Sequence[Any], kwargs: Mapping[str, Any], whole: frozenset[str]) -> Any:
    """Give the function θ → units of log-likelihood, those left out that are a whole chain."""

    def one(parameters: Any) -> Any:
        units = m.log_likelihood(parameters, *args, **kwargs)
        return {name: unit for name, unit in units.items() if name not in whole}

    return shared(("log likelihood", whole), m, args, kwargs, lambda: one)


def _one_unit(name: str) -> Finding:
    return Finding(
        "ONE_CHAIN",
        f"All of '{name}' is one chain, of which no step can be left out: there is no pointwise "
        "log-likelihood and no `loo`. `marginal(model).one_step_ahead` gives the log density of each step "
        "given the past.",
    )


def observed(
    program: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Give the values of a program's observed sites, read off one trace of it."""
    with matching_precision(args, dict(kwargs)):
        # Compiled as one program, from which XLA drops the draws that no observed value needs.
        values = functools.partial(observed_values, program, args, kwargs)
        return jax.tree.map(np.asarray, briefly(values, 0)())


def observed_values(
    program: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Give `observed` to whoever compiles it."""
    import numpyro
    from numpyro import handlers

    source = getattr(program, "program", program)
    # Continuous sites get any value of their support: a flat prior has no draws.
    filled = handlers.substitute(source, substitute_fn=feasible)
    with SteadyScan():
        trace = handlers.trace(handlers.seed(filled, jax.random.key(0))).get_trace(*args, **kwargs)
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "sample"
        and site["is_observed"]
        and not isinstance(site["fn"], numpyro.distributions.Unit)
    }


def log_likelihood_at(
    m: Any, parameters: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> float:
    """Give log p(x|θ) at one θ, summed over rows, latents summed out, in nats."""
    with matching_precision(parameters, args, dict(kwargs)):
        flat = {site: np.asarray(value)[None] for site, value in parameters.items()}
        batch = batch_size(m.structure(*args, **kwargs))
        one = _units(m, args, kwargs, frozenset())
        rows = in_batches(one, flat, batch, numbers=cells(args, kwargs))
        return float(sum(np.sum(row, dtype=float) for row in jax.tree.leaves(rows)))


def prepared(
    m: Any,
    samples: Mapping[str, np.ndarray],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    sample_stats: Mapping[str, Any] | None = None,
    likelihoods: bool = True,
    observed_data: Mapping[str, np.ndarray] | None = None,
) -> tuple[Callable[[], xr.DataTree], tuple[Finding, ...]]:
    """Collect a fit's data from its draws: log-likelihoods, observed data and the call's arguments added.

    Parameters
    ----------
    m : the marginal of the program.
    samples : site → (chain, draw, …).
    args, kwargs : what the program was called with.
    likelihoods : whether to add the pointwise log-likelihood, whose program has to be compiled.
    observed_data : site → its values, where they are known without a trace of the program.

    Returns
    -------
    What lays them out as a DataTree, and what a reader must know of it (not yet said aloud).
    """
    log_likelihood, findings = pointwise(m, samples, args, kwargs) if likelihoods else (None, ())
    data: dict[str, np.ndarray] = dict(
        shared("observed", m, args, kwargs, lambda: observed(m, args, kwargs))
        if observed_data is None
        else observed_data
    )
    constant, attrs = record(getattr(m, "program", m), args, kwargs, data)
    tree = functools.partial(
        build,
        _named(samples),
        log_likelihood=log_likelihood,
        sample_stats=sample_stats,
        observed_data=data,
        constant_data=constant,
        attrs=attrs,
    )
    return tree, findings


def assemble(*args: Any, **kwargs: Any) -> tuple[xr.DataTree, tuple[Finding, ...]]:
    """Build a fit's data from its draws: `prepared`, laid out at once."""
    tree, findings = prepared(*args, **kwargs)
    return tree(), findings
