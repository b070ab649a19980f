"""TODO docstring."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core.random import draw_key
from .grid import check_grid, with_times
from .hooks import Correction
from .noise import Increments, NoiseSource
from .rows import Rows
from .solution import NonFiniteStateError, Solution
from .stepper import Stepper

__all__ = ["check_finite", "march"]


def march(
    stepper: Stepper,
    x: Tensor,
    grid: Sequence[float] | Tensor,
    *,
    noise: NoiseSource | None = None,
    correction: Correction | None = None,
    key: int | None = None,
    cond: Mapping[str, Any] | None = None,
    save_at: Sequence[float] | Tensor | None = None,
    chunk: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> Solution:
    """Move states along a grid by a :class:`Stepper`; the rest is as for :func:`integrate`."""
    times = check_grid(grid)
    saved: list[int] = []
    if save_at is not None:
        times, saved = with_times(times, save_at)
    groups = stepper.groups
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a floating-point tensor (n, *) of at least 2 dims, got {got}")
    n = x.shape[0] // groups
    if x.shape[0] == 0 or x.shape[0] % groups:
        raise ValueError(f"got {x.shape[0]} rows for {groups} groups; give as many rows to each")

    noisy = stepper.tabulate(times, x.detach()[:1])
    noise = Increments() if noise is None else noise
    if noisy:
        noise.begin(draw_key(generator) if key is None else key, x.detach()[:n], float(times[0]))

    total = x.shape[0]
    size = total if chunk is None else max(1, min(chunk, total))
    count = math.ceil(total / size)
    size = math.ceil(total / count)
    padding = count * size - total
    state = torch.cat([x, x[:padding]]) if padding else x.clone()
    index = torch.arange(count * size, device=x.device).remainder(total)
    chunks = [slice(k * size, (k + 1) * size) for k in range(count)]
    rows = [Rows(index[c], n, groups, x.ndim, cond or {}) for c in chunks]
    memories = [stepper.memory() for _ in chunks]
    # Noise of a chunk: a slice of the step's where that is possible, else gathered by row.
    picks = [
        c if groups == 1 and c.stop <= n else r.sample for c, r in zip(chunks, rows, strict=True)
    ]
    if correction is not None:
        correction.begin(times, x.detach()[:n], chunks, rows, groups)
    in_place = not torch.is_grad_enabled()
    finite = torch.ones(len(times) - 1, dtype=torch.bool, device=x.device)
    trajectory: dict[int, Tensor] = {0: state[:total].clone()} if 0 in saved else {}

    steps = list(itertools.pairwise(times.tolist()))
    for i, (t0, t1) in enumerate(
        tqdm(steps, disable=None if progress else True, desc=stepper.name)
    ):
        draws = stepper.draw(i, t0, t1, noise) if noisy else ()
        moved = []
        for c, r, pick, memory in zip(chunks, rows, picks, memories, strict=True):
            new = stepper.step(i, state[c], r, tuple(d[pick] for d in draws), memory)
            if in_place:
                state[c] = new
            else:
                moved.append(new)
        if not in_place:
            state = torch.cat(moved)
        if correction is not None:
            state = correction.correct(i, state)
        finite[i] = torch.isfinite(state.detach()).all()
        if i + 1 in saved:
            trajectory[i + 1] = state[:total].clone()

    return Solution(
        x=state[:total],
        t=times,
        nfe=stepper.nfe + (correction.nfe if correction else 0),
        scheme=f"{stepper.name} + {correction.name}" if correction else stepper.name,
        trajectory=torch.stack([trajectory[k] for k in saved]) if saved else None,
        saved_at=times[saved] if saved else None,
        window=stepper.window,
        margin=stepper.margin,
        first_bad_step=None if bool(finite.all()) else int((~finite).nonzero()[0]),
    )


def check_finite(solution: Solution, event_dims: int) -> Solution:
    """Return the solution, or raise if a state stopped being finite."""
    step = solution.first_bad_step
    if step is None:
        return solution
    flat = solution.x.reshape(-1, *solution.x.shape[-event_dims:]).flatten(1)
    bad = int((~flat.isfinite()).any(1).sum())
    corrector = "a corrector of half the snr, " if " + " in solution.scheme else ""
    raise NonFiniteStateError(
        f"states stopped being finite at step {step} of {len(solution.t) - 1} (t ="
        f" {float(solution.t[step]):.4g} to {float(solution.t[step + 1]):.4g}); at the end {bad} of"
        f" {flat.shape[0]} rows are not. Take more steps, a smaller epsilon or one that vanishes"
        f" with the noise (NoiseScaleEpsilon), {corrector}or look at the field there; the rest is"
        " in error.solution",
        solution,
    )
