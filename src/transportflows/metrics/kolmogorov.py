r"""The Kolmogorov-Smirnov test on random projections.

Two laws on :math:`R^D` are equal if and only if all their one-dimensional projections are (Cramér
and Wold, 1936). Each projection is tested by

.. math:: D_\theta = \sup_s |F_{\langle\theta, x\rangle}(s) - F_{\langle\theta, y\rangle}(s)|,

at the cost of a sort, and the p-values are corrected for their number by Holm's method, which needs
no independence between them. It suits samples too large for all pairs, and says along which
direction they differ; a difference in scale or in the tails shows less than in the energy test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.precision import as_wide
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.samples import event_rows
from .._core.signatures import checked
from .energy import TwoSampleTest

__all__ = ["ProjectionTest", "holm", "sliced_kolmogorov_test"]

_CHUNK = 2**22  # projected values held at a time


@checked
@dataclass(frozen=True, eq=False)
class ProjectionTest(TwoSampleTest):
    """A :class:`TwoSampleTest` made of one test for each of ``K`` projections.

    The statistic is the largest of ``statistics``, the p-value the smallest of ``p_values``.

    Attributes:
        directions: unit vectors, ``(K, *)``.
        statistics: the Kolmogorov-Smirnov distance along each, ``(K,)``.
        p_values: Holm's adjusted p-value of each, ``(K,)``: those below a level may all be
            rejected, and the chance of rejecting any true equality stays below that level.
    """

    directions: Tensor
    statistics: Tensor
    p_values: Tensor

    __repr__ = summary


@checked
def sliced_kolmogorov_test(
    x: DataLike,
    y: DataLike,
    *,
    projections: int = 64,
    generator: torch.Generator | None = None,
) -> ProjectionTest:
    r"""Test whether two samples have the same law by their projections on random unit vectors.

    Each p-value is that of the limit law of Kolmogorov at :math:`\sqrt{NM/(N+M)}\,D_\theta`.
    Measured against the exact law for p < 0.2 and N, M from 10 to 500, it is too small by at most
    2.3 % of itself (N = M = 10; 0.2 % from N = M = 100 on) and otherwise too large, at p = 0.001 by
    7 % for N = M = 100 and 1 % for 500. The approximation of :func:`scipy.stats.ks_2samp` for large
    samples is too small there by 21 % and 9 %. Ties are exact in :math:`D_\theta` and make p larger
    than it need be. The smallest p after Holm's correction is
    :math:`\min(1, K \min_\theta p_\theta)`.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``, on the same device.
        projections: number ``K`` of directions, at least 1; events of one number have but one.
        generator: source of the directions, on any device; torch's default one if None.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are empty, not finite or of different events, or ``projections``
            is not positive.

    Source: Smirnov (1948) for the law of D; Holm (1979) for the correction.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(1_000, 3, generator=generator)
        >>> y = torch.randn(2_000, 3, generator=generator) * 1.5
        >>> sliced_kolmogorov_test(x, y, generator=generator).p_value < 1e-4
        True
    """
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}; 64 is usual")
    x = as_rows("x", x, torch.float64, like=y)
    first, second = event_rows(x, y)
    (n, dimension), m = first.shape, second.shape[0]
    draws = stream(draw_key(generator), device=first.device)
    shape = (projections if dimension > 1 else 1, dimension)
    directions = torch.randn(shape, generator=draws, device=first.device, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    # Equal points are projected once, since a matrix product may round equal rows differently.
    points, place = torch.unique(torch.cat([first, second]), dim=0, return_inverse=True)
    statistics = torch.cat(
        [
            _kolmogorov_distances((chunk @ points.T)[:, place], n)
            for chunk in torch.split(directions, max(1, _CHUNK // (n + m)))
        ]
    )
    scaled = statistics * (n * m / (n + m)) ** 0.5
    from scipy import special  # imported where it is used: importing the library stays cheap

    p_values = torch.as_tensor(special.kolmogorov(scaled.cpu().numpy()), device=first.device)
    adjusted = holm(p_values)
    return ProjectionTest(
        statistic=float(statistics.max()),
        p_value=float(adjusted.min()),
        directions=directions.reshape(-1, *x.shape[1:]),
        statistics=statistics,
        p_values=adjusted,
    )


def _kolmogorov_distances(values: Tensor, n: int) -> Tensor:
    """Return the distance of the empirical laws of the first ``n`` columns and the others, by row.

    Along the sorted values a count goes up by m for one of the n first and down by n for one of
    the m others, which is nm times the difference of the distribution functions, in exact
    integers. It is read only after the last of equal values.
    """
    count = values.shape[1]
    m = count - n
    values, order = values.sort(dim=1)
    walk = torch.where(order < n, m, -n).cumsum(1).abs()
    walk[:, :-1] *= values[:, 1:] > values[:, :-1]
    return walk.amax(1).double() / (n * m)


@checked
def holm(p_values: DataLike | Sequence[float]) -> Tensor:
    r"""Return Holm's adjusted p-values, in the order given, float64.

    With :math:`p_{(1)} \le \dots \le p_{(K)}` the sorted p-values,

    .. math:: \tilde p_{(i)} = \min\bigl(1, \max_{j \le i} (K - j + 1)\,p_{(j)}\bigr).

    Rejecting where :math:`\tilde p \le u` keeps the probability of any false rejection below
    :math:`u` under any dependence (Holm, 1979), and rejects all that Bonferroni's method does.

    Args:
        p_values: ``(K,)``, each in [0, 1].

    Raises:
        ValueError: if they are not a non-empty vector of numbers in [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = as_wide(p_values)
    if p.ndim != 1 or p.numel() == 0:
        raise ValueError(f"p_values must be of shape (K,) with K >= 1, got {tuple(p.shape)}")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("p_values must lie in [0, 1]; some do not, or are NaN")
    ordered, order = p.sort()
    factors = torch.arange(p.numel(), 0, -1, device=p.device, dtype=torch.float64)
    adjusted = torch.cummax(factors * ordered, dim=0).values.clamp(max=1.0)
    return torch.empty_like(p).scatter_(0, order, adjusted)
