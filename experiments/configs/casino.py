"""A casino that now and then changes its fair die for a loaded one: a chain with categorical emissions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def casino(roll: Any = None, *, rows: int = 800, dice: int = 2, faces: int = 6) -> Any:
    """Draw z_1 uniformly, z_t ~ transition[z_{t−1}], roll_t ~ Categorical(probs[z_t]).

    Each row of transition ~ Dirichlet(2); probs_k ~ Dirichlet(2).

    Parameters
    ----------
    roll : (T,) or (T, 1) faces 0, …, 5, or `None` to draw them.
    rows : T, when there is no data.
    dice, faces : how many there are.
    """
    with numpyro.plate("dice", dice):
        transition = jnp.asarray(numpyro.sample("transition", dist.Dirichlet(jnp.full(dice, 2.0))))
        probs = jnp.asarray(numpyro.sample("probs", dist.Dirichlet(jnp.full(faces, 2.0))))
    after = jnp.concatenate([transition, jnp.full((1, dice), 1.0 / dice)])
    roll = None if roll is None else jnp.reshape(jnp.asarray(roll), -1).astype(int)

    def turn(before: Any, seen: Any) -> Any:
        die = jnp.asarray(numpyro.sample("die", dist.CategoricalProbs(after[before])))
        return die, numpyro.sample("roll", dist.CategoricalProbs(probs[die]), obs=seen)

    return scan(turn, dice, roll, length=rows if roll is None else len(roll))[1]
