"""What EM will do with a program, said before anything runs: who is a latent, what each step is, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

from triptych.inference.em.derived import DerivedKernel
from triptych.inference.em.gaussian_step import GaussianStep
from triptych.inference.em.kernel import Kernel
from triptych.inference.em.maximiser import Block

__all__ = ["Explanation", "Line", "explain"]

SAID = {
    "closed form": "closed form: Q is a combination of {how}, verified at random points",
    "quadratic": "closed form: Q is quadratic ({how} Hessian), one Newton step",
    "ascent": "gradient ascent: {how}; {reason}",
}


class Line(NamedTuple):
    """One site: its `role` (latent, parameter, data), its `step`, and `why`."""

    site: str
    role: str
    step: str
    why: str


class Explanation(NamedTuple):
    """The plan of an EM run; printed, a table."""

    objective: str
    kernel: str
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=118, no_color=True, force_terminal=False)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get()

    def __rich__(self) -> Any:
        """Give the table for a rich console."""
        from rich.table import Table

        table = Table(title=f"EM climbs the {self.objective} by {self.kernel}", title_justify="left")
        for name in Line._fields:
            table.add_column(name)
        for line in self.lines:
            table.add_row(*line)
        return table


def explain(kernel: Kernel, objective: str) -> Explanation:
    """Say what a kernel does with each site of its program."""
    what = "log joint log p(x, θ)" if objective == "map" else "log-likelihood log p(x | θ)"
    if not isinstance(kernel, DerivedKernel):
        how = f"the hand-written kernel of {type(kernel.model).__name__}"
        return Explanation(what, how, ())
    shape = kernel.problem.shape
    e_step = shape.e_step
    lines = [
        Line(name, "latent", f"enumeration over {latent.size} values", "discrete, finite support")
        for name, latent in e_step.sites.latents.items()  # type: ignore[attr-defined]
    ]
    if isinstance(e_step, GaussianStep):
        count = f"{e_step.rows} blocks" if e_step.rows else "one block"
        how = f"exact Gaussian, {count} of {e_step.shape[-1]}"
        lines += [
            Line(name, "latent", how, f"{kernel.reasons[name]}; log joint quadratic in it")
            for name in e_step.latents
        ]
    lines += [_parameter(block, site, kernel) for block in shape.blocks for site in block.sites]
    lines += [Line(name, "data", "", "observed") for name in e_step.sites.observed]  # type: ignore[attr-defined]
    return Explanation(what, "steps derived from the program", tuple(lines))


def _parameter(block: Block, site: str, kernel: DerivedKernel) -> Line:
    step = SAID[block.rule].format(how=block.how, reason=block.reason)
    return Line(site, "parameter", step, kernel.reasons[site])
