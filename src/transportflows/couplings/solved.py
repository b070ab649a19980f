"""A plan of whole data, solved: what a batch draws from, and the report of all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .._core.random import local
from .._core.reprs import summary
from .._core.signatures import checked
from ..plans import cells
from .known_rows import KnownRows
from .partners import SparsePartners, TablePartners

__all__ = ["CellsOfLabel", "PlanReport", "Pool", "Solved", "spread"]


@checked
@dataclass(frozen=True, eq=False)
class PlanReport:
    """What is known of a plan of whole data: how good it is, and what it leaves.

    Attributes:
        kind: "exact", "entropic", "unbalanced" or "semidiscrete".
        regularisation: of the cost ``|x0 - x1|²``; 0 for none.
        value: the minimum that the plan is of, a lower bound of it; with labels the mean over them.
        gap: how far the cost of the plan can be above it. For a law, whose plan is judged by its
            masses, the standard error of the value.
        violation: L1 norm of what the marginal of x1 is off; with labels the largest. For a law an
            estimate, and with its error.
        violation_error: of that estimate, two standard errors; 0 for pools.
        x0_mass: what the plan takes of each row of the pool, ``(N,)``; empty for a law.
        x1_mass: what it brings to each row of x1, ``(M,)``.

    Example:
        >>> import transportflows as tpf
        >>> x0, x1 = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]])
        >>> report = tpf.couplings.TransportPlan(x0, x1, regularisation=0.0).report
        >>> report.kind, round(report.value, 6)  # 0 goes to 2, and 1 to 3: the cost is 2²
        ('exact', 4.0)
    """

    kind: str
    regularisation: float
    value: float
    gap: float
    violation: float
    violation_error: float
    x0_mass: Tensor
    x1_mass: Tensor

    __repr__ = summary

    @property
    def left(self) -> tuple[float, float]:
        """The mass left over on either side; (0, 0) unless the plan is unbalanced."""
        taken = float(self.x0_mass.sum()) if len(self.x0_mass) else 1.0
        return max(0.0, 1 - taken), max(0.0, 1 - float(self.x1_mass.sum()))


@dataclass(frozen=True, eq=False)
class Pool:
    """The rows of x0 of positive weight: ``at`` their places, ``points`` and weights p."""

    at: Tensor
    points: Tensor
    p: Tensor
    count: int


@dataclass(frozen=True, eq=False)
class CellsOfLabel:
    """A semidiscrete plan for one label: which rows, their points, potentials and weights."""

    rows: Tensor
    y: Tensor
    g: Tensor
    q: Tensor


@dataclass(frozen=True, eq=False)
class Solved:
    """A solved plan.

    Attributes:
        report: of it.
        row_mass: what goes to each different row of x1, ``(U,)``, of sum 1.
        partners: which x0 goes with a row; None for a law.
        label_of: of each different row the place of its label in ``cells``.
        cells: of a law, by label.
        centre: what is taken off points before they are compared, ``(D,)``.
        pool: of x0, or None.
        potentials: f on the pool, by label; empty for a law, None for a label without mass.
    """

    report: PlanReport
    row_mass: Tensor
    partners: TablePartners | SparsePartners | None
    label_of: Tensor
    cells: tuple[CellsOfLabel, ...]
    centre: Tensor
    pool: Pool | None = None
    potentials: tuple[Tensor | None, ...] = ()
    _moved: dict[torch.device, TablePartners | SparsePartners] = field(default_factory=dict)

    def partners_on(self, device: torch.device) -> TablePartners | SparsePartners | None:
        """The partners on a device, moved there once."""
        if self.partners is None or self.row_mass.device == device:
            return self.partners
        if device not in self._moved:
            self._moved[device] = self.partners.on(device)
        return self._moved[device]

    @cached_property
    def all_have_mass(self) -> bool:
        """Whether something goes to every row."""
        return bool((self.row_mass > 0).all())

    def draw_rows(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Different rows of x1 by what goes to them, ``(n,)``."""
        home, ends = self.row_mass.device, self.row_mass.cumsum(0)
        u = torch.rand(n, generator=local(generator, home), dtype=torch.float64, device=home)
        return torch.searchsorted(ends, u * ends[-1], right=True).clamp_(max=len(ends) - 1)

    def goes_to(self, x0: Tensor, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """To which different row each draw of a law goes, among those of the label of ``rows``."""
        label = self.label_of[rows.to(self.label_of.device)].to(x0.device)
        drawn = x0.detach().flatten(1) - self.centre.to(x0)
        epsilon, random = self.report.regularisation, local(generator, x0.device)
        found = torch.empty(len(x0), dtype=torch.int64, device=x0.device)
        for k, part in enumerate(self.cells):
            at = (label == k).nonzero()[:, 0]
            if len(at):
                y, g, q = (each.to(drawn) for each in (part.y, part.g, part.q))
                where = cells(drawn[at], y, g, q, epsilon, generator=random)
                found[at] = part.rows.to(x0.device)[where]
        return found.to(rows.device)


def spread(mass: Tensor, rows: KnownRows) -> Tensor:
    """The mass of each row of x1: equal rows share what goes to them."""
    which = rows.which.to(mass.device)
    return (mass / torch.bincount(which, minlength=len(rows)))[which]
