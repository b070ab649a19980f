"""Squared distances between all rows of two samples, right also where points far out are near."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["square_distances"]

_FEW = 4  # dimensions up to which differences are as fast as products
_GATHERED = 1 << 20  # numbers of pairs at a time


def square_distances(x: Tensor, y: Tensor) -> Tensor:
    """``|x_i - y_j|²``, ``(N, M)``, of rows ``(N, D)`` and ``(M, D)``.

    Above 4 dimensions they come from ``|x|² + |y|² - 2 x·y``, which has the rounding error of its
    terms; where that leaves fewer than half of the digits they come from differences.
    """
    if x.shape[1] <= _FEW:
        return _from_differences(x, y)
    own_x, own_y = x.square().sum(1, keepdim=True), y.square().sum(1)
    square = torch.addmm(own_y, x, y.mT, alpha=-2).add_(own_x).clamp_(min=0)
    if square.numel() == 0:
        return square
    cancelled = square < torch.finfo(x.dtype).eps ** 0.5 * (own_x.amax() + own_y.amax())
    if not bool(cancelled.any()):
        return square
    count = int(cancelled.sum())
    if 4 * count > square.numel():
        return _from_differences(x, y)
    for pairs in cancelled.nonzero().split(max(1, _GATHERED // x.shape[1])):
        i, j = pairs.unbind(1)
        square[i, j] = (x[i] - y[j]).square().sum(1)
    return square


def _from_differences(x: Tensor, y: Tensor) -> Tensor:
    square = (x[:, :1] - y[:, 0]).square()
    for k in range(1, x.shape[1]):
        square += (x[:, k : k + 1] - y[:, k]).square()
    return square
