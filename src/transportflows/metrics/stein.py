r"""Kernel Stein discrepancy: how far samples are from a law whose score is known.

With :math:`s = \nabla \log p` and the inverse multiquadric kernel
:math:`k(x, y) = (c^2 + |x - y|^2)^{-1/2}`,

.. math:: u(x, y) = s(x) \cdot s(y)\, k + s(x) \cdot \nabla_y k + s(y) \cdot \nabla_x k
          + \nabla_x \cdot \nabla_y k, \qquad \mathrm{KSD}^2 = E\, u(X, X'),

which is zero only where the samples' law is p. No samples of p and no normalising constant are
needed. The inverse multiquadric controls tightness, which a Gaussian kernel does not (Gorham and
Mackey 2017). Like every measure through the score alone it is nearly blind to the weights of modes
that are far apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.distances import square_distances
from .._core.samples import block_rows, check_at_least, rows_of
from .._core.signatures import checked
from .kernels import median_bandwidth
from .mmd import KernelDistance

__all__ = ["kernel_stein_discrepancy"]


@checked
def kernel_stein_discrepancy(
    x: DataLike,
    score: Callable[[Tensor], Tensor],
    *,
    scale: float | None = None,
    unbiased: bool = True,
) -> KernelDistance:
    r"""Return KSD² of samples against the law of a score.

    The U-statistic ``Σ_{i≠j} u(x_i, x_j) / N(N-1)``, unbiased, of mean 0 and either sign for exact
    samples; or the V-statistic, never negative, of bias ``E u(X, X) / N``. The jackknife's
    standard error is that of samples which are *not* exact; for exact ones the statistic is
    degenerate, as that of MMD². ``O(N² d)``, memory of a few tiles; one call of the score in all.

    Args:
        x: samples, ``(N, *)``, at least two.
        score: maps ``(N, *)`` to ``∇ log p``, ``(N, *)``.
        scale: c, in units of the data; the median distance of the samples if None.
        unbiased: the U-statistic, or the V-statistic.

    Raises:
        TypeError: if x is not a tensor or an array of a floating-point dtype.
        ValueError: if x is not finite or has fewer than two rows, the score has another shape or is
            not finite, or ``scale`` is not positive.

    Source: Chwialkowski, Strathmann and Gretton (2016); Liu, Lee and Jordan (2016); the kernel is
    that of Gorham and Mackey (2017).

    Example:
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> exact = kernel_stein_discrepancy(x, lambda x: -x).value
        >>> abs(exact) < 0.02 < kernel_stein_discrepancy(x, lambda x: -(x - 1)).value
        True
    """
    x = as_rows("x", x)
    rows = rows_of(x, "x")
    check_at_least(2, "the discrepancy", x=rows)
    s = score(x.detach())
    if not isinstance(s, Tensor) or s.shape != x.shape:
        got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise ValueError(f"the score must give the shape of x, {tuple(x.shape)}, and it gave {got}")
    s = rows_of(s, "the score")
    if scale is None:
        scale = math.sqrt(2) * median_bandwidth(rows[::2], rows[1::2])
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    n = len(rows)
    rows = rows - rows.mean(0)
    size = max(16, int(math.sqrt(block_rows(1, rows.device))))
    sums, diagonal = torch.zeros_like(rows[:, 0]), torch.zeros_like(rows[:, 0])
    for i in range(0, n, size):
        a = slice(i, i + size)
        for j in range(i, n, size):
            b = slice(j, j + size)
            tile = _stein_kernel(rows[a], s[a], rows[b], s[b], scale)
            sums[a] += tile.sum(1)
            if i == j:
                diagonal[a] = tile.diagonal()
            else:
                sums[b] += tile.sum(0)
    if not unbiased:
        return KernelDistance(max(0.0, float(sums.sum())) / n**2, math.nan, unbiased=False)
    sums = sums - diagonal
    total = float(sums.sum())
    if n == 2:
        return KernelDistance(total / 2, math.nan, unbiased=True)
    left = (total - 2 * sums) / ((n - 1) * (n - 2))
    error = math.sqrt((n - 1) / n * float((left - left.mean()).square().sum()))
    return KernelDistance(total / (n * (n - 1)), error, unbiased=True)


def _stein_kernel(x: Tensor, s: Tensor, y: Tensor, r: Tensor, scale: float) -> Tensor:
    """``u(x_i, y_j)``, with ``k = (c² + ρ²)^-1/2``, ``∇_x k = -(x - y) k³``."""
    square = square_distances(x, y)
    base = square + scale**2
    k = base.rsqrt()
    k3 = k / base
    # (s(x) - r(y))·(x - y), of which s·∇_y k + r·∇_x k = k³ (s - r)·(x - y)
    along = (s * x).sum(1, keepdim=True) - s @ y.mT - x @ r.mT + (r * y).sum(1)
    return (s @ r.mT) * k + k3 * along + k3 * (x.shape[1] - 3 * square / base)
