"""A plan from a law of x0 to whole data: semidiscrete, within each label."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.precision import wide
from ..plans import ConvergenceWarning, semidiscrete_plan
from .known_rows import KnownRows
from .solved import CellsOfLabel, PlanReport, Solved, spread

__all__ = ["solve_law"]


def solve_law(
    draw: Callable[[int], Tensor],
    y: Tensor,
    rows: KnownRows,
    groups: list[Tensor],
    *,
    epsilon: float,
    tolerance: float,
    max_draws: int,
) -> Solved:
    """Solve from a law to the different rows of x1, within each label; see :func:`solve_pool`.

    Raises:
        RuntimeError: if the plan did not converge.
    """
    parts, q = [], rows.weights
    centre = q @ y / q.sum()
    label_of = torch.zeros(len(rows), dtype=torch.int64, device=y.device)
    value, error, violation, violation_error = 0.0, 0.0, 0.0, 0.0
    for k, group in enumerate(groups):
        label_of[group] = k
        share = q[group].sum()
        some = group[q[group] > 0]
        if float(share) == 0:
            raise ValueError("all rows of a label have the weight 0; leave that label out of x1")
        points, weights = y[some] - centre, q[some] / share
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # refused below instead
            found = semidiscrete_plan(
                lambda n: wide(draw(n).flatten(1)).to(y.device) - centre,
                points,
                weights,
                epsilon=epsilon,
                tolerance=tolerance,
                max_draws=max_draws,
            )
        if not found.converged:
            raise RuntimeError(
                f"the semidiscrete plan did not converge: after {found.draws:,} draws its masses"
                f" are {found.violation:.2g} (+ {found.violation_error:.2g}) off, beyond"
                f" tolerance={tolerance:g}, and a plan that has not converged is not used; give a"
                " larger tolerance, max_steps (draws) or regularisation, or a pool,"
                " TransportPlan(base.sample(10_000), x1)"
            )
        parts.append(CellsOfLabel(some, points, found.y_potential, weights))
        value += float(share) * found.value
        error += (float(share) * found.value_error) ** 2
        if found.violation + found.violation_error > violation + violation_error:
            violation, violation_error = found.violation, found.violation_error
    report = PlanReport(
        "semidiscrete",
        epsilon,
        value,
        error**0.5,
        violation,
        violation_error,
        y.new_zeros(0),
        spread(q, rows),
    )
    return Solved(report, q / q.sum(), None, label_of, tuple(parts), centre)
