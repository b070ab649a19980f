"""By how much a flow map misses another, at each pair of times (s, t)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import integer
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..distributions import Distribution
from ..samplers.starts import evaluating
from ..solve.grid import check_grid
from .exact import SolvedMap
from .flow_map import FlowMap
from .jacobians import jump_rows
from .teachers import check_teacher
from .trial_rows import check_reference, size, trial_rows

__all__ = ["MapErrors", "map_errors"]


@checked
@dataclass(frozen=True, eq=False)
class MapErrors:
    r"""Errors of X_{s,t} over the scale of the data, on a grid of times.

    Attributes:
        times: the grid, ``(T,)``, float64; s is by row and t by column, forward to the right of
            the diagonal.
        rms: root mean square over rows and numbers, ``(T, T)``, float64; NaN where the map has no
            such jump.
        median: the median over the rows of the root mean square of each, ``(T, T)``.
        scale: of the data, in the units of the process: the root mean square distance of their
            numbers from the mean.

    Example:
        >>> times, rms = torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 0.05], [0.2, 0.0]])
        >>> print(MapErrors(times, rms, rms, scale=1.0))  # backward four times those forward
        s \ t          0       1
        0              0    0.05
        1            0.2       0
    """

    times: Tensor
    rms: Tensor
    median: Tensor
    scale: float

    def __str__(self) -> str:
        head = "s \\ t   " + "".join(f"{t:>8.3g}" for t in self.times.tolist())
        rows = [
            f"{s:<8.3g}" + "".join(f"{value:>8.3g}" for value in row)
            for s, row in zip(self.times.tolist(), self.rms.tolist(), strict=True)
        ]
        return "\n".join([head, *rows])

    __repr__ = summary


@checked
def map_errors(
    flow_map: FlowMap,
    reference: FlowMap,
    data: DataLike | Distribution | Any,
    *,
    times: int | Sequence[float] | Tensor = 6,
    from_base: bool = False,
    n: int = 1_000,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> MapErrors:
    """Return the error of ``X_{s,t}(x)`` on a grid of s and t; ``plots.heat_map`` draws it.

    Args:
        flow_map: the map; of one with ``to_data=True`` the column t = 1 alone.
        reference: the exact map, :func:`oracle_map` or ``SolvedMap(field)``.
        data: rows ``(N, *)``, or a law, in the units of the data; of a process of pairs these,
            ``(x0, x1)`` or a Batch.
        times: how many, equally spaced from 0 to 1, or the grid itself, increasing.
        from_base: take for x what the reference makes of the base at time s; otherwise x is drawn
            of the process, whose law of x_s is that of an oracle.
        n: rows.
        cond: conditions of the rows of data (of n rows, of a law).
        generator: source of randomness.

    Raises:
        TypeError: if the reference is no map.
        ValueError: if it is of another process, or the data or the grid do not fit.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> near, exact = (
        ...     tpf.maps.oracle_map(process, tpf.Gaussian((2,), 1.0, scale)) for scale in (0.6, 0.5)
        ... )
        >>> errors = tpf.maps.map_errors(near, exact, tpf.Gaussian((2,), 1.0, 0.5), times=3)
        >>> errors.rms.shape, bool(errors.rms[0, 2] > 0.1)  # |0.1 x| over 0.5
        (torch.Size([3, 3]), True)
    """
    check_reference("reference", reference, flow_map)
    check_teacher(flow_map, reference)
    grid = _grid(times)
    trial = trial_rows(flow_map, data, n, cond, generator)
    count, numbers = len(grid), trial.x1[0].numel()
    rms = torch.full((count, count), torch.nan, dtype=torch.float64)
    median, values = rms.clone(), grid.to(trial.x1).unbind()
    state, cond = trial.x0, trial.cond
    with torch.inference_mode(False), torch.no_grad(), evaluating(flow_map), evaluating(reference):
        for i, s in enumerate(values):
            if from_base:
                state = jump_rows(reference, values[i - 1] if i else 0 * s, s, state, cond)
            else:
                state, cond = trial.at(flow_map, s, 8 + i)
            exact = _exact(reference, values, i, state, cond)
            for j, t in enumerate(values):
                if flow_map.to_data and float(t) != 1:
                    continue
                error = jump_rows(flow_map, s, t, state, cond) - exact[j]
                rms[i, j] = size(error) / trial.scale
                rows = (sum_events(error.square()) / numbers).sqrt()
                median[i, j] = rows.median() / trial.scale
    return MapErrors(grid, rms, median, trial.scale)


def _grid(times: int | Sequence[float] | Tensor) -> Tensor:
    if isinstance(times, (Sequence, Tensor)) and not (isinstance(times, Tensor) and not times.ndim):
        grid = check_grid(times)
        if bool(grid[0] > grid[-1]):
            raise ValueError("times are increasing: errors are given in both directions of them")
        return grid
    count = integer("times", times, "a number of times of at least 2", least=2)
    return torch.linspace(0, 1, count, dtype=torch.float64)


def _exact(
    reference: FlowMap,
    times: Sequence[Tensor],
    i: int,
    x: Tensor,
    cond: Mapping[str, Any],
) -> list[Tensor]:
    """Where the reference goes from the i-th time; a solved map goes on from time to time."""
    found = {i: x}
    for way in (range(i + 1, len(times)), range(i - 1, -1, -1)):
        place, state = i, x
        for j in way:
            found[j] = state = jump_rows(reference, times[place], times[j], state, cond)
            if isinstance(reference, SolvedMap):
                place = j
            else:
                state = x
    return [found[j] for j in range(len(times))]
