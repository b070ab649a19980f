r"""Maximum mean discrepancy: the distance of two laws in the space of a kernel.

.. math:: \mathrm{MMD}^2 = E\,k(X, X') - 2 E\,k(X, Y) + E\,k(Y, Y')

is zero only for equal laws, for the kernels here. All pairs are visited in tiles, none is held;
the sums of each row are, which give an error bar.

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
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.samples import block_rows, check_at_least, event_rows

__all__ = [
    "GaussianKernel",
    "Kernel",
    "KernelDistance",
    "PolynomialKernel",
    "RationalQuadraticKernel",
    "median_bandwidth",
    "mmd2",
]


class Kernel(ABC):
    """A positive definite kernel on flattened events."""

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """``k(x_i, y_j)``, ``(N, M)``, for rows ``(N, D)`` and ``(M, D)``."""


class GaussianKernel(Kernel):
    r"""``mean_h exp(-|x - y|² / 2h²)``, over one bandwidth or several.

    Args:
        bandwidth: h > 0, in units of the data, or several of them.
    """

    def __init__(self, bandwidth: float | Sequence[float]) -> None:
        self.bandwidths = tuple(sorted(_positive(bandwidth, "bandwidth"), reverse=True))

    @classmethod
    def multiscale(cls, bandwidth: float, octaves: int = 2) -> GaussianKernel:
        """Bandwidths ``h 2^k`` for k from ``-octaves`` to ``octaves``, equally weighed."""
        return cls([bandwidth * 2.0**k for k in range(-octaves, octaves + 1)])

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        square = _square_distances(x, y)
        parts: list[Tensor] = []
        for k, h in enumerate(self.bandwidths):
            if k and self.bandwidths[k - 1] == 2 * h:  # e^(-4u) from e^-u, faster than an exp
                parts.append(parts[-1].square().square_())
            else:
                parts.append(torch.exp(square * (-0.5 / h**2)))
        return _mean(parts)


class RationalQuadraticKernel(Kernel):
    r"""``mean_a (1 + |x - y|² / 2 a h²)^-a``: heavy tails, so it sees far modes too.

    Args:
        bandwidth: h > 0, in units of the data.
        exponents: a > 0, one or several; those of Bińkowski et al. (2018) by default.
    """

    def __init__(
        self, bandwidth: float = 1.0, exponents: float | Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0)
    ) -> None:
        self.bandwidth = _positive(bandwidth, "bandwidth")[0]
        self.exponents = _positive(exponents, "exponents")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        square = _square_distances(x, y) / (2 * self.bandwidth**2)
        return _mean([_inverse_power(1 + square / a, a) for a in self.exponents])


class PolynomialKernel(Kernel):
    r"""``(x·y / D + 1)^degree``: the kernel of the kernel (Inception) distance.

    It sees moments up to ``degree`` only, so it does not tell all laws apart.

    Args:
        degree: 3 by default.
    """

    def __init__(self, degree: int = 3) -> None:
        if degree < 1:
            raise ValueError(f"degree must be at least 1, got {degree}; 3 is usual")
        self.degree = degree

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x @ y.mT) / x.shape[1] + 1) ** self.degree


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

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """An interval that holds MMD² with probability ``level``, where p and q plainly differ.

        The normal law is a good one where ``value`` is above about four standard errors. Nearer to
        p = q the estimate and its error vary together, and the interval lies too low: of 90 %
        intervals for N(0, 1) against N(0.3, 1) at 100 points each, 74 % hold the truth, which is
        above the others. At N(1, 1) and 200 points, where the value is near five standard errors,
        95 % of the intervals of values above four hold it; at 100 points, where one in nine
        values is that high, such values are themselves a choice of the high, and 75 % do.

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


def median_bandwidth(x: Tensor, y: Tensor, *, points: int = 2_000) -> float:
    """The median distance between the pooled points, over ``√2``: a common bandwidth.

    Over at most ``points`` points, evenly spaced in the order given, half from each sample.

    Raises:
        TypeError: if either is not a tensor of a floating-point dtype.
        ValueError: if the samples are not finite or of different events, or all points coincide.

    Source: Gretton et al. (2012), section 8.

    Example:
        >>> round(median_bandwidth(torch.tensor([[0.0]]), torch.tensor([[2.0]])), 6)
        1.414214
    """
    x, y = event_rows(x, y)
    half = max(1, points // 2)
    pooled = torch.cat([s[:: math.ceil(len(s) / half)] for s in (x, y)])
    distance = float(torch.pdist(pooled).median()) if len(pooled) > 1 else 0.0
    if distance <= 0:
        raise ValueError(
            "half of the pooled points coincide, so their median distance is 0; give a bandwidth"
        )
    return distance / math.sqrt(2)


def mmd2(
    x: Tensor,
    y: Tensor,
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
        TypeError: if either is not a tensor of a floating-point dtype.
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
            tile = kernel(x[i : i + size], y[j : j + size])
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


def _square_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances; from products above 4 dimensions, clamped at 0."""
    if x.shape[1] <= 4:
        square = (x[:, :1] - y[:, 0]).square_()
        for k in range(1, x.shape[1]):
            square += (x[:, k : k + 1] - y[:, k]).square_()
        return square
    square = torch.addmm(y.square().sum(1).unsqueeze(0), x, y.mT, alpha=-2)
    return square.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


def _inverse_power(base: Tensor, a: float) -> Tensor:
    """``base^-a``, without a logarithm where a is a half or a small integer."""
    if a == 0.5:
        return base.rsqrt_()
    if a not in range(1, 9):
        return base.log_().mul_(-a).exp_()
    inverse = base.reciprocal_()
    power, square, bits = None, inverse, int(a)
    while bits:
        if bits & 1:
            power = square if power is None else power * square
        bits >>= 1
        square = square.square() if bits else square
    return inverse if power is None else power


def _mean(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / len(parts) if len(parts) > 1 else total


def _positive(value: float | Sequence[float], name: str) -> tuple[float, ...]:
    values = tuple(float(v) for v in (value if isinstance(value, Sequence) else [value]))
    if not values or not all(v > 0 and math.isfinite(v) for v in values):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return values
