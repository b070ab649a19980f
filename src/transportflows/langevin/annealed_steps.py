"""The stepper of annealed Langevin dynamics: many steps at each of some noise levels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.checks import per_time
from ..fields.base import Field
from ..process import Process
from ..solve.rows import Chunks
from ..solve.solution import NonFiniteStateError, Solution
from ..solve.stepper import Prepared
from .curvature import stable_step
from .scores import FieldTable
from .steps import LangevinSteps, langevin_step

__all__ = ["AnnealedSteps"]


class AnnealedSteps(LangevinSteps):
    """Langevin steps at one level after another; the first of a level moves the state to it.

    What is remembered is where the first level began at which a state stopped being finite, or the
    present level if none did: the step size to try is found from there.

    Args:
        field: the field whose score is followed.
        levels: times, float64 ``(L,)``.
        steps: steps at each.
        rule: of the step sizes; see :func:`annealed_langevin`.
        x: states at the start, for their shape.
        rescale: whether to keep ``(x - α m)/β`` between levels.
    """

    name = "annealed_langevin"

    def __init__(
        self,
        field: Field,
        levels: Tensor,
        steps: int,
        rule: float | Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        rescale: bool,
    ) -> None:
        self.levels, self.steps = levels, steps
        self.sizes = _step_sizes(field.process, levels, rule)
        self.table = FieldTable(field, "score", levels)
        self.scales, self.shifts = [1.0] * len(levels), None
        if rescale:
            self.scales, self.shifts = _moves(field.process, levels, x)

    def memory(self, prepared: Prepared, x: Tensor, rows: Chunks) -> Tensor:
        return x

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: Tensor, rows: Chunks, draws: Any
    ) -> tuple[Tensor, Tensor]:
        level, within = divmod(step, self.steps)
        if within == 0:
            x = x if self.scales[level] == 1.0 else x * self.scales[level]
            x = x if self.shifts is None else x + self.shifts[level]
            memory = torch.where(torch.isfinite(x).all(), x, memory)
        s = rows.map(partial(self.table, level), x)
        return langevin_step(x, s, self.sizes[level], *draws), memory

    def diverged(
        self, solution: Solution, good: Tensor, rows: Chunks, told: Solution
    ) -> NonFiniteStateError:
        """The error of states that left the finite numbers: at which step, and what to try.

        Args:
            solution: what was computed, in the field's units.
            good: what was remembered: states at the start of the level.
            rows: the rows of the states.
            told: the same, as it is returned.
        """
        level, within = divmod(int(solution.first_bad_step or 0), self.steps)
        bad = (~torch.isfinite(solution.x)).flatten(1).any(1)
        index, size = bad.nonzero().flatten()[:64], self.sizes[level]
        score = partial(self.table, level)
        try_, met = stable_step(score, rows.take(index, good), good[index], size, 1.0)
        scale = float(self.table.field.process.noise_part.scale(self.table.times[level]))
        return NonFiniteStateError(
            f"Langevin steps diverged: states stopped being finite at step {within} of level"
            f" {level} (t = {float(self.levels[level]):.4g}, σ̂ = {scale:.3g}), and at the end"
            f" {int(bad.sum())} of {len(bad)} rows are not. There steps are stable below 2/L, with"
            f" the curvature L of log p up to {met:.3g} = {met * scale**2:.3g} / σ̂² (an exact"
            f" score's is at most 1 / σ̂²), and h was {size:.3g} = {size / scale**2:.3g} σ̂². Try"
            f" step_size={try_ / scale**2:.2g}, in h = step_size · σ̂²; the rest is in"
            " error.solution",
            told,
        )


def _step_sizes(
    process: Process, times: Tensor, rule: float | Callable[[Tensor], Tensor]
) -> list[float]:
    part = process.noise_part
    scale = part.scale(times.to(part.device)).cpu()
    if bool((scale <= 0).any()):
        bad = float(times[scale <= 0][0])
        raise ValueError(
            f"there is no noise at the level t = {bad:g}, where Langevin steps have no scale to go"
            " by; end the levels earlier, where σ̂ is small beside the data's scale, and let"
            " denoise=True do the rest"
        )
    if callable(rule):
        sizes = per_time("step_size(scales)", rule(scale), scale).to(scale).expand(len(scale))
        if not bool((torch.isfinite(sizes) & (sizes > 0)).all()):
            raise ValueError(f"step sizes must be finite and > 0, got {sizes.tolist()}")
    else:
        if not 0 < float(rule) < 2:
            raise ValueError(
                f"step_size is r in h = r σ̂², and steps are stable for 0 < r < 2 only, got {rule};"
                " a function of the noise scales gives h itself"
            )
        sizes = float(rule) * scale.square()
    values: list[float] = sizes.tolist()
    return values


def _moves(process: Process, times: Tensor, x: Tensor) -> tuple[list[float], Tensor | None]:
    """Factor and shift of the state before each level, that keep ``(x - α m)/β``."""
    if len(times) < 2:
        return [1.0], None
    part = process.noise_part
    t = times.to(part.device)
    beta = part.signal(t)
    ratio = torch.where(beta[:-1] != 0, beta[1:] / beta[:-1], 1.0)
    scales: list[float] = [1.0, *ratio.tolist()]
    if part.base_mean is None:
        return scales, None
    alpha = part.whole.path.alpha(t)
    shift = torch.cat([torch.zeros_like(alpha[:1]), alpha[1:] - ratio * alpha[:-1]]).to(x)
    return scales, shift.view(-1, *(1,) * (x.ndim - 1)) * part.base_mean.to(x)
