r"""Energy distance, and the permutation test built on it.

For independent :math:`X, X' \sim P` and :math:`Y, Y' \sim Q` with finite means,

.. math:: \mathcal E(P, Q) = 2\,E|X - Y| - E|X - X'| - E|Y - Y'| \ge 0,

and it is zero only if :math:`P = Q`: it is the weighted :math:`L^2` distance between the two
characteristic functions, and in one dimension :math:`2\int (F_P - F_Q)^2`. No bandwidth has to be
chosen, and it scales as the data do.

On samples it needs all pairs. They are visited in square tiles of the symmetric matrix of pooled
distances :math:`D`, each once, and for a split of the pooled points written as a 0/1 vector
:math:`a` the sum within ``x`` is :math:`a^\top D a`. So one matrix product for each tile serves the
observed split and all the permuted ones, and no distance is computed twice or kept.

Sources: Székely and Rizzo, "Testing for equal distributions in high dimension" (2004);
"Energy statistics: a class of statistics based on distances" (2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.samples import event_rows
from .._core.signatures import checked

__all__ = ["PermutationTest", "TwoSampleTest", "energy_distance", "energy_test"]

_DIRECT_DIMENSIONS = 32  # up to here summing squared differences costs little more than a product


@checked
@dataclass(frozen=True)
class TwoSampleTest:
    """The outcome of a test of "both samples have the same law".

    Attributes:
        statistic: the observed statistic; larger means further from the null hypothesis.
        p_value: the probability, if the laws are equal, of a statistic at least as large.
    """

    statistic: float
    p_value: float

    __repr__ = summary


@checked
@dataclass(frozen=True)
class PermutationTest(TwoSampleTest):
    """A :class:`TwoSampleTest` whose null law comes from random relabellings of the points.

    Attributes:
        permutations: how many relabellings were drawn; the p-value is at least
            ``1 / (1 + permutations)``.
        null_mean: mean of the statistic over the relabellings.
        null_std: standard deviation of the statistic over the relabellings (0 for a single one).
    """

    permutations: int
    null_mean: float
    null_std: float

    __repr__ = summary


@checked
def energy_distance(
    x: DataLike, y: DataLike, *, unbiased: bool = False, block_size: int | None = None
) -> float:
    r"""Return the energy distance between two samples.

    .. math::

        \mathcal E = \frac{2}{NM}\sum_{ij} |x_i - y_j|
          - \frac{1}{N^2}\sum_{ij} |x_i - x_j| - \frac{1}{M^2}\sum_{ij} |y_i - y_j|

    This is the V-statistic: never negative, the energy distance of the two empirical laws, of mean
    :math:`E|X - X'|(1/N + 1/M)` when the laws are equal. With ``unbiased`` the last two sums are
    divided by :math:`N(N-1)` and :math:`M(M-1)` instead (the U-statistic): of mean 0 when the laws
    are equal, and then negative about half of the time. It is in the units of the data and is not
    squared or rooted (:func:`scipy.stats.energy_distance` returns its root).

    Time is :math:`O((N + M)^2 D)`, memory that of a few tiles. It is not differentiable.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``, on the same device.
        unbiased: whether to return the U-statistic instead of the V-statistic.
        block_size: side of the tiles of the distance matrix; 1,024 on a CPU (8 MB, fits the
            cache) and 4,096 on a GPU if None. It changes the result by rounding only.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are empty, not finite or of different events; if ``unbiased``
            and a sample has a single row; if ``block_size`` is not positive.

    Source: Székely and Rizzo (2013).

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> energy_distance(x, x + 1)
        1.0
        >>> energy_distance(x, x + 1, unbiased=True)
        0.0
    """
    x, y = event_rows(x, y)
    n, m = x.shape[0], y.shape[0]
    if unbiased and min(n, m) < 2:
        raise ValueError(
            f"got {n} and {m} rows; the unbiased estimate needs two of each:"
            " give more rows or write unbiased=False"
        )
    split = torch.arange(n + m, device=x.device) < n
    sums = _split_sums(torch.cat([x, y]), split.unsqueeze(1), block_size)
    return float(_energy(sums, n, m, unbiased=unbiased))


@checked
def energy_test(
    x: DataLike,
    y: DataLike,
    *,
    permutations: int = 199,
    block_size: int | None = None,
    generator: torch.Generator | None = None,
) -> PermutationTest:
    r"""Test whether two samples have the same law, by permutations of the energy distance.

    The statistic is the V-statistic of :func:`energy_distance`. With :math:`\mathcal E_k` its
    value under ``permutations`` random relabellings of the pooled points,

    .. math:: p = \frac{1 + \#\{k : \mathcal E_k \ge \mathcal E\}}{1 + K},

    for which :math:`P(p \le u) \le u` at any sample size, if the rows of each sample are
    independent (Phipson and Smyth, 2010). It has power against every alternative.

    One pass over the pooled distances serves all permutations. Measured on two CPU cores, 20,000 +
    20,000 points, ``D = 8``, 199 permutations: 5 to 6 s, 20 MB of memory beyond the
    samples; 999 permutations take 17 s and 130 MB.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``, on the same device.
        permutations: number of relabellings, at least 1; the smallest p-value is
            ``1 / (1 + permutations)``.
        block_size: side of the tiles of the distance matrix, as in :func:`energy_distance`.
        generator: source of the relabellings, on any device; torch's default one if None.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are empty, not finite or of different events; if
            ``permutations`` or ``block_size`` is not positive.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(200, 2, generator=generator)
        >>> y = torch.randn(300, 2, generator=generator) + 1
        >>> energy_test(x, y, generator=generator).p_value
        0.005
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}; 199 is usual")
    x, y = event_rows(x, y)
    n, m = x.shape[0], y.shape[0]
    draws = stream(draw_key(generator), device=x.device)
    splits = torch.zeros(n + m, 1 + permutations, dtype=torch.bool, device=x.device)
    splits[:n, 0] = True
    for k in range(1, 1 + permutations):
        splits[torch.randperm(n + m, generator=draws, device=x.device)[:n], k] = True
    sums = _split_sums(torch.cat([x, y]), splits, block_size)
    energies = _energy(sums, n, m, unbiased=False)
    observed, null = energies[0], energies[1:]
    rounding = 1e-12 * (sums[0, 0] + 2 * sums[1, 0] + sums[2, 0]) / (n + m) ** 2
    exceeding = int((null >= observed - rounding).sum())  # exact ties must count as ties
    return PermutationTest(
        statistic=float(observed),
        p_value=(1 + exceeding) / (1 + permutations),
        permutations=permutations,
        null_mean=float(null.mean()),
        null_std=float(null.std(correction=min(1, permutations - 1))),
    )


