"""Conjugate gradients for each row at once, without a look at any number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.tensor import expand_time, sum_events

__all__ = ["carried_gradients", "conjugate_gradients"]


def conjugate_gradients(
    normal: Callable[[Tensor], Tensor], right: Tensor, ridge: Tensor, iterations: int
) -> Tensor:
    """Solve ``(λ Id + N) u = right`` for each row, N positive semidefinite.

    The system is divided by ``max(λ, 1)``, so that it is solved for any λ. A row is done where its
    residual is rounding, or where N has no more to give in the direction of it.

    Args:
        normal: N, row by row.
        right: ``(n, *)``.
        ridge: λ ≥ 0, ``()`` or ``(n,)``.
        iterations: how many.

    Source: Hestenes & Stiefel (1952).
    """
    return carried_gradients(lambda u: u, normal, right, ridge, iterations)


def carried_gradients(
    first: Callable[[Tensor], Tensor],
    second: Callable[[Tensor], Tensor],
    right: Tensor,
    ridge: Tensor,
    iterations: int,
) -> Tensor:
    """``M u`` of the solution of ``(λ Id + P M) u = right``, with no call of M but one a step.

    u is a sum of the directions, and M has been applied to each of them.

    Args:
        first: M, linear, row by row.
        second: P, likewise; P M is positive semidefinite.
        right: ``(n, *)``.
        ridge: λ ≥ 0, ``()`` or ``(n,)``.
        iterations: how many, at least one.
    """
    over = ridge.clamp(min=1.0)
    share, weight = expand_time(1 / over, right), expand_time(ridge / over, right)
    residual = right * share
    direction, found = residual, None
    length = sum_events(residual.square())
    least = length * torch.finfo(right.dtype).eps ** 2
    for _ in range(iterations):
        mapped = first(direction)
        image = weight * direction + share * second(mapped)
        curvature = sum_events(direction * image)
        going = (length > least) & (curvature > 0)
        size = torch.where(going, length / torch.where(going, curvature, 1.0), 0.0)
        part = expand_time(size, mapped) * mapped
        found = part if found is None else found + part
        residual = residual - expand_time(size, right) * image
        new = sum_events(residual.square())
        ratio = torch.where(going, new / torch.where(going, length, 1.0), 0.0)
        direction = residual + expand_time(ratio, right) * direction
        length = torch.where(going, new, 0.0)
    assert found is not None
    return found
