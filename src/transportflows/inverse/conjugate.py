"""Conjugate gradients for each row at once, without a look at any number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.tensor import expand_time, sum_events

__all__ = ["conjugate_gradients"]


def conjugate_gradients(
    normal: Callable[[Tensor], Tensor], right: Tensor, ridge: Tensor, iterations: int
) -> Tensor:
    """Solve ``(λ Id + N) u = right`` for each row, N symmetric and positive semidefinite.

    The system is divided by ``max(λ, 1)``, so that it is solved for any λ. A row is done where its
    residual is rounding, or where N has no more to give in the direction of it. What a network has
    learned is not symmetric: see :mod:`transportflows.inverse.residuals`.

    Args:
        normal: N, row by row.
        right: ``(n, *)``.
        ridge: λ ≥ 0, ``()`` or ``(n,)``.
        iterations: how many, at least one.

    Source: Hestenes & Stiefel (1952).
    """
    over = ridge.clamp(min=1.0)
    share, weight = expand_time(1 / over, right), expand_time(ridge / over, right)
    residual = right * share
    direction, found = residual, torch.zeros_like(right)
    length = sum_events(residual.square())
    least = length * torch.finfo(right.dtype).eps ** 2
    for _ in range(iterations):
        image = weight * direction + share * normal(direction)
        curvature = sum_events(direction * image)
        going = (length > least) & (curvature > 0)
        size = torch.where(going, length / torch.where(going, curvature, 1.0), 0.0)
        found = found + expand_time(size, direction) * direction
        residual = residual - expand_time(size, right) * image
        new = sum_events(residual.square())
        ratio = torch.where(going, new / torch.where(going, length, 1.0), 0.0)
        direction = residual + expand_time(ratio, right) * direction
        length = torch.where(going, new, 0.0)
    return found
