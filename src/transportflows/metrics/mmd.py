r"""Maximum mean discrepancy: the distance of two laws in the space of a kernel.

.. math:: \mathrm{MMD}^2 = E\,k(X, X') - 2 E\,k(X, Y) + E\,k(Y, Y')

is zero only for equal laws, for the kernels here but the polynomial one. The matrix of all pairs
is computed in tiles and never held; the sums of its rows and columns are kept, since the error bar
needs them.

**The interval.** With the row means :math:`u_i = \frac{1}{N-1}\sum_{j \ne i} k(x_i, x_j)
- \frac1M \sum_j k(x_i, y_j)` and :math:`v_j` likewise, the unbiased estimate is
:math:`\bar u + \bar v`. Its variance is, for :math:`p \ne q`, :math:`4 \mathrm{Var}(u)/N +
4 \mathrm{Var}(v)/M` to first order (Serfling 1980, section 5.5). The jackknife, which leaves out
one point at a time, estimates that and twice the next order (Efron and Stein 1981), which is
therefore estimated too, from the kernel less its row and column means, and taken off once. For
p = q the first order vanishes, the estimate is not normal, and no interval of this kind is valid:
test with :func:`~transportflows.metrics.energy_test` instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import returned
from .._core.reprs import summary
from .._core.samples import block_rows, check_at_least, event_rows
from .._core.signatures import checked
from .kernels import GaussianKernel, Kernel, PolynomialKernel, median_bandwidth

__all__ = ["KernelDistance", "mmd2"]


@checked
@dataclass(frozen=True)
class KernelDistance:
    """An estimate of MMD², with its error.

    Attributes:
        value: the estimate of MMD² (the unbiased one may be negative).
        standard_error: by the corrected jackknife; NaN for the V-statistic, which is biased, and
            for samples of fewer than four rows.
        unbiased: whether it is the U-statistic.
    """

    value: float
    standard_error: float
    unbiased: bool

    __repr__ = summary

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """An interval that holds MMD² with probability ``level``, where p and q plainly differ.

        The normal law is a good one where ``value`` is above about four standard errors. Nearer to
        p = q the estimate and its standard error are correlated, and the interval is too low too
        often: of 90 % intervals for N(0, 1) against N(0.3, 1) at 100 points each, 74 % hold the
        truth, and the others lie below it. For N(0, 1) against N(1, 1) at 200 points the value is
        near five standard errors, and of the intervals whose value is above four, 95 % hold the
        truth. At 100 points only one value in nine is that high; those are chosen for being high,
        and 75 % of their intervals hold it.

        Raises:
            ValueError: for the V-statistic, samples of fewer than four rows, or a level outside
                (0, 1).
        """
        if not self.unbiased:
            raise ValueError("the V-statistic is biased and has no interval; write unbiased=True")
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), got {level}")
        if math.isnan(self.standard_error):
            raise ValueError(
                "a sample had fewer than four rows, from which no standard error can be had; give"
                " at least four of each"
            )
        from scipy import stats  # it takes half a second

        half = float(stats.norm.ppf(0.5 + 0.5 * level)) * self.standard_error
        return self.value - half, self.value + half


@checked
def mmd2(
    x: DataLike,
    y: DataLike,
    *,
    kernel: Kernel | None = None,
    unbiased: bool = True,
) -> KernelDistance:
    r"""Return MMD² between two samples.

    .. math:: \widehat{\mathrm{MMD}}^2 = \frac{1}{N(N-1)} \sum_{i \ne j} k(x_i, x_j)
              + \frac{1}{M(M-1)} \sum_{i \ne j} k(y_i, y_j) - \frac{2}{NM} \sum_{ij} k(x_i, y_j)

    unbiased, of mean 0 for equal laws and then of either sign; or the V-statistic, with all pairs
    and ``1/N²``: never negative, of bias ``(E k(X, X) - E k(X, X')) / N`` and likewise for y.
    ``O((N + M)² d)`` operations, memory of a few tiles. The interval is valid where the laws differ
    (see the module); for equal laws it is too wide on one side and not normal.

    Args:
        x: first sample, ``(N, *)``, at least two rows.
        y: second sample, ``(M, *)``, on the same device.
        kernel: a :class:`GaussianKernel` at the median bandwidth if None. A bandwidth chosen from
            the data makes the estimate depend on itself a little; give one for a series of runs.
        unbiased: the U-statistic, or the V-statistic.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are not finite, of different events, or have fewer than two rows.

    Source: Gretton et al., "A kernel two-sample test" (2012), equations 3 and 5.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> round(mmd2(x, x, kernel=GaussianKernel(1.0)).value, 6)  # exp(-1/2) - 1
        -0.393469
    """
    bandwidth_from = x, y
    x, y = event_rows(x, y)
    check_at_least(2, "MMD²", x=x, y=y)
    kernel = GaussianKernel(median_bandwidth(*bandwidth_from)) if kernel is None else kernel
    n, m = len(x), len(y)
    centre = torch.cat([x, y]).mean(0) if not isinstance(kernel, PolynomialKernel) else 0.0
    x, y = x - centre, y - centre
    xx, _, xx_own, xx_square = _sums(kernel, x, x)
    yy, _, yy_own, yy_square = _sums(kernel, y, y)
    xy, yx, _, xy_square = _sums(kernel, x, y)
    sum_xy = float(xy.sum())
    if not math.isfinite(sum_xy + float(xx.sum()) + float(yy.sum())):
        raise ValueError(f"the kernel {type(kernel).__name__} gives NaN or infinite values")
    if not unbiased:
        diagonals = float(xx_own.sum()) / n**2 + float(yy_own.sum()) / m**2
        value = float(xx.sum()) / n**2 + float(yy.sum()) / m**2 + diagonals - 2 * sum_xy / (n * m)
        return KernelDistance(max(0.0, value), math.nan, unbiased=False)
    sum_xx, sum_yy = float(xx.sum()), float(yy.sum())
    within_x, within_y = sum_xx / (n * (n - 1)), sum_yy / (m * (m - 1))
    value = within_x + within_y - 2 * sum_xy / (n * m)
    if min(n, m) < 4:
        return KernelDistance(value, math.nan, unbiased=True)
    left_x = (sum_xx - 2 * xx) / ((n - 1) * (n - 2)) + within_y - 2 * (sum_xy - xy) / ((n - 1) * m)
    left_y = (sum_yy - 2 * yy) / ((m - 1) * (m - 2)) + within_x - 2 * (sum_xy - yx) / (n * (m - 1))
    jackknife = sum(
        (k - 1) / k * float((left - left.mean()).square().sum())
        for k, left in ((n, left_x), (m, left_y))
    )
    second = (
        2 * _interaction(xx / (n - 1), xx / (n - 1), xx_square / (n * (n - 1))) / (n * (n - 1))
        + 2 * _interaction(yy / (m - 1), yy / (m - 1), yy_square / (m * (m - 1))) / (m * (m - 1))
        + 4 * _interaction(xy / m, yx / n, xy_square / (n * m)) / (n * m)
    )
    variance = max(jackknife - second, second)
    return KernelDistance(value, math.sqrt(variance), unbiased=True)


def _interaction(rows: Tensor, columns: Tensor, square: float) -> float:
    """``E k̃²`` of the kernel less its row and column means: the part of second order."""
    means = float(rows.square().mean() + columns.square().mean())
    return max(0.0, square - means + float(rows.mean()) ** 2)


def _sums(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Sums of k over columns ``(N,)`` and rows ``(M,)``, its diagonal, and the sum of k².

    Where y is x the diagonal is in none of the sums.
    """
    own = x is y
    size = max(16, int(math.sqrt(block_rows(1, x.device))))
    rows = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    columns = torch.zeros(len(y), dtype=x.dtype, device=x.device)
    diagonal, square = torch.zeros_like(rows), torch.zeros_like(rows[0])
    for i in range(0, len(x), size):
        for j in range(i if own else 0, len(y), size):
            a, b = x[i : i + size], y[j : j + size]
            tile = returned("kernel(x, y)", kernel(a, b), (len(a), len(b)))
            if own and i == j == 0 and not torch.allclose(tile, tile.mT, equal_nan=True):
                raise ValueError("kernel(x, y) must be symmetric, k(x, y) = k(y, x), and it is not")
            if own and i == j:
                diagonal[i : i + size] = tile.diagonal()
                tile.fill_diagonal_(0.0)
            sums = tile.sum(1)
            rows[i : i + size] += sums
            twice = 1
            if own and i != j:
                rows[j : j + size] += tile.sum(0)  # its mirror image
                twice = 2
            elif not own:
                columns[j : j + size] += tile.sum(0)
            flat = tile.view(-1)
            square += twice * (flat @ flat)
    return rows, columns, diagonal, float(square)
