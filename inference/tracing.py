"""What a program raises while it is traced, turned into one line that names the site."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.primitives import Messenger, apply_stack

from triptych.inference.lifted import Lift
from triptych.inference.scans import SteadyScan
from triptych.models.distributions import GaussianVector
from triptych.models.errors import InputError

__all__ = ["Program", "tracing"]

Program = Callable[..., Any]


class _WholePlates(Messenger):
    """Give a plate that is not subsampled concrete indices, so that they index NumPy data under a trace."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate" and msg["value"] is not None and msg["args"][1] in (None, msg["args"][0]):
            with jax.ensure_compile_time_eval():
                msg["value"] = jax.device_put(np.arange(msg["args"][0], dtype=jnp.result_type(int)))


class _FastGaussians(Messenger):
    """Let NumPyro's multivariate normals take their density by a matrix product (`GaussianVector`)."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        fn = msg["fn"]
        if type(fn) is dist.MultivariateNormal:
            msg["fn"] = _fast(fn)
        elif type(fn) is dist.ExpandedDistribution and type(fn.base_dist) is dist.MultivariateNormal:
            msg["fn"] = _fast(fn.base_dist).expand(fn.batch_shape)


def _fast(fn: Any) -> GaussianVector:
    return GaussianVector(fn.loc, scale_tril=fn.scale_tril)


class _Here(Messenger):
    """Remember the last site that was run, for error messages."""

    site: str | None = None

    def postprocess_message(self, msg: Any) -> None:
        if msg.get("name"):
            self.site = msg["name"]


def _site_being_run(error: BaseException) -> str | None:
    """Find the site whose message was being handled: also right when a plate inside the program raised."""
    name, frames = None, error.__traceback__
    while frames is not None:
        if frames.tb_frame.f_code is apply_stack.__code__:
            name = frames.tb_frame.f_locals["msg"].get("name") or name
        frames = frames.tb_next
    return name


@contextlib.contextmanager
def tracing(program: Program) -> Iterator[None]:
    """Turn whatever a program raises while it is traced into an `InputError` that names the site."""
    here = _Here()
    try:
        with here, _WholePlates(), SteadyScan(), Lift(), _FastGaussians():
            yield
    except InputError:
        raise
    except Exception as error:
        site = _site_being_run(error)
        place = (
            f"at site '{site}'" if site else f"after site '{here.site}'" if here.site else "before any site"
        )
        text = (str(error).strip() or "(no message)").splitlines()[0]
        name = getattr(program, "__name__", type(program).__name__)
        cure = "Call it by hand with the same arguments (under numpyro.handlers.seed) to see where."
        if isinstance(error, jax.errors.TracerArrayConversionError):
            cure = (
                "Give the data as JAX arrays (jnp.asarray): NumPy arrays cannot be indexed by a traced value."
            )
        raise InputError(
            f"the program `{name}` fails {place}: {type(error).__name__}: {text} {cure}"
        ) from error
