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
from tqdm import tqdm

from .._core.checks import check_finite_rows
from .._core.conditions import check_conditions
from .._core.tensor import expand_time, sum_events
from ..solve.rows import Chunks
from ..solve.solution import Solution
from .curvature import diverged
from .langevin import as_step_size, check_save_at, check_steps
from .scores import ScoreFunction, check_score

__all__ = ["AscentSolution", "ascend"]


@dataclass(frozen=True)
class AscentSolution(Solution):
    """Where the ascent ended.

    ``t`` and ``saved_at`` count steps; ``nfe`` counts evaluations of the score.

    Attributes:
        residual: ``h |s(x)|`` at the end, ``(n,)``: the length of the step that would come next, a
            distance in units of x.
        converged: whether that is within the tolerance, ``(n,)``.
    """

    residual: Tensor | None = None
    converged: Tensor | None = None


@torch.no_grad()
def ascend(
    score: ScoreFunction,
    x: Tensor,
    *,
    step_size: float | Tensor,
    steps: int,
    tolerance: float = 1e-4,
    save_at: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    chunk: int | None = None,
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
        chunk: rows in one call of the score; all at once if None.
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
    check_finite_rows(x, "x")
    steps = check_steps(steps)
    size = as_step_size(step_size, x)
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be finite and > 0, got {tolerance}")
    saved = check_save_at(save_at, steps)
    rows = Chunks(x, chunk, check_conditions(cond, len(x)))
    state, finite = x.clone(), torch.ones(steps, dtype=torch.bool, device=x.device)
    trajectory = {0: state} if 0 in saved else {}
    h: float | Tensor = float(size) if size.ndim == 0 else expand_time(size.to(x), x)
    for k in tqdm(range(steps), disable=None if progress else True, desc="ascent"):
        state = state + h * check_score(rows.map(score, state), state)
        finite[k] = torch.isfinite(state).all()
        if k + 1 in saved:
            trajectory[k + 1] = state
    residual = sum_events((h * rows.map(score, state)).square()).sqrt()
    counts = torch.arange(steps + 1, dtype=torch.float64)
    solution = AscentSolution(
        x=state,
        t=counts,
        nfe=steps + 1,
        scheme="ascent",
        trajectory=torch.stack([trajectory[k] for k in saved]) if saved else None,
        saved_at=counts[saved] if saved else None,
        first_bad_step=None if bool(finite.all()) else int((~finite).nonzero()[0]),
        residual=residual,
        converged=residual <= tolerance,
    )
    if solution.first_bad_step is not None:
        raise diverged("gradient ascent", score, x, solution, rows, size, 0.0)
    return solution
