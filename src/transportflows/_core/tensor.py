"""Shapes: the one broadcast of time against states, and reductions over event dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .arguments import floating_dtype

__all__ = [
    "as_time",
    "expand_time",
    "first_floating",
    "half_square",
    "integer_ends",
    "own_dtype",
    "signed_integers",
    "solving_dtype",
    "state_dtype",
    "sum_events",
    "widened",
]


def as_time(t: float | Tensor, like: Tensor) -> Tensor:
    """Return ``t`` as a tensor of the dtype and device of ``like``."""
    return torch.as_tensor(t, dtype=like.dtype, device=like.device)


def state_dtype(dtype: torch.dtype | None, default: torch.dtype | None = None) -> torch.dtype:
    """A dtype asked for states, if they can be held in it; else the default, torch's own if None.

    Raises:
        TypeError: if it is no dtype.
        ValueError: if it is of no floating-point numbers.
    """
    if dtype is None:
        return torch.get_default_dtype() if default is None else default
    return floating_dtype("dtype", dtype)


def expand_time(t: Tensor, x: Tensor) -> Tensor:
    """Reshape ``t``, of shape ``()`` or ``(B,)``, so that it broadcasts with ``x`` ``(B, *)``.

    A time that already has the dimensions of ``x`` is returned as it is.

    Example:
        >>> expand_time(torch.rand(5), torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 1, 1, 1])
    """
    if t.ndim == 1 and x.ndim == 2:
        return t.unsqueeze(1)  # the common case, at a fifth of the cost of a reshape
    return t if t.ndim in (0, x.ndim) else t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


_FEW = tuple(
    getattr(torch, f"uint{bits}") for bits in (16, 32, 64) if hasattr(torch, f"uint{bits}")
)


def signed_integers(value: Tensor) -> Tensor:
    """uint16, uint32 and uint64, for which torch has few operations, as int64; others as is."""
    return value.long() if value.dtype in _FEW else value


def integer_ends(value: Tensor) -> tuple[int, int]:
    """The smallest and the largest of integers of any dtype; it waits for a device."""
    low, high = torch.aminmax(signed_integers(value))
    return int(low), int(high)


def own_dtype(function: Any) -> torch.dtype | None:
    """The dtype that a network computes in: of its first floating-point parameter; None if none."""
    found = first_floating(function)
    return None if found is None else found.dtype


def first_floating(module: Any, kind: str = "_parameters") -> Tensor | None:
    """The first floating-point parameter (or one of ``_buffers``) of a module, None if it has none.

    ``next(module.parameters())`` takes ten times as long.
    """
    if not isinstance(module, nn.Module):
        return None
    own: dict[str, Tensor | None] = getattr(module, kind)
    for tensor in own.values():
        if tensor is not None and tensor.is_floating_point():
            return tensor
    for child in module._modules.values():
        found = first_floating(child, kind)
        if found is not None:
            return found
    return None


def solving_dtype(dtype: torch.dtype | None, default: torch.dtype) -> torch.dtype:
    """A dtype asked for the states of a solve; else the default, or float32 if that is wider.

    Raises:
        TypeError: if it is no dtype.
        ValueError: if it is of no floating-point numbers, or of half precision.
    """
    if dtype is None:
        return torch.promote_types(default, torch.float32)
    if floating_dtype("dtype", dtype).itemsize < 4:
        raise ValueError(
            f"dtype is that of the states, and in {dtype} they would lose most of each step; leave"
            " it out, or write dtype=torch.float32: a network is called in its own dtype"
        )
    return dtype


def widened(x: Tensor) -> Tensor:
    """States in float32 at least.

    A step adds a small change to a state, and in half precision most of the change is rounded away,
    the more so the more steps there are.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def half_square(error: Tensor) -> Tensor:
    """``½|e|²`` of each row of ``(B, D)``, in the dtype of e under autocast too."""
    if torch.is_autocast_enabled(error.device.type):  # which would make it a half
        return 0.5 * error.square().sum(1)
    square: Tensor = torch.linalg.vecdot(error, error)
    return 0.5 * square


def sum_events(x: Tensor) -> Tensor:
    """Sum ``x`` ``(B, *)`` over its event dimensions, to ``(B,)``."""
    return x.flatten(1).sum(1)
