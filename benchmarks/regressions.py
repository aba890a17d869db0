"""Regression evidence maximisation against scikit-learn's BayesianRidge."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
from harness import Rounds, Row, alternate, seconds, size_of

import triptych


def against_ridge(rows: int, columns: int, rounds: Rounds) -> list[Row]:
    """Compare a whole fit, from data in memory to λ, β and w, warm."""
    from sklearn.linear_model import BayesianRidge

    generator = np.random.default_rng(0)
    X = generator.normal(size=(rows, columns))
    y = X @ generator.normal(size=columns) + generator.normal(size=rows)
    em = triptych.EM(triptych.BayesianLinearRegression(), objective="mle", draws=0, restarts=1)

    def theirs() -> Any:
        return BayesianRidge(alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, tol=1e-8, max_iter=1000).fit(X, y)

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit, peer = em.run(jax.random.key(0), X, y), theirs()
        pairs = ((fit.parameters["beta"], peer.alpha_), (fit.parameters["lambda"], peer.lambda_))
        gap = max(abs(float(one) / other - 1) for one, other in pairs)
        own, other, ratios = alternate(
            lambda: seconds(lambda: em.run(jax.random.key(0), X, y)), lambda: seconds(theirs), rounds
        )
    name = f"regression evidence {size_of(rows, columns)}, warm"
    said = f"λ and β within {gap:.0e}"
    row = Row(
        "EM, whole fits",
        name,
        "BayesianRidge",
        1e3 * own,
        1e3 * other,
        ratios,
        "ms",
        said,
        None,
        "float64",
    )
    return [row]
