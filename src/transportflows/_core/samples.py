"""Samples as matrices of rows: their checks, their weights, and the sizes of blocks of pairs."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .arrays import DataLike, as_rows, as_tensor
from .checks import check_finite_rows, check_same_kind
from .precision import wide

__all__ = ["block_rows", "check_at_least", "event_rows", "rows_of", "weights_of"]

_LEAST, _LARGEST = 1e-150, 1e150  # whose squares are neither 0 nor infinite
_BLOCK_NUMBERS = 1 << 19  # numbers of a block of pairs on a CPU: 4 MB
_KEPT = 31 << 20  # bytes: glibc learns sizes up to 32 MiB


def rows_of(x: DataLike, name: str) -> Tensor:
    """Return a sample ``(N, *)`` as a detached float64 matrix of rows.

    Raises:
        TypeError: if it is not a tensor or an array of a floating-point dtype.
        ValueError: if it is empty or not finite, or squares of its values would overflow or
            all be 0.
    """
    x = as_rows(name, x, torch.float64)
    check_finite_rows(x, name)
    x = wide(x.detach().flatten(1))
    largest = float(x.abs().max())
    if largest > _LARGEST or 0 < largest < _LEAST:
        raise ValueError(
            f"the samples reach {largest:.3g} in {name}, whose square is"
            f" {'infinite' if largest > 1 else '0'} in float64; rescale both"
        )
    return x


def event_rows(
    x: DataLike, y: DataLike, names: tuple[str, str] = ("x", "y")
) -> tuple[Tensor, Tensor]:
    """Return two samples ``(N, *)`` and ``(M, *)`` as detached float64 matrices of rows.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if either is empty or not finite, their events differ in shape or device, or
            squares of their values would overflow, or all be 0.
    """
    first, second = names
    x, y = as_rows(first, x, torch.float64, like=y), as_rows(second, y, torch.float64, like=x)
    check_finite_rows(x, first)
    check_finite_rows(y, second)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"{first} has events of shape {tuple(x.shape[1:])} and {second} of shape"
            f" {tuple(y.shape[1:])}; give two samples (N, *) and (M, *) of the same event shape"
        )
    x, y = rows_of(x, first), rows_of(y, second)
    check_same_kind(x, y, first, second)
    return x, y


def check_at_least(least: int, what: str, **samples: Tensor) -> None:
    """Refuse samples of fewer than ``least`` rows, which ``what`` needs."""
    for name, sample in samples.items():
        if sample.shape[0] < least:
            raise ValueError(
                f"{name} has {sample.shape[0]} row{'s' if sample.shape[0] != 1 else ''}; {what}"
                f" needs at least {least} of each sample"
            )


def weights_of(points: Tensor, weights: DataLike | None, name: str) -> tuple[Tensor, Tensor]:
    """Return the points of positive weight, and their float64 weights, which sum to 1.

    Raises:
        ValueError: if the weights are not one a row, not negative, finite and of positive sum.
    """
    count = points.shape[0]
    if weights is None:
        return points, points.new_full((count,), 1 / count, dtype=torch.float64)
    weights = as_tensor(name, weights, torch.float64)
    if weights.shape != (count,):
        raise ValueError(
            f"{name} has shape {tuple(weights.shape)}; give one weight a row, shape ({count},)"
        )
    weights = weights.detach().to(points.device, torch.float64)
    total = float(weights.sum())
    if not (0 < total < math.inf) or bool((weights < 0).any()):
        raise ValueError(
            f"{name} must be finite, not negative and of positive sum, got a sum of {total:g} and"
            f" a least weight of {float(weights.min()):g}; equal weights are {name}=None"
        )
    return points[weights > 0], weights[weights > 0] / total


def block_rows(columns: int, device: torch.device) -> int:
    """Rows of a block of pairs with ``columns`` columns: 4 MB on a CPU, 512 MB on a card."""
    if device.type != "cpu":
        return max(16, (_BLOCK_NUMBERS << 7) // max(1, columns))
    _keep_memory()
    return max(16, _BLOCK_NUMBERS // max(1, columns))


@functools.cache
def _keep_memory() -> None:
    """Let the C library keep the memory of blocks, once a process.

    Where it gives each block back and takes the next one from the system, new pages cost several
    times what is computed in them. glibc gives back only what is larger than the largest block
    that it had to map by itself and that was freed; this one is never written to.
    """
    torch.empty(_KEPT, dtype=torch.uint8)
