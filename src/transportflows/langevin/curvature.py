r"""How steep a score is, and which step size it allows.

A step ``x + h s(x)`` multiplies a deviation by ``1 + h λ``, λ an eigenvalue of the score's
Jacobian, which is the Hessian of log p. It contracts only where ``|1 + h λ| < 1``: h must stay
below ``2/L``, with -L the most negative curvature that the chain meets. At ``h = 1 / (2L)`` the
variance along that direction is a third too large (``1/(1 - hL/2)``), and less along all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.conditions import check_conditions
from .._core.tensor import expand_time, sum_events
from ..solve.rows import Chunks
from ..solve.solution import NonFiniteStateError, Solution
from .scores import ScoreFunction

__all__ = ["diverged", "largest_curvature", "stable_step"]

_ROWS = 64


def largest_curvature(
    score: ScoreFunction, rows: Chunks, x: Tensor, *, iterations: int = 12
) -> float:
    """L, minus the lowest eigenvalue of the score's Jacobian over the rows; 0 if none is negative.

    Power iteration in each row on differences of scores, first on J for its largest absolute
    eigenvalue Λ, then on ``Λ - J``: between modes log p curves upward, perhaps more steeply, and
    that bounds no step. ``2 iterations + 1`` evaluations; it reads values from the device.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    start = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    s = rows.map(score, x)
    delta = torch.finfo(x.dtype).eps ** (1 / 3) * x.square().mean().sqrt().clamp(min=1.0)

    def power(shift: Tensor | None) -> Tensor:
        v, rate = start, x.new_zeros(len(x))
        for _ in range(iterations):
            length = sum_events(v.square()).sqrt().clamp(min=torch.finfo(x.dtype).tiny)
            v = v / expand_time(length, x)
            w = (rows.map(score, x + delta * v) - s) / delta
            w = w if shift is None else expand_time(shift, x) * v - w
            rate = sum_events(w.square()).sqrt()
            v = torch.where(torch.isfinite(w), w, v)
        return rate

    largest = power(None)
    found = power(largest) - largest
    found = found[torch.isfinite(found)]
    return max(0.0, float(found.max())) if found.numel() else 0.0


def stable_step(
    score: ScoreFunction, rows: Chunks, x: Tensor, step_size: float, temperature: float
) -> tuple[float, float]:
    """A step size that the score allows from x on, below ``step_size``, and the L met.

    Short runs with the candidate, ``h = 1/(2L)``, until the curvature where they end allows it.
    """
    generator = torch.Generator(x.device).manual_seed(1)
    met = largest_curvature(score, rows, x)
    h = 0.5 * min(step_size, 1 / met if met > 0 else math.inf)
    for _ in range(12):
        y = x
        for _ in range(25):
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            y = y + h * rows.map(score, y) + math.sqrt(2 * h * temperature) * z
        if not bool(torch.isfinite(y).all()):
            h *= 0.25
            continue
        found = largest_curvature(score, rows, y)
        met = max(met, found)
        if h * found <= 0.6:
            break
        h = 0.5 / found
    return h, met


def diverged(
    what: str,
    score: ScoreFunction,
    x: Tensor,
    solution: Solution,
    cond: Mapping[str, Any] | None,
    step_size: Tensor,
    temperature: float,
) -> NonFiniteStateError:
    """The error of states that left the finite numbers: at which step, and what to try.

    Args:
        what: what was done, for the message.
        score: the score.
        x: states at the start.
        solution: what was computed.
        cond: conditions of these.
        step_size: what was given, ``()`` or ``(n,)``.
        temperature: that of the steps.
    """
    bad = (~torch.isfinite(solution.x)).flatten(1).any(1)
    index = bad.nonzero().flatten()[:_ROWS]
    used = float(step_size.expand(len(x))[index].max())
    rows = Chunks(x, None, check_conditions(cond, len(x))).take(index, x)
    try_, met = stable_step(score, rows, x[index], used, temperature)
    return NonFiniteStateError(
        f"{what} diverged: states stopped being finite at step {solution.first_bad_step} of"
        f" {len(solution.t) - 1}, and at the end {int(bad.sum())} of {len(bad)} rows are not. Steps"
        f" are stable below 2/L, and the curvature L of log p reaches {met:.3g} on the way from"
        f" the start, so that 2/L = {2 / max(met, 1e-300):.3g}; step_size was {used:.3g}. Try"
        f" step_size={try_:.2g}; the rest is in error.solution",
        solution,
    )
