"""The marginal: a program with its discrete latents summed out, log p(x, θ) = log Σ_z p(x, z, θ)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro.infer.util import log_density
from numpyro.primitives import Messenger

from triptych.inference.program import LARGEST_TABLE, Structure, describe
from triptych.inference.scans import is_scan, plain_run, site_of
from triptych.inference.sharing import shared
from triptych.inference.survey import Survey, first_value, survey
from triptych.inference.tracing import Program, tracing
from triptych.models.errors import InputError

__all__ = ["Marginal", "marginal"]

Parameters = Mapping[str, Any]


class _Continuous(Messenger):
    """Show the outer handlers only what hangs on no discrete latent, and note the values they give.

    A discrete latent takes its first value, unseen. A continuous site that hangs on one is seen, so that
    guides and samplers can move it, but masked: its density goes into the factor.
    """

    def __init__(self, sites: Survey, plan: Any) -> None:
        self.sites, self.plan = sites, plan
        self.values: dict[str, Any] = {}
        self.chains = iter(sites.chains)
        super().__init__()

    def process_message(self, msg: Any) -> None:
        name = msg.get("name")
        if is_scan(msg):
            chain = next(self.chains)
            if chain is not None:
                msg["stop"] = True
                values = {latent: self.sites.latents[latent].values for latent in chain.latents}
                msg["value"] = plain_run(msg, values)
            return
        if msg["type"] == "deterministic" and name in self.plan.hidden:
            msg["stop"] = True
        elif msg["type"] == "sample" and name in self.plan.absorbed:
            if name in self.sites.latents:
                msg["value"] = first_value(self.sites.latents[name].values, msg["fn"])
                msg["stop"] = True
            elif msg["is_observed"]:
                msg["stop"] = True
            else:
                msg["fn"] = msg["fn"].mask(False)

    def postprocess_message(self, msg: Any) -> None:
        seen = msg["type"] == "sample" and msg["name"] in self.sites.parameters
        if seen or msg["type"] in ("param", "plate"):
            self.values[msg["name"]] = msg["value"]


@dataclasses.dataclass(frozen=True)
class Marginal:
    """A continuous program with the θ of `program` and its discrete latents summed out.

    Calling it runs it as a NumPyro program: on it every autoguide and NUTS work. The sum is one
    `numpyro.factor`, called "log_marginal"; sites that hang on no discrete latent stay as they are.
    Everything is a pure function of `parameters` (site → array), so it can be jitted, vmapped and
    differentiated. Imports funsor on first use.

    Attributes
    ----------
    program : any NumPyro program.
    largest_table : the most entries that a table of the sum may have.
    """

    program: Program
    largest_table: int = LARGEST_TABLE

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a NumPyro program; what the program returns is returned if it has no discrete latent."""
        sites = self._survey(args, kwargs)
        if not sites.latents:
            return self.program(*args, **kwargs)
        from triptych.inference.elimination import eliminate
        from triptych.inference.enumeration import run_enumerated

        plan = self._plan(args, kwargs, sites)
        outer = _Continuous(sites, plan)
        with outer, tracing(self.program):
            self.program(*args, **kwargs)
        factors = run_enumerated(self.program, args, kwargs, sites, outer.values).factors
        absorbed = [factors[name] for name in plan.absorbed]
        numpyro.factor("log_marginal", eliminate(absorbed, sites, scales=sites.scales))
        return None

    def structure(self, *args: Any, **kwargs: Any) -> Structure:
        """Give the program's parameters, latents, data sites and units of likelihood."""
        return shared(
            "structure",
            self,
            args,
            kwargs,
            lambda: describe(self.program, *args, **kwargs),
            lambda found: [parameter.support for parameter in found.parameters.values()],
        )

    def _survey(self, args: Any, kwargs: Any) -> Survey:
        """Give the program's sites."""

        def arrays(found: Survey) -> Any:
            return [parameter.support for parameter in found.parameters.values()]

        return shared("sites", self, args, kwargs, lambda: survey(self.program, args, kwargs), arrays)

    def _plan(self, args: Any, kwargs: Any, sites: Survey) -> Any:
        """Give the plan of the sum over the program's latents."""
        from triptych.inference.plan import analyse

        most = self.largest_table
        return shared("plan", self, args, kwargs, lambda: analyse(self.program, args, kwargs, sites, most))

    def log_density(self, parameters: Parameters, *args: Any, **kwargs: Any) -> jax.Array:
        """Give log p(x, θ) in nats, a scalar: natural parameters, no Jacobian.

        Raises
        ------
        InputError : a parameter is missing or has the wrong shape; the program cannot be summed out.
        """
        sites = self._survey(args, kwargs)
        _check_parameters(parameters, sites)
        values = {name: jnp.asarray(value) for name, value in parameters.items()}
        return jnp.asarray(log_density(self, args, kwargs, values)[0])

    def log_likelihood(self, parameters: Parameters, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """Give the pointwise log p(x_n | θ) = log Σ_z p(x_n, z | θ), in nats.

        Data sites that share a discrete latent are one unit, called by their names joined with "+"; a
        unit's axes are the plates that its latents share (so (N,) for rows that each have a latent). Data
        that hang on no discrete latent keep the shape of their own log probability.

        Raises
        ------
        InputError : a parameter is missing or has the wrong shape; the program cannot be summed out.
        """
        from triptych.inference.elimination import eliminate

        sites, plan, factors = self._factored(parameters, args, kwargs)
        answer = {}
        for component in plan.components:
            if not component.observed:
                continue
            joint = eliminate([factors[name] for name in component.sites], sites, component.plates)
            given = component.given
            if {site_of(name) for name in given} - set(component.latents):
                # Continuous sites that hang on z: log p(x, y) - log p(y).
                joint = joint - eliminate([factors[name] for name in given], sites, component.plates)
            answer[component.name] = joint
        for name in plan.units:
            if name not in answer:
                answer[name] = factors[name].table
        return {name: answer[name] for name in plan.units}

    def _factored(self, parameters: Parameters, args: Any, kwargs: Any) -> tuple[Survey, Any, Any]:
        """Run the program enumerated: its sites, what hangs on its latents, and its factors at θ."""
        from triptych.inference.enumeration import run_enumerated

        sites = self._survey(args, kwargs)
        _check_parameters(parameters, sites)
        plan = self._plan(args, kwargs, sites)
        return sites, plan, run_enumerated(self.program, args, kwargs, sites, parameters).factors

    def one_step_ahead(self, parameters: Parameters, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """Give log p(x_t | x_1, …, x_{t−1}, θ) of each chain written with `scan`, in nats.

        One step after the other: log Σ α_t − log Σ α_{t−1}, α_t(k) = p(x_1, …, x_t, z_t = k | θ). Their sum
        is the chain's log-likelihood.

        Returns
        -------
        Unit of the likelihood → (T, plates...); units without a chain are left out.

        Raises
        ------
        InputError : as for `log_likelihood`; or the chain meets latents from outside the scan.
        """
        from triptych.inference.chain_elimination import one_step_ahead

        sites, plan, factors = self._factored(parameters, args, kwargs)
        answer = {}
        for component in plan.components:
            chains = [sites.latents[name].chain for name in component.latents]
            chain = next((name for name in chains if name is not None), None)
            if chain is not None and component.observed:
                joint = [factors[name] for name in component.sites]
                answer[component.name] = one_step_ahead(joint, sites, chain, component.plates)
        return answer

    def posteriors(self, parameters: Parameters, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """Give the posterior of each discrete latent, p(z = k | x, θ), (plates..., K).

        In a chain written with `scan` time comes first, (T, plates..., K).
        It is the gradient of log p(x, θ) with respect to ε added to the latent's log probabilities:
        ∂/∂ε_k log Σ_z p(x, z) exp(ε_z) = p(z = k | x) at ε = 0, whatever the graph of the latents
        (Eisner 2016, "Inside-outside and forward-backward algorithms are just backprop").

        Raises
        ------
        InputError : a parameter is missing or has the wrong shape; the program cannot be summed out.
        """
        from triptych.inference.chain_elimination import perturbations
        from triptych.inference.elimination import eliminate
        from triptych.inference.enumeration import run_enumerated

        sites = self._survey(args, kwargs)
        _check_parameters(parameters, sites)
        if not sites.latents:
            return {}
        plan = self._plan(args, kwargs, sites)
        factors = run_enumerated(self.program, args, kwargs, sites, parameters).factors
        absorbed = [factors[name] for name in plan.absorbed]

        def log_marginal(added: dict[str, jax.Array]) -> jax.Array:
            extra = [one for name, table in added.items() for one in perturbations(name, table, sites)]
            return eliminate([*absorbed, *extra], sites)

        dtype = jnp.result_type(*(factor.table for factor in absorbed))
        return jax.grad(log_marginal)(
            {name: jnp.zeros(latent.places, dtype) for name, latent in sites.latents.items()}
        )


def marginal(program: Program, *, largest_table: int = LARGEST_TABLE) -> Marginal:
    """Sum the discrete latents out of a program; the marginal of a marginal is itself.

    Raises
    ------
    InputError : `program` is not callable.
    """
    if isinstance(program, Marginal):
        return program
    if not callable(program):
        raise InputError(
            f"a model is a callable NumPyro program, got {type(program).__name__}: give the function itself."
        )
    return Marginal(program, largest_table)


def _check_parameters(parameters: Parameters, sites: Survey) -> None:
    for plate in sites.random:
        if plate not in parameters:
            raise InputError(
                f"the plate '{plate}' draws a random subsample: give its rows in `parameters['{plate}']`, or "
                "wrap the program in numpyro.handlers.seed, or call it without a subsample size."
            )
    missing = [name for name in sites.parameters if name not in parameters]
    if missing:
        raise InputError(
            f"no value for the site(s) {', '.join(map(repr, missing))}: "
            f"`parameters` must have {', '.join(map(repr, sites.parameters))}."
        )
    for name, site in sites.parameters.items():
        shape = jnp.shape(parameters[name])
        if shape != site.shape:
            raise InputError(f"the value of site '{name}' has shape {shape}, and must have {site.shape}.")
