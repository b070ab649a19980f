"""Shapes: the one broadcast of time against states, and reductions over event dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import floating_dtype

__all__ = ["as_time", "expand_time", "state_dtype", "sum_events"]


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


def sum_events(x: Tensor) -> Tensor:
    """Sum ``x`` ``(B, *)`` over its event dimensions, to ``(B,)``."""
    return x.flatten(1).sum(1)
