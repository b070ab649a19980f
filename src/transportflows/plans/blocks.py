"""Sums over all pairs of points, in blocks of rows, so that no matrix of all pairs is held.

With the cost ``c_ij = |x_i - y_j|²`` and potentials f and g, the entropic plan between points of
weights p and q is ``π_ij = p_i q_j exp((f_i + g_j - c_ij) / ε)``.

Results are written where they belong: small ones that are kept between large ones that are not
leave holes in the memory of the process, into which no other block fits, and it grows as N².
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.samples import block_rows

__all__ = ["rows_and_columns", "soft_transform", "weighted_rows"]

_NOTHING = -90.0  # exponent of what counts as nothing; the exp of less is several times slower


def soft_transform(x: Tensor, y: Tensor, g: Tensor, q: Tensor, epsilon: float) -> Tensor:
    """``-ε log Σ_j q_j exp((g_j - |x_i - y_j|²) / ε)``, ``(N,)``, in blocks of rows."""
    columns = ((g - y.square().sum(1)) / epsilon + q.log()).unsqueeze(0)
    turned, scaled = y.mT.contiguous(), x * (2 / epsilon)
    size, found = block_rows(len(y), x.device), torch.empty_like(x[:, 0])
    for rows, part in zip(torch.split(scaled, size), torch.split(found, size), strict=True):
        z = torch.addmm(columns, rows, turned)
        top = z.amax(1, keepdim=True)
        torch.add(top[:, 0], z.sub_(top).clamp_(min=_NOTHING).exp_().sum(1).log_(), out=part)
    return x.square().sum(1) - epsilon * found


def rows_and_columns(
    x: Tensor, y: Tensor, g: Tensor, p: Tensor, q: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The soft c-transform f of g, and the sums over rows of the plan of (f, g), in one pass."""
    columns = ((g - y.square().sum(1)) / epsilon + q.log()).unsqueeze(0)
    turned, scaled = y.mT.contiguous(), x * (2 / epsilon)
    size = block_rows(len(y), x.device)
    found, total = torch.empty_like(x[:, 0]), torch.zeros_like(q)
    blocks = (torch.split(each, size) for each in (scaled, p, found))
    for rows, mass, part in zip(*blocks, strict=True):
        z = torch.addmm(columns, rows, turned)
        top = z.amax(1, keepdim=True)
        sums = z.sub_(top).clamp_(min=_NOTHING).exp_().sum(1)
        torch.add(top[:, 0], sums.log(), out=part)
        total += (mass / sums) @ z
    return x.square().sum(1) - epsilon * found, total


def weighted_rows(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, p: Tensor, q: Tensor, epsilon: float
) -> Tensor:
    """Sums over columns of the plan of (f, g), ``(N,)``; q may be other weights than g's."""
    columns = ((g - y.square().sum(1)) / epsilon).unsqueeze(0)
    turned, scaled = y.mT.contiguous(), x * (2 / epsilon)
    offset = (f - x.square().sum(1)) / epsilon + p.log()
    size, found = block_rows(len(y), x.device), torch.empty_like(offset)
    blocks = (torch.split(each, size) for each in (scaled, offset, found))
    for rows, shift, part in zip(*blocks, strict=True):
        z = torch.addmm(columns, rows, turned).add_(shift.unsqueeze(1))
        torch.mv(z.clamp_(min=_NOTHING).exp_(), q, out=part)
    return found
