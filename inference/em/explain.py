"""What EM will do with a program, said before anything runs: who is a latent, what each step is, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

from triptych.inference.em.conditional_step import ConditionalStep
from triptych.inference.em.derived import DerivedKernel
from triptych.inference.em.e_steps import HardStep, exact_of
from triptych.inference.em.expected import Joint
from triptych.inference.em.folded import FoldedStep
from triptych.inference.em.kernel import Kernel
from triptych.inference.em.maximiser import Block
from triptych.inference.em.monte_carlo import MonteCarloStep
from triptych.inference.em.variational import VariationalStep
from triptych.inference.survey import Latent

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
        return Explanation(what, how, _by_hand(kernel))
    shape = kernel.problem.shape
    e_step = shape.e_step
    lines = _latents(e_step, kernel)
    lines += [_parameter(block, site, kernel) for block in shape.blocks for site in block.sites]
    lines += [_data(name, exact_of(e_step)) for name in e_step.sites.observed]
    return Explanation(what, "steps derived from the program", tuple(lines))


def _data(site: str, exact: Any) -> Line:
    """Say how an E-step reads its rows: by a fold, or one by one and why."""
    if isinstance(exact, FoldedStep) and site in exact.layout.reads:
        return Line(site, "data", f"T(x) = {exact.layout.reads[site]}, times coefficients of θ", "observed")
    if isinstance(exact, Joint) and exact.reason and site in exact.absorbed:
        return Line(site, "data", "row by row", f"observed; {exact.reason}")
    return Line(site, "data", "", "observed")


def _along(latent: Latent) -> str:
    return "" if latent.chain is None else f", step by step along a chain of {latent.steps}"


def _by_hand(kernel: Kernel) -> tuple[Line, ...]:
    latents = [Line(name, "latent", step, "by hand") for name, step in kernel.integrated.items()]
    sites = [Line(name, "parameter", "closed form", "by hand") for name in kernel.supports]
    return tuple(latents + sites)


def _latents(e_step: Any, kernel: DerivedKernel) -> list[Line]:
    hard = "the best of " if isinstance(e_step, HardStep) else ""
    powers, steps = kernel.problem.shape.annealing
    annealed = f", annealed through powers {powers}, {steps} steps each" if powers else ""
    lines = [
        Line(
            name,
            "latent",
            f"{hard}enumeration over {latent.size} values{_along(latent)}{annealed}",
            "discrete, finite support" if latent.chain is None else "discrete, finite support, in a `scan`",
        )
        for name, latent in e_step.sites.latents.items()
    ]
    exact = exact_of(e_step)
    if isinstance(exact, ConditionalStep):
        count = f"{exact.rows} blocks" if exact.rows > 1 else "one block"
        how = (
            f"{'mode of the ' if hard else ''}exact {exact.family.capitalize()}, {count} of {exact.shape[-1]}"
        )
        proof = "log joint quadratic in it" if exact.family == "gaussian" else "log joint in log u and u"
        lines += [Line(name, "latent", how, f"{kernel.reasons[name]}; {proof}") for name in exact.latents]
    elif isinstance(e_step, VariationalStep):
        what = "one covariance" if e_step.full else "mean field"
        count = f"{e_step.rows} blocks" if e_step.rows > 1 else "one block"
        how = f"Gaussian guide, {what}, {count} of {e_step.width}; {len(e_step.nodes)} nodes"
        lines += [Line(name, "latent", how, f"{kernel.reasons[name]}; chosen") for name in e_step.space.sites]
    elif isinstance(e_step, MonteCarloStep):
        how = f"draws by NUTS, {e_step.space.size} coordinates"
        lines += [Line(name, "latent", how, f"{kernel.reasons[name]}; chosen") for name in e_step.space.sites]
    return lines


def _parameter(block: Block, site: str, kernel: DerivedKernel) -> Line:
    step = SAID[block.rule].format(how=block.how, reason=block.reason)
    return Line(site, "parameter", step, kernel.reasons[site])
