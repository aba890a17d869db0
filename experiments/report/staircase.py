"""EM's staircase: log p(x | θ) = ELBO(q, θ) + KL at every half-step, from a start of its own.

The E-step lifts the ELBO to log p(x | θ), the M-step lifts log p(x | θ) further than the ELBO, and so a gap
opens (Neal & Hinton 1998). The picture takes the textbook's steps, whatever acceleration the fit used.
"""

from __future__ import annotations

import jax
import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas, live
from triptych.experiments.report.canvas import INK, Pen
from triptych.experiments.report.gather import Run
from triptych.experiments.report.numbers import fixed, number
from triptych.experiments.report.parts import Pens, Picture
from triptych.inference.arguments import is_sample, recall
from triptych.inference.em import EM
from triptych.inference.em.ledger import Path, path
from triptych.inference.fit import Fit
from triptych.models import MODELS, BayesianLinearRegression, InputError

__all__ = ["half_steps", "staircase"]

STEPS = 30
LEAST_GAP = 1e-6  # nats
MOST_CELLS = 2_000_000  # of the data: above, the picture would take longer than it is worth


def staircase(run: Run, name: str, pens: Pens) -> Picture | None:
    """Draw the staircase of an EM fit; `None` where the ledger cannot be had of it."""
    fit = run.fits[name]
    found = _path(fit, int(run.manifest.get("seed") or 0))
    if found is None:
        return None
    time, evidence, bound = half_steps(found)
    gap = evidence - bound
    missed = float(np.max(np.abs(gap - _gap(found)))) if len(gap) else 0.0
    first, last = _window(found)
    caption = "The textbook's steps from a random start. The E-step (whole steps) closes the gap between the "
    caption += "ELBO and log p(x | θ), the M-step (half steps) opens it: the shaded KL, at most "
    caption += f"{number(float(gap.max()), 2)} nats. The three, each had on its own, close to "
    caption += f"{number(missed, 1)} nats."
    ends = f"{fixed(evidence[0], 2)} to {fixed(evidence[-1], 2)}"
    text = f"Ledger of {name}: log p(x | θ) from {ends} nats. {caption}"
    shown = slice(2 * first, 2 * last + 1)
    parts = time[shown], evidence[shown], bound[shown]
    lines = (
        live.Line("log p(x | θ)", "var(--ink)", parts[0], parts[1], step=True),
        live.Line(
            "ELBO(q, θ)", f"var({pens[name].variable})", *(parts[0], parts[2]), step=True, upto="log p(x | θ)"
        ),
        live.Line("KL(q ‖ p)", "var(--muted)", parts[0], gap[shown], ghost=True),
    )
    chart = live.Chart("step", "nats", lines, text, whole=False)
    return Picture(_drawn(*parts, pens[name], text), name, caption, heading="ELBO + KL", chart=chart)


def _path(fit: Fit, seed: int) -> Path | None:
    """Take the steps, where they are cheap: of a built-in model, whose EM compiles in a second or two."""
    call, settings = recall(fit.data), fit.settings
    choices = (settings.get("latents"), settings.get("e_step"), settings.get("m_step"))
    if fit.method != "em" or call is None or is_sample(fit.data) or choices != (None, "exact", "auto"):
        return None
    args, kwargs = call
    cells = sum(np.size(value) for value in (*args, *kwargs.values()))
    if not isinstance(fit.model, tuple(MODELS.values())) or cells > MOST_CELLS:
        return None
    objective = str(settings.get("objective", "map"))
    starts = "portfolio" if isinstance(fit.model, BayesianLinearRegression) else "random_rows"
    try:
        em = EM(fit.model, objective=objective, starts=starts)
        start = em.init(jax.random.key(seed), *args, **kwargs).parameters
        found = path(fit.model, start, *args, steps=STEPS, objective=objective, **kwargs)
    except InputError:
        return None
    numbers = (found.log_likelihood, found.elbo_after_m, found.kl_after_m)
    whole = all(np.all(np.isfinite(values)) for values in numbers)
    # Where every label is known there is no gap to see.
    return found if whole and np.max(found.kl_after_m) > LEAST_GAP else None


def half_steps(found: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give time, log p(x | θ) and ELBO after every half-step, (2 T + 1,).

    At t the E-step has been taken at θ_t and the two meet; at t + ½ the M-step has, to θ_t+1.
    """
    count = len(found.elbo_after_m)
    time = np.arange(2 * count + 1) / 2
    evidence = np.repeat(found.log_likelihood, 2)[1:]
    bound = np.empty(2 * count + 1)
    bound[0:-1:2], bound[1::2] = found.elbo_after_e, found.elbo_after_m
    bound[-1] = found.log_likelihood[-1]  # where the next E-step would lift it
    return time, evidence, bound


def _gap(found: Path) -> np.ndarray:
    """Give KL after every half-step, as it was had on its own."""
    return np.append(np.stack([found.kl_after_e, found.kl_after_m], axis=1).ravel(), 0.0)


def _window(found: Path) -> tuple[int, int]:
    """Choose the steps to draw: not a first leap that dwarfs the rest, and not the standstill at the end."""
    values = found.log_likelihood
    count = len(values) - 1
    total = float(np.ptp(values))
    moving = np.flatnonzero(np.abs(values[-1] - values) > 1e-3 * total)
    last = int(min(count, max(4, (moving[-1] if moving.size else 0) + 2)))
    leap = count > 4 and abs(values[1] - values[0]) > 0.6 * total
    return int(leap), last


def _drawn(time: np.ndarray, evidence: np.ndarray, bound: np.ndarray, pen: Pen, text: str) -> Markup:
    with canvas.drawing(440, 240) as (figure, axes):
        axes.fill_between(time, bound, evidence, step="post", color=pen.colour, alpha=0.25, linewidth=0)
        axes.step(time, evidence, where="post", color=INK, linewidth=1.2, label="log p(x | θ)")
        axes.step(time, bound, where="post", color=pen.colour, linewidth=1.8, label="ELBO(q, θ)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("step")
        axes.set_ylabel("nats")
        axes.grid(axis="y")
        axes.legend(loc="lower right", fontsize=9.5)
        return canvas.picture(figure, text)
