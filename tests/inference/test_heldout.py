"""Held-out rows: their density against a closed form, differences by row, what has no rows to hold out."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

from triptych import InputError
from triptych.inference.fit import Fit, Seconds
from triptych.inference.heldout import check_rows, held_out, held_out_rows, held_out_words
from triptych.inference.posterior import build
from triptych.inference.status import Status


def program(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def fit(centre, sd, seed, count=20_000):
    draws = np.random.default_rng(seed).normal(centre, sd, (1, count))
    return Fit(
        method="mcmc", model=program, status=Status.CONVERGED, seconds=Seconds(0.0, 0.0),
        parameters={"mu": np.asarray(centre)}, log_likelihood=0.0, objective=np.zeros(0),
        data=build({"mu": draws}),
    )  # fmt: skip


ROWS = np.array([-1.0, 0.2, 0.5, 2.5])


def test_the_predictive_density_is_the_closed_form():
    """x | data ~ N(m, 1 + s²) where the posterior is N(m, s²); beside it the plug-in density at m."""
    found = held_out(fit(0.4, 0.5, 0), ROWS)
    exact = stats.norm(0.4, np.sqrt(1.25)).logpdf(ROWS)
    assert found.error < 0.02
    assert found.elpd == pytest.approx(exact.sum(), abs=4 * found.error)
    np.testing.assert_allclose(found.pointwise, exact, atol=0.02)
    assert found.se == pytest.approx(np.sqrt(4 * np.var(exact, ddof=1)), rel=0.02)
    assert found.plug_in == pytest.approx(stats.norm(0.4, 1.0).logpdf(ROWS).sum(), rel=1e-6)


def test_differences_are_paired_and_said():
    fits = {"mcmc": fit(0.4, 0.5, 1), "svi": fit(0.4, 0.5, 2), "em": fit(6.0, 0.1, 3)}
    rows = held_out_rows(fits, "mcmc", (ROWS,))
    one, other = held_out(fits["em"], ROWS), held_out(fits["mcmc"], ROWS)
    difference = one.pointwise - other.pointwise
    assert rows["em"]["held_out_diff"] == pytest.approx(difference.sum())
    assert rows["em"]["held_out_diff_se"] == pytest.approx(np.sqrt(4 * np.var(difference, ddof=1)))
    (said,) = held_out_words(rows, "mcmc", 4)
    assert said.startswith("EM predicts the 4 held-out rows worse than MCMC")
    del rows["em"]
    assert held_out_words(rows, "mcmc", 4)[0].startswith("All fits predict the 4 held-out rows equally well")


def chain(x):
    stay = numpyro.sample("stay", dist.Beta(1.0, 1.0))

    def step(z, value):
        z = numpyro.sample(
            "z", dist.Categorical(jnp.array([[0.9, 0.1], [0.2, 0.8]])[z] * stay + (1 - stay) / 2)
        )
        numpyro.sample("x", dist.Normal(z * 1.0, 1.0), obs=value)
        return z, None

    scan(step, 0, x)


def local(x):
    with numpyro.plate("rows", len(x)):
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(effect, 1.0), obs=x)


def whole(x):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(mu, 1.0).expand([len(x)]).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "said"), [(chain, "one chain"), (local, "'effect' has a value a row"), (whole, "not one term")]
)
def test_data_that_are_no_rows_are_refused(model, said):
    with pytest.raises(InputError, match=said):
        check_rows(model, (np.arange(6.0),), (np.arange(3.0),))
    check_rows(program, (np.arange(6.0),), (np.arange(3.0),))
