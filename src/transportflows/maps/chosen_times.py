"""Which times a few jumps should go by: chosen by errors that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import positive_integer
from .._core.random import draw_key, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from ..fields import Field
from ..fields.base import check_field
from ..samplers import sample
from .flow_map import FlowMap
from .teachers import check_teacher

__all__ = ["ChosenTimes", "choose_times"]


@checked
@dataclass(frozen=True)
class ChosenTimes:
    """A grid for ``sample(flow_map, t=...)``.

    Attributes:
        times: of the grid, from 0 to 1.
        error: rms error of its ends, measured.
        uniform: that of as many equal steps.
    """

    times: tuple[float, ...]
    error: float
    uniform: float

    __repr__ = summary


@checked
@torch.no_grad()
def choose_times(
    flow_map: FlowMap,
    steps: int,
    *,
    field: Field | None = None,
    candidates: int = 16,
    n: int = 1_000,
    start: DataLike | None = None,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> ChosenTimes:
    """The times of a grid of few jumps with the least error.

    On paths of the reference, each jump between two of the candidate times is made from the path,
    and what it is off is carried on to t = 1 by the reference. The sum of the rms of these errors
    bounds the rms error of a grid; the grid with the least one is found by dynamic programming, and
    compared with equal steps on the same paths. The times are those of a last training, too:
    ``pairs=GridPairs(chosen.times)``.

    Args:
        flow_map: the map.
        steps: jumps of the grid.
        field: the reference: the teacher, whose ODE is solved. By default the map's own tangent.
        candidates: equal parts of [0, 1] whose ends may be chosen; the reference takes a step of
            RK4 in each, so that sharp data need more of them.
        n: paths.
        start: states at t = 0 to start from instead, ``(n, *)``, in the units of the data; those of
            a process without a base.
        cond: conditions; tensors have n rows.
        generator: source of the starts.

    Raises:
        TypeError: if the reference is no field.
        ValueError: if there are more steps than candidates, the map or the reference is to t = 1
            only, or the reference is of another process.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> teacher = tpf.oracle(process, tpf.Gaussian((1,), scale=0.1))
        >>> euler = FlowMap(lambda s, t, x: teacher.velocity(s, x), process)
        >>> chosen = choose_times(euler, 2, field=teacher, candidates=4, n=20)
        >>> chosen.times, chosen.error < chosen.uniform  # short steps where the flow bends
        ((0.0, 0.75, 1.0), True)
    """
    steps, candidates = positive_integer("steps", steps), positive_integer("candidates", candidates)
    if steps > candidates:
        raise ValueError(f"{steps} steps need as many candidates, got {candidates}")
    if flow_map.to_data:
        raise ValueError(
            "this FlowMap was trained for t = 1 only (to_data=True), so its jumps are not composed"
        )
    reference = flow_map if field is None else field
    if reference is not flow_map:
        check_field(reference, "jumps are held against the ODE of")
        check_teacher(flow_map, reference)
    grid = [k / candidates for k in range(candidates + 1)]
    key = draw_key(generator)

    def solved(x: Tensor, k: int, **how: Any) -> Any:
        return sample(
            reference, start=x, t=grid[k:], scheme="rk4", cond=cond, generator=stream(key), **how
        )

    path: Any = sample(
        reference, n if start is None else None, start=start, t=grid, scheme="rk4", save_at=grid,
        cond=cond, generator=stream(mix(key, 1)),
    ).trajectory  # fmt: skip
    start = path[0]
    cost = torch.full((candidates + 1, candidates + 1), torch.inf, dtype=torch.float64)
    for j in range(1, candidates + 1):
        made = [
            sample(flow_map, start=path[i], t=(grid[i], grid[j]), cond=cond, steps=1).x
            for i in range(j)
        ]
        for i, x in enumerate(made):
            end = x if j == candidates else solved(x, j).x
            cost[i, j] = (end - path[-1]).double().square().mean().sqrt()
    times = [grid[k] for k in _least(cost, steps)]
    equal = [k / steps for k in range(steps + 1)]
    errors = [
        float((sample(flow_map, start=start, t=t, cond=cond).x - path[-1]).square().mean().sqrt())
        for t in (times, equal)
    ]
    if errors[1] <= errors[0]:
        return ChosenTimes(tuple(equal), errors[1], errors[1])
    return ChosenTimes(tuple(times), *errors)


def _least(cost: Tensor, steps: int) -> list[int]:
    """The places of the cheapest way of so many steps from the first to the last."""
    last = len(cost) - 1
    best, came = cost[0].clone(), []
    for _ in range(steps - 1):
        total = best[:, None] + cost
        best, where = total.min(0)
        came.append(where)
    way = [last]
    for where in reversed(came):
        way.append(int(where[way[-1]]))
    return [0, *reversed(way)]
