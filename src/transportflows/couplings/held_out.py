r"""Which x0 goes with a row that no plan was made of: the conditional of the plan at a new point.

The potential f on x0 of a plan tells the conditional of every y, also of those it has not seen,

.. math:: \pi(i \mid y) \propto p_i\, e^{(f_i - |x_i - y|^2)/\varepsilon} ,

and at ε = 0 the x of least ``|x - y|² - f``. On the rows of the plan it is the plan; on others of
their law it is an estimate of the plan between the laws (Pooladian and Niles-Weed 2021, "Entropic
estimation of optimal transport maps"), whatever their number, where a plan made of a few held-out
rows would be another than that which is trained on. For a law of x0 f is found on a pool of draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.precision import wide
from .._core.random import local, stream
from ..plans import cells
from ..plans.semidiscrete import potential_at
from .labels import of_one_label
from .plan_data import PlanData
from .solved import Pool, Solved

__all__ = ["HeldOut"]

_DRAWS, _SEED = 10_000, 0x68656C64


class HeldOut:
    """What pairs rows that are held out.

    Args:
        data: of the plan.
        plan: solved.

    Raises:
        ValueError: if the plan is unbalanced.
    """

    def __init__(self, data: PlanData, plan: Solved) -> None:
        if plan.report.kind == "unbalanced":
            raise ValueError(
                "how much of a held-out row an unbalanced plan would leave is not known; leave"
                " validation out, or validate by samples"
            )
        self.data, self.plan = data, plan
        home, n, law = plan.row_mass.device, len(data.x1), data.law
        labels = _integers(list(data.labels.values()), n, home)
        groups = of_one_label([labels] if labels.shape[1] else [], n)
        self.labels = torch.stack([labels[group[0]] for group in groups])  # of each label (L,)
        if law is None:
            assert plan.pool is not None
            assert data.x0 is not None
            self.rows, self.pool, self.potentials = data.x0, plan.pool, plan.potentials
            return
        random, epsilon = stream(_SEED, device=home), plan.report.regularisation
        self.rows = law.sample(_DRAWS, generator=random, dtype=torch.float64, device=home)
        points = self.rows.flatten(1) - plan.centre
        at = torch.arange(_DRAWS, device=home)
        self.pool = Pool(at, points, points.new_full((_DRAWS,), 1 / _DRAWS), _DRAWS)
        self.potentials = tuple(
            potential_at(points, part.y, part.g, part.q, epsilon) for part in plan.cells
        )

    def pair(
        self, x1: Tensor, cond: Mapping[str, Any], generator: torch.Generator | None
    ) -> Tensor:
        """The x0 of some rows, ``(B, *)``.

        Args:
            x1: held-out rows.
            cond: their conditions.
            generator: source of randomness.

        Raises:
            ValueError: if the plan has not seen a label.
        """
        home, epsilon = self.labels.device, self.plan.report.regularisation
        label = _integers(self.data.labels_like(x1, cond), len(x1), home)
        y = wide(x1.detach().flatten(1)).to(home) - self.plan.centre
        found = torch.full((len(y),), -1, dtype=torch.int64, device=home)
        for own, f in zip(self.labels, self.potentials, strict=True):
            at = (label == own).all(1).nonzero()[:, 0]
            if len(at) and f is not None:
                random, points, p = local(generator, home), self.pool.points, self.pool.p
                where = cells(y[at], points, f, p, epsilon, generator=random)
                found[at] = self.pool.at[where]
        if bool((found < 0).any()):
            row = int((found < 0).nonzero()[0])
            raise ValueError(
                f"held-out row {row} has the label {label[row].tolist()}, of which the plan has no"
                " rows; leave out the rows of this label"
            )
        return self.data.on(x1.device, self.rows)[found.to(x1.device)].to(x1)


def _integers(labels: list[Tensor], n: int, home: torch.device) -> Tensor:
    """Labels of n rows side by side, ``(n, L)``."""
    parts = [label.to(home).reshape(n, -1).long() for label in labels]
    return torch.cat([torch.zeros(n, 0, dtype=torch.int64, device=home), *parts], 1)
