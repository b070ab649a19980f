"""Where a solve starts, and in which mode the networks are while it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, if_array
from .._core.checks import check_finite_rows, positive_integer
from .._core.random import mix, stream
from .._core.shared import reading
from .._core.tensor import first_floating, solving_dtype
from ..couplings.base import Coupling
from ..distributions import Distribution, Point
from ..fields.base import Field
from ..fields.units import starting_law
from ..process import Process
from ..solve.epsilon import EpsilonSchedule
from ..solve.solution import Solution

__all__ = [
    "check_from_point",
    "check_from_start",
    "evaluating",
    "from_point",
    "in_data_units",
    "starting_states",
]


def starting_states(
    field: Field,
    n: int | None,
    start: Distribution | DataLike | Any | None,
    first: float,
    dtype: torch.dtype | None,
    key: int,
) -> Tensor:
    """The states to start from, in the field's units."""
    like = field.reference()
    like = like.to(solving_dtype(dtype, like.dtype))
    process, start = field.process, if_array("start", start, like=like)
    if isinstance(start, Tensor):
        check_finite_rows(start, "start")
        if n is not None and n != start.shape[0]:
            raise ValueError(f"n = {n}, but start has {start.shape[0]} rows; leave n out")
        x = start.to(solving_dtype(dtype, start.dtype))
        _check_device(field, x, "start")
        _check_shape(process.shape, x)
        return x if field.transform is None else field.transform(x)
    if n is None:
        raise ValueError("give the number of samples: sample(field, n)")
    n = positive_integer("the number of samples", n)
    if start is None and first != 0:
        raise ValueError(
            f"a solve that starts at t = {first:g} needs start=: data at t = 1 (a tensor, or a"
            " Distribution such as Empirical(data)), or states x_t of your own"
        )
    law = starting_law(field, start)
    _check_shape(process.shape, torch.empty(1, *law.shape))
    generator = stream(mix(key, 0), device=like.device)
    return law.sample(n, generator=generator, dtype=like.dtype, device=like.device)


def _check_device(field: Field, x: Tensor, name: str) -> None:
    """Refuse states that are on another device than the networks."""
    if all(first_floating(net) is None for net in field.networks):
        return
    like = field.reference()
    if x.device != like.device:
        raise ValueError(
            f"{name} is on {x.device} and the network is on {like.device}; write"
            f" {name}.to({str(like.device)!r})"
        )


def check_from_start(
    coupling: Coupling, grid: Tensor, schedules: Sequence[EpsilonSchedule]
) -> None:
    """Refuse a solve that a field which is told of the start of its path cannot make."""
    if float(grid[0]) != 0 or float(grid[-1]) == 0:
        raise ValueError(
            "the field is told of the start of its path, x0, so a solve starts there, at t = 0;"
            f" got t from {float(grid[0]):g} to {float(grid[-1]):g}"
        )
    if not coupling.is_map and any(schedule.is_zero for schedule in schedules):
        raise ValueError(
            "at ε = 0 all copies of an x0 go to one x1, and the coupling does not say that it is a"
            " map; give an epsilon, such as NoiseScaleEpsilon(0.5), or write"
            " Paired(condition_on_start=True, is_map=True)"
        )


def from_point(process: Process) -> bool:
    """Whether paths begin in one point: that of the base, or of each row its own."""
    return isinstance(process.base, Point) or process.coupling.condition_on_start


def check_from_point(
    base: Distribution | None, first: float, schedules: Sequence[EpsilonSchedule]
) -> None:
    """Refuse an ODE that starts in one point, which it would leave by one path."""
    if not isinstance(base, Point) or first != 0:
        return
    if any(schedule.is_zero for schedule in schedules):
        raise ValueError(
            "the base is one point, from which at ε = 0 all draws go to one x1; give an epsilon,"
            " a/2 for the Föllmer process of Linear(Brownian(a)): sample(field, n, epsilon=a / 2)"
        )


def _check_shape(shape: torch.Size | None, x: Tensor) -> None:
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"start has event shape {tuple(x.shape[1:])}, and the process has {tuple(shape)}"
        )


def in_data_units(solution: Solution, field: Field) -> Solution:
    """A solution in the units that the data have."""
    path, transform = solution.trajectory, field.transform
    if transform is None:
        return solution
    return replace(
        solution,
        x=transform.invert(solution.x),
        trajectory=None if path is None else transform.invert(path),
    )


@contextmanager
def evaluating(field: Field) -> Iterator[None]:
    """Put the networks into evaluation mode, and back into the modes they were in.

    Raises:
        RuntimeError: if they are trained in another thread; see :mod:`.._core.shared`.
    """
    with reading(field.networks):
        yield