def _split_sums(points: Tensor, splits: Tensor, block_size: int | None) -> Tensor:
    """Sum the distances between ``points`` ``(L, D)`` within and across each of ``K`` splits.

    ``splits`` ``(L, K)`` is true where a point belongs to the first part. Returns ``(3, K)``: the
    sums over ordered pairs in the first part, from the first to the second, in the second.
    """
    if block_size is None:
        block_size = 1024 if points.device.type == "cpu" else 4096
    if block_size < 1:
        raise ValueError(f"block_size must be positive, got {block_size}; None chooses one")
    points = points - points.mean(0)  # so that products of coordinates, if used, cancel least
    blocks = list(
        zip(torch.split(points, block_size), torch.split(splits, block_size), strict=True)
    )
    total = points.new_zeros(())
    within = points.new_zeros(splits.shape[1])  # aᵀ D a
    outgoing = torch.zeros_like(within)  # aᵀ D 1
    for i, (rows, in_rows) in enumerate(blocks):
        left = in_rows.to(points.dtype)
        for j, (columns, in_columns) in enumerate(blocks[i:], start=i):
            distances = _distances(rows, columns)
            if i == j:
                distances.fill_diagonal_(0.0)
            right = in_columns.to(points.dtype)
            twice = 1 if i == j else 2  # a tile off the diagonal stands for its mirror image too
            row_sums = distances.sum(1)
            total += twice * row_sums.sum()
            within += twice * ((distances @ right) * left).sum(0)
            outgoing += row_sums @ left
            if i != j:
                outgoing += distances.sum(0) @ right
    across = outgoing - within
    return torch.stack([within, across, total - within - 2 * across])


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    """Return all distances ``(R, C)`` between two sets of points ``(R, D)`` and ``(C, D)``.

    Above 32 dimensions by a matrix product, several times faster; the distance of two equal points
    is then of order 1e-8 of their size instead of 0.
    """
    direct = rows.shape[1] <= _DIRECT_DIMENSIONS
    mode = "donot_use_mm_for_euclid_dist" if direct else "use_mm_for_euclid_dist"
    distances: Tensor = torch.cdist(rows, columns, compute_mode=mode)
    return distances


def _energy(sums: Tensor, n: int, m: int, *, unbiased: bool) -> Tensor:
    """Combine the ``(3, K)`` sums of :func:`_split_sums` into ``K`` energy distances."""
    within_x, across, within_y = sums.unbind()
    own = int(unbiased)
    return 2 * across / (n * m) - within_x / (n * (n - own)) - within_y / (m * (m - own))
