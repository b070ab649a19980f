"""Teachers of a flow map: the velocity of any field, a step along it, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.registry import alike, told
from .._core.tensor import expand_time
from ..fields import Field
from ..times.base import Margin

__all__ = ["check_teacher", "heun_step", "margin_of", "velocity_of"]

_AMPLIFIED = 50.0  # the most by which an error of a prediction may enter a velocity that is learned
_MARGINS = (0.0, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1)


def velocity_of(field: Field, t: Tensor, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
    """``b(t, x)`` of a field, unchecked."""
    return field.quantity("velocity", t, x, cond, checked=False)


def heun_step(field: Field, s: Tensor, t: Tensor, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
    """The mean velocity of a step of Heun from s to t, ``(B, *)``: two calls of the field."""
    first = velocity_of(field, s, x, cond)
    end = x + expand_time(t - s, x) * first
    return 0.5 * (first + velocity_of(field, t, end, cond))


def margin_of(*fields: Field) -> Margin:
    """How far from the ends of time losses keep, where predictions of some fields make velocities.

    The least of a few distances at which an error of a prediction enters the velocity by a factor
    of 50 at most: a data prediction has a pole at t = 1, one of the noise at t = 0, where errors of
    a network would be all that a student learns. At least that of the process, at an end where the
    target ẋ is infinite.
    """
    found = list(fields[0].process.target_margin)
    for field in fields:
        if "velocity" in field.outputs:
            continue
        near = torch.tensor(_MARGINS, dtype=torch.float64)
        for end, times in enumerate((near, 1 - near)):
            small = field.weights("velocity", times).within(_AMPLIFIED)
            first = int(small.int().argmax()) if bool(small.any()) else len(_MARGINS) - 1
            found[end] = max(found[end], _MARGINS[first])
    return found[0], found[1]


def check_teacher(student: Field, teacher: Field) -> None:
    """Refuse a teacher whose ODE is another, or in other units.

    Raises:
        TypeError: if it is no field.
        ValueError: if its process or transform is not the map's, or it is a map to t = 1 only.
        ConversionError: if it has no velocity.
    """
    if not isinstance(teacher, Field):
        raise TypeError(f"teacher must be a Field, got {type(teacher).__name__}")
    if teacher is student:
        raise ValueError(
            "the map cannot be its own teacher, which would move as it learns; leave teacher out"
        )
    if getattr(teacher, "to_data", False):
        raise ValueError(
            "the teacher is a FlowMap that was trained for t = 1 only (to_data=True), so that it"
            " has no velocity, nor jumps that end elsewhere; give the field that it was distilled"
            " from"
        )
    for name in ("interpolant", "base"):
        mine, other = getattr(student.process, name), getattr(teacher.process, name)
        if mine is not other and not alike(mine, other):
            raise ValueError(
                f"the teacher is of another process: its {name} is {_shown(other)} and that of the"
                f" map {_shown(mine)}; write FlowMap(net, teacher.process)"
            )
    mine, other = student.process.coupling, teacher.process.coupling
    if mine.independent is not other.independent:
        raise ValueError(
            f"the teacher is of another process: its coupling is {_shown(other)} and that of the"
            f" map {_shown(mine)}, and of these one alone leaves x0 independent of x1; write"
            " FlowMap(net, teacher.process)"
        )
    mine, other = student.transform, teacher.transform
    if mine is not other and not alike(mine, other):
        raise ValueError(
            "the teacher works in other units: its transform is"
            f" {_shown(other)} and that of the map {_shown(mine)}; write"
            " FlowMap(net, process, transform=teacher.transform)"
        )
    if "velocity" not in teacher.outputs:
        teacher.weights("velocity", torch.tensor([0.5], dtype=torch.float64))


def _shown(value: Any) -> str:
    return "None" if value is None else told(value)
