"""k-means as a mixture: equal weights, one known small variance, and only the centres to find."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def k_means(
    x: Any = None, *, rows: int = 150, columns: int = 4, components: int = 3, scale: float = 0.1
) -> Any:
    """Spherical mixture with equal weights: z_n ~ Uniform; x_n ~ N(centre[z_n], scale² I).

    centre_k ~ N(0, 10² I).

    The best completion gives k-means at any `scale`; the posterior comes to it as `scale` goes to 0 (Kulis &
    Jordan 2012).

    Parameters
    ----------
    x : (N, D), or `None` to draw them.
    rows, columns : N and D, when there is no data.
    components : K.
    scale : standard deviation of a row about its centre, in each column.
    """
    rows, columns = (rows, columns) if x is None else x.shape
    with numpyro.plate("components", components):
        centre = jnp.asarray(numpyro.sample("centre", dist.Normal(0.0, 10.0).expand([columns]).to_event(1)))
    with numpyro.plate("rows", rows):
        even = jnp.full(components, 1.0 / components)
        z = numpyro.sample("z", dist.CategoricalProbs(even), infer={"enumerate": "parallel"})
        return numpyro.sample("x", dist.Normal(centre[z], scale).to_event(1), obs=x)
