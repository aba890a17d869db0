"""Pictures of the latents: how surely each row belongs to a component, and components as images."""

from __future__ import annotations

import base64
import io

import numpy as np
from markupsafe import Markup

from triptych.experiments.report import canvas
from triptych.experiments.report.canvas import COMPONENTS

__all__ = ["arranged", "image", "strip"]

WIDEST = 360


def arranged(responsibilities: np.ndarray) -> np.ndarray:
    """Order the rows by their likeliest component, the surest first."""
    likely = responsibilities.argmax(axis=1)
    return np.lexsort((-responsibilities.max(axis=1), likely))


def strip(
    responsibilities: np.ndarray, order: np.ndarray, text: str, label: str = "rows, in the reference's order"
) -> Markup:
    """Draw the responsibilities of all rows side by side, stacked to 1, in the components' colours."""
    table = responsibilities[order]
    parts = np.array_split(table, min(len(table), WIDEST))
    table = np.array([part.mean(axis=0) for part in parts])
    edges = np.linspace(0, len(order), len(parts) + 1)
    with canvas.drawing(480, 74) as (figure, axes):
        top = np.zeros(len(parts))
        for k, share in enumerate(table.T):
            axes.stairs(
                top + share,
                edges,
                baseline=top,
                fill=True,
                color=COMPONENTS[k % len(COMPONENTS)],
                linewidth=0,
            )
            top = top + share
        axes.set_xlim(0, len(order))
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 1])
        axes.locator_params(axis="x", nbins=7)
        axes.set_xlabel(label)
        axes.spines[["left", "bottom"]].set_visible(False)
        return canvas.picture(figure, text)


def image(values: np.ndarray, low: float, high: float) -> str:
    """Give a square of pixels as the address of a PNG, dark where the value is high."""
    from matplotlib import image as pixels

    side = int(np.sqrt(values.size))
    buffer = io.BytesIO()
    pixels.imsave(buffer, values.reshape(side, side), vmin=low, vmax=high, cmap="gray_r", format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
