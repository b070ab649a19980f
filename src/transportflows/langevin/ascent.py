r"""Gradient ascent to the modes of a law, from its score alone.

``x' = x + h s(x)`` with ``s = ∇ log p`` climbs log p, the Langevin step at temperature 0. For
``h < 2/L`` each step that is not at rest climbs, and from almost every start it ends at a local
maximum of p, a mode (Rakitin, section 2.1.1). Which one is a matter of the start: the rows that
end at a mode are those that started in its basin, and their share is not the mode's weight.

A mixture of separated components has a mode near each of its means; of components that overlap it
may have fewer, and not at the means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_finite_rows, positive_integer, step_numbers
from .._core.conditions import check_conditions
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import expand_time, sum_events
from ..solve.hooks import Hooks
from ..solve.loop import march
from ..solve.rows import Chunks
from ..solve.solution import Solution, check_hooks_finite
from ..solve.stepper import Prepared, Stepper
from .curvature import diverged
from .langevin import as_step_size
from .scores import ScoreFunction, check_callable_score, check_score

__all__ = ["AscentSolution", "ascend"]


@checked
@dataclass(frozen=True, repr=False)
class AscentSolution(Solution):
    """Where the ascent ended.

    ``t`` and ``saved_at`` count steps; ``nfe`` counts evaluations of the score.

    Attributes:
        residual: ``h |s(x)|`` at the end, ``(n,)``: the length of the step that would come next, a
            distance in units of x.
        converged: whether that is within the tolerance, ``(n,)``.

    Example:
        >>> run = ascend(lambda x: 4 - x, torch.zeros(1, 1), step_size=0.5, steps=1)
        >>> run.x, run.residual, run.converged  # 0 + 0.5 · 4, and 0.5 · (4 - 2) to come
        (tensor([[2.]]), tensor([1.]), tensor([False]))
    """

    residual: Tensor | None = None
    converged: Tensor | None = None

    __repr__ = summary


@checked
@torch.no_grad()
def ascend(
    score: ScoreFunction,
    x: DataLike,
    *,
    step_size: float | Tensor,
    steps: int,
    tolerance: float = 1e-4,
    save_at: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    hooks: Hooks = (),
    chunk: int | None = None,
    max_nfe: int | None = None,
    progress: bool = False,
) -> AscentSolution:
    """Climb from each row of x towards a mode: ``x + h s(x)``, a fixed number of times.

    Args:
        score: ``s(x, **cond)``, as for :func:`langevin`.
        x: starting states, ``(n, *)``. Not changed.
        step_size: h > 0, a number or one a row, ``(n,)``; below 2/L.
        steps: number of steps; all are made, so that nothing is read from the device.
        tolerance: the length of a step, in units of x, from which on a row counts as arrived.
        save_at: numbers of steps after which to save the states, in 0 .. steps.
        cond: conditions for the score; tensors of n rows go with their rows.
        hooks: called after each step, as for :func:`sample`: to look at the states, to end the
            ascent, or to return other states.
        chunk: rows in one call of the score; all at once if None.
        max_nfe: most evaluations of the score for a row; more steps than that are refused.
        progress: show a progress bar.

    Raises:
        NonFiniteStateError: if a state stops being finite: at which step, and which step size
            the score's curvature allows.
        ValueError: for a step size or tolerance that is not positive, and so on.

    Example:
        >>> import transportflows as tpf
        >>> top = ascend(lambda x: 3 - x, torch.zeros(1, 2), step_size=0.5, steps=20)
        >>> top.x, top.converged
        (tensor([[3.0000, 3.0000]]), tensor([True]))
    """
    check_callable_score(score, cond)
    x = as_rows("x", x)
    check_finite_rows(x, "x")
    steps = positive_integer("steps", steps)
    size = as_step_size(step_size, x)
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be finite and > 0, got {tolerance}")
    h: float | Tensor = float(size) if size.ndim == 0 else expand_time(size.to(x), x)
    solution, _ = march(
        AscentSteps(score, h),
        x,
        torch.arange(steps + 1, dtype=torch.float64),
        saved=step_numbers(save_at, steps),
        hooks=hooks,
        cond=cond,
        chunk=chunk,
        max_nfe=max_nfe,
        progress=progress,
    )
    rows = Chunks(x, chunk, check_conditions(cond, len(x)))
    residual = sum_events((h * rows.map(score, solution.x)).square()).sqrt()
    solution = AscentSolution(**vars(solution), residual=residual, converged=residual <= tolerance)
    if solution.first_bad_step is not None:
        check_hooks_finite(solution)
        raise diverged("gradient ascent", score, x, solution, cond, size, 0.0)
    return solution


class AscentSteps(Stepper):
    """Steps ``x + h s(x)``.

    Args:
        score: ``s(x, **cond)``.
        step_size: h, a number, or one a row in the shape of the states.
    """

    name, whole = "ascent", True

    def __init__(self, score: ScoreFunction, step_size: float | Tensor) -> None:
        self.score, self.step_size = score, step_size

    def prepare(self, times: Tensor, like: Tensor) -> Prepared:
        return Prepared(before=1)  # the look at the residual, though it comes last

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: None, rows: Chunks, draws: Any
    ) -> tuple[Tensor, None]:
        return x + self.step_size * check_score(rows.map(self.score, x), x), None
