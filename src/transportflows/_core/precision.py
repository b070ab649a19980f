"""Devices without float64, such as Apple GPUs: where wide numbers are on them.

Tables of times and coefficients are float64 everywhere. Where the device of the states has none
they are made on the CPU, and what a step needs of them is sent on in the dtype of the states. What
is computed row by row on such a device is float32, and buffers in float64 become float32 as they
are moved to it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .arrays import as_tensor, is_array

__all__ = [
    "Movable",
    "as_wide",
    "on_table_device",
    "symmetry_slack",
    "table_device",
    "wide",
    "widest",
    "widest_dtype",
]

_Module = TypeVar("_Module", bound=nn.Module)


@functools.cache
def _has_float64(kind: str) -> bool:
    if kind in ("cpu", "cuda", "meta"):
        return True
    try:
        torch.zeros((), dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True


def table_device(device: torch.device | str) -> torch.device:
    """Where float64 tables for states on a device are: there, or on the CPU if it has none."""
    device = torch.device(device)
    return device if _has_float64(device.type) else torch.device("cpu")


def widest_dtype(device: torch.device | str) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float64 if _has_float64(torch.device(device).type) else torch.float32


def wide(x: Tensor) -> Tensor:
    """``x`` in float64, on the CPU if its device has none: for tables and for statistics."""
    return x.double() if _has_float64(x.device.type) else x.cpu().double()


def as_wide(value: Any, name: str = "the array") -> Tensor:
    """A number, a sequence, an array or a tensor in float64; a tensor stays where it is if it can.

    The tensor itself, not a copy, where it is in float64.
    """
    if is_array(value):
        return as_tensor(name, value, torch.float64).double()
    return wide(value) if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)


def symmetry_slack(matrix: Any) -> float:
    """How far a symmetric matrix may be from symmetric, over its largest number.

    That is the rounding of the dtype in which it is given: one that was estimated in float32 has
    halves that differ by a few of its last digits.
    """
    if isinstance(matrix, Tensor):
        rounding = torch.finfo(matrix.dtype).eps if matrix.is_floating_point() else 0.0
    else:
        kind = np.asarray(matrix).dtype
        rounding = float(np.finfo(kind).eps) if kind.kind == "f" else 0.0
    return max(1e-8, 64 * rounding)


def widest(x: Tensor) -> Tensor:
    """``x`` in the widest dtype of its device, where it stays: for what is computed row by row."""
    return x.to(widest_dtype(x.device))


def on_table_device(module: _Module) -> _Module:
    """A module whose numbers can be met by a table: itself, or a copy on the CPU in float64.

    Gradients go through the copy to the parameters of the module.
    """
    held = [*module.parameters(), *module.buffers()]
    if all(_has_float64(x.device.type) for x in held):
        return module
    moved = {id(x): wide(x) if x.is_floating_point() else x.cpu() for x in held}
    return copy.deepcopy(module, moved)


class Movable:
    """A module that can be moved to a device without float64: such buffers become float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def moved(x: Tensor) -> Tensor:
            narrow = x.dtype == torch.float64 and not _has_float64(
                fn(x.new_empty(0).float()).device.type
            )
            return fn(x.float() if narrow else x)

        return super()._apply(moved, recurse)  # type: ignore[misc]
