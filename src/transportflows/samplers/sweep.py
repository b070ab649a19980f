"""Sweeps over ε: several diffusions of one field in one solve, put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._core.conditions import map_rows
from .._core.distributed import World
from ..solve.epsilon import EpsilonSchedule
from ..solve.hooks import Hook, Moment
from ..solve.noise import Increments, NoiseOfRows, NoiseSource
from ..solve.solution import Solution

__all__ = ["gathered", "shared_rows", "stops_together", "sweep", "together"]


def shared_rows(
    team: World, x: Tensor, cond: Mapping[str, Any], noise: NoiseSource | None
) -> tuple[Tensor, dict[str, Any], NoiseSource, Callable[[], NoiseSource]]:
    """What this process solves of a shared solve: rows, conditions, noise, sources of normals."""
    source, n = Increments() if noise is None else noise, len(x)
    if team.size == 1:
        return x, dict(cond), source, Increments
    low, high = team.slice(n)
    given = map_rows(cond, lambda rows: rows[low:high])

    def normals() -> NoiseSource:
        return NoiseOfRows(Increments(), low, high, n)

    return x[low:high], given, NoiseOfRows(source, low, high, n), normals


def stops_together(team: World) -> Hook:
    """A hook that ends the solve of every process where that of one was ended."""

    def agree(moment: Moment, /) -> None:
        if any(team.all_values(moment.stopped)):
            moment.stop()

    return agree


def sweep(schedules: Sequence[EpsilonSchedule], *, apart: bool = False) -> list[list[int]]:
    """Which members are solved at once: those with ε = 0, as one ODE; all the others, or each."""
    still = [k for k, e in enumerate(schedules) if e.is_zero]
    moving = [k for k, e in enumerate(schedules) if not e.is_zero]
    rest = [[k] for k in moving] if apart else [moving]
    return [members for members in (still[:1], *rest) if members]


def together(
    solutions: Sequence[Solution], schedules: Sequence[EpsilonSchedule], n: int
) -> Solution:
    """The solution of all members, ``(K, n, *)``, from those of :func:`sweep`.

    Raises:
        ValueError: if a hook ended them at different steps, so that they are at different times.
    """
    if len({len(solution.t) for solution in solutions}) > 1:
        raise ValueError(
            "a hook ended the solve with epsilon = 0 and that of the other epsilons at different"
            " steps, so they have no common time; stop at a step, not by the states, or sample"
            " the epsilons one by one"
        )
    sde = solutions[-1]
    moving = [(s, j) for s in solutions for j in range(len(s.x) // n)]
    still = moving[0] if any(schedule.is_zero for schedule in schedules) else None
    rest = iter(moving if still is None else moving[1:])
    parts = [still if e.is_zero and still is not None else next(rest) for e in schedules]
    bad = [s for s in solutions if s.first_bad_step is not None]
    first = min(bad, key=lambda s: s.first_bad_step or 0, default=sde)
    paths = None
    if sde.trajectory is not None:
        paths = torch.stack(
            [s.trajectory[:, j * n : (j + 1) * n] for s, j in parts if s.trajectory is not None],
            dim=1,
        )
    return replace(
        sde,
        x=torch.stack([s.x[j * n : (j + 1) * n] for s, j in parts]),
        trajectory=paths,
        limited=next((s.limited for s in solutions if s.limited), None),
        first_bad_step=first.first_bad_step,
        bad_hook=first.bad_hook,
        members=len(parts),
    )


def gathered(solution: Solution, team: World, n: int, ndim: int) -> Solution:
    """The solution of all n rows, from those of the processes."""
    if team.size == 1:
        return solution
    path = solution.trajectory
    told = team.all_values((solution.first_bad_step, solution.bad_hook))
    bad = [pair for pair in told if pair[0] is not None]
    first, hook = min(bad, key=lambda pair: pair[0] or 0, default=(None, None))
    return replace(
        solution,
        x=team.gather(solution.x, n, solution.x.ndim - ndim),
        trajectory=None if path is None else team.gather(path, n, path.ndim - ndim),
        nfe=max(team.all_values(solution.nfe)),
        first_bad_step=first,
        bad_hook=hook,
    )
