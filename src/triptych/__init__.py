"""One latent-variable model, three panels: EM, variational inference and MCMC side by side.

The names below are imported when first used, so that `import triptych` (and `triptych --help`) stay quick
and no JAX backend starts before there is something to compute.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych import experiments as experiments
    from triptych import inference as inference
    from triptych import models as models
    from triptych.inference.batch_and_match import BatchAndMatch
    from triptych.inference.calibration import Calibration, calibrate
    from triptych.inference.cavi import CAVI
    from triptych.inference.chees import ChEES
    from triptych.inference.compare import Comparison, compare
    from triptych.inference.em import EM, Ascent
    from triptych.inference.em.bootstrap import Bootstrap, bootstrap
    from triptych.inference.fit import Fit
    from triptych.inference.gibbs import Gibbs
    from triptych.inference.imputation import impute
    from triptych.inference.laplace_method import Laplace
    from triptych.inference.marginal import marginal
    from triptych.inference.mcmc import MCMC
    from triptych.inference.pathfinder import Pathfinder
    from triptych.inference.replicate import predict, with_predictions
    from triptych.inference.rows import Rows, rows
    from triptych.inference.status import Status
    from triptych.inference.storage import load
    from triptych.inference.stream import Stream, stream
    from triptych.inference.svi import SVI
    from triptych.models import (
        BayesianLinearRegression,
        BernoulliMixture,
        GaussianMixture,
        InferenceWarning,
        InputError,
        simulate,
    )

    __version__: str

__all__ = [
    "CAVI",
    "EM",
    "MCMC",
    "SVI",
    "Ascent",
    "BatchAndMatch",
    "BayesianLinearRegression",
    "BernoulliMixture",
    "Bootstrap",
    "Calibration",
    "ChEES",
    "Comparison",
    "Fit",
    "GaussianMixture",
    "Gibbs",
    "InferenceWarning",
    "InputError",
    "Laplace",
    "Pathfinder",
    "Rows",
    "Status",
    "Stream",
    "__version__",
    "bootstrap",
    "calibrate",
    "compare",
    "impute",
    "load",
    "marginal",
    "predict",
    "rows",
    "simulate",
    "stream",
    "with_predictions",
]

_HOME = {
    "EM": "triptych.inference.em",
    "MCMC": "triptych.inference.mcmc",
    "SVI": "triptych.inference.svi",
    "Ascent": "triptych.inference.em",
    "BayesianLinearRegression": "triptych.models",
    "BernoulliMixture": "triptych.models",
    "Bootstrap": "triptych.inference.em.bootstrap",
    "Calibration": "triptych.inference.calibration",
    "Comparison": "triptych.inference.compare",
    "Fit": "triptych.inference.fit",
    "GaussianMixture": "triptych.models",
    "Gibbs": "triptych.inference.gibbs",
    "InferenceWarning": "triptych.models",
    "InputError": "triptych.models",
    "Rows": "triptych.inference.rows",
    "Status": "triptych.inference.status",
    "Stream": "triptych.inference.stream",
    "bootstrap": "triptych.inference.em.bootstrap",
    "calibrate": "triptych.inference.calibration",
    "compare": "triptych.inference.compare",
    "impute": "triptych.inference.imputation",
    "load": "triptych.inference.storage",
    "marginal": "triptych.inference.marginal",
    "predict": "triptych.inference.replicate",
    "rows": "triptych.inference.rows",
    "simulate": "triptych.models",
    "stream": "triptych.inference.stream",
    "with_predictions": "triptych.inference.replicate",
    "Laplace": "triptych.inference.laplace_method",
    "CAVI": "triptych.inference.cavi",
    "BatchAndMatch": "triptych.inference.batch_and_match",
    "Pathfinder": "triptych.inference.pathfinder",
    "ChEES": "triptych.inference.chees",
}
_FOLDERS = ("models", "inference", "experiments")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("triptych")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _FOLDERS:
        value = import_module(f"triptych.{name}")
    else:
        raise AttributeError(f"module 'triptych' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_FOLDERS})
