r"""Least residuals for each row at once, of an operator that need not be symmetric.

Conjugate gradients take their operator for symmetric and positive, and have no bound where it is
not: the Jacobian of a learned data prediction is neither. Generalised conjugate residuals ask
nothing of it. After k steps ``|r - K u|`` is the least over the same space of directions, so it
never grows, and for a symmetric positive K the answer is the same in the end.

The least residual is short of what was asked for: ``r · K u = ω |r|²`` with
``ω = 1 - |r - K u|²/|r|²``, where what conjugate gradients find has ``r · K u = |r|²``. So u is
multiplied by ``min(1/ω, 2)``, which makes the part along r whole where it can be (that of a first
step is the step of conjugate gradients), and never leaves a residual that is longer than r: its
square is ``(1/ω - 1) |r|²`` for ω ≥ ½, and ``|r|²`` for less.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.tensor import expand_time, sum_events

__all__ = ["least_residual"]

_MOST = 2.0  # of what a least residual is multiplied by; more lets the residual grow


def least_residual(
    first: Callable[[Tensor], Tensor],
    second: Callable[[Tensor], Tensor],
    right: Tensor,
    ridge: Tensor,
    iterations: int,
) -> Tensor:
    """``M u`` for a u that makes the residual of ``(λ Id + P M) u = right`` least, made whole.

    M is called once a step: u is a sum of the directions, and M has been applied to each of them.
    The system is divided by ``max(λ, 1)``, so that it is solved for any λ. A row is done where its
    residual is rounding, or where a direction has nothing new.

    Args:
        first: M, linear, row by row.
        second: P, likewise; nothing is asked of P M.
        right: ``(n, *)``.
        ridge: λ ≥ 0, ``()`` or ``(n,)``.
        iterations: how many, at least one.

    Source: Eisenstat, Elman & Schultz (1983), generalised conjugate residuals; what is made whole
        follows Cullum & Greenbaum (1996), on Galerkin and norm-minimising iterates.
    """
    over = ridge.clamp(min=1.0)
    share, weight = expand_time(1 / over, right), expand_time(ridge / over, right)
    residual = right * share
    began = sum_events(residual.square())
    eps = torch.finfo(right.dtype).eps
    known: list[tuple[Tensor, Tensor, Tensor]] = []
    length, found = began, None
    for _ in range(iterations):
        mapped = first(residual)
        image = weight * residual + share * second(mapped)
        whole = sum_events(image.square())
        for earlier, its_image, size in known:
            along = sum_events(image * its_image) / size
            mapped = mapped - expand_time(along, mapped) * earlier
            image = image - expand_time(along, image) * its_image
        new = sum_events(image.square())
        going = (new > eps * whole) & (length > eps**2 * began)
        new = torch.where(going, new, 1.0)
        step = torch.where(going, sum_events(residual * image) / new, 0.0)
        part = expand_time(step, mapped) * mapped
        found = part if found is None else found + part
        residual = residual - expand_time(step, residual) * image
        length = sum_events(residual.square())
        known.append((mapped, image, new))
    assert found is not None
    left = torch.where(began > 0, length / torch.where(began > 0, began, 1.0), 0.0)
    return found * expand_time(1 / (1 - left).clamp(min=1 / _MOST), found)
