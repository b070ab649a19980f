r"""Nearest neighbours: copying, coverage, and a divergence from their distances.

Distances are computed in blocks, and only the nearest are kept; those are then computed again from
differences of coordinates, so that an exact copy is at distance 0. In high dimension all points are
nearly equally far from each other, so take features of the data first
(:mod:`transportflows.metrics.features`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.reprs import summary
from .._core.samples import block_rows, check_at_least, event_rows
from .._core.signatures import checked
from .energy import _distances

__all__ = [
    "Coverage",
    "NeighbourDistances",
    "coverage",
    "kl_nearest_neighbours",
    "nearest_distances",
    "nearest_neighbours",
]


@checked
@dataclass(frozen=True, eq=False)
class NeighbourDistances:
    """Weber's analysis of over-fitting.

    Attributes:
        to_data: distance of each sample to the nearest data point, ``(N,)``.
        within_data: distance of each data point to the nearest other one, ``(M,)``.
        nearest: which data point is nearest to each sample, ``(N,)``.
        ratio: median of ``to_data`` over that of ``within_data``: near 1 for new samples of the
            same law, near 0 for copies. NaN where half of the data have a double.
        copied: share of samples nearer to the data than 95 % of the data are to each other: 0.05
            for new samples of the same law, 1 for copies. NaN where 5 % of the data have a double.
    """

    to_data: Tensor
    within_data: Tensor
    nearest: Tensor
    ratio: float
    copied: float

    __repr__ = summary


@checked
@dataclass(frozen=True)
class Coverage:
    """How samples and data cover each other, by balls of k-th neighbours.

    Attributes:
        precision: share of samples inside a ball of the data.
        recall: share of the data inside a ball of the samples.
        density: mean number of data balls that a sample lies in, over k; 1 for equal laws.
        coverage: share of data balls that hold a sample.
        expected_coverage: its mean for equal laws at these sizes.
        neighbours: k.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    expected_coverage: float
    neighbours: int

    __repr__ = summary


@checked
def nearest_distances(
    x: DataLike, y: DataLike, k: int = 1, *, exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """Return distances ``(N, k)`` and indices of the k nearest rows of y to each row of x.

    Args:
        x: ``(N, *)``.
        y: ``(M, *)``.
        k: how many, at most M (M - 1 with ``exclude_self``).
        exclude_self: row i of x is row i of y, and not its own neighbour.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if they are not finite or of different events, or there are too few rows.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> nearest_distances(x, x, exclude_self=True)[0].flatten().tolist()
        [1.0, 1.0, 2.0]
    """
    x, y = event_rows(x, y)
    own = int(exclude_self)
    if not 1 <= k <= len(y) - own:
        raise ValueError(f"k = {k} neighbours need k >= 1 and {k + own} rows, got {len(y)}")
    if exclude_self and len(x) != len(y):
        raise ValueError(
            f"exclude_self is for a sample with itself, got {len(x)} and {len(y)} rows"
        )
    centre = y.mean(0)
    x, y = x - centre, y - centre
    size, distances, indices, first = block_rows(len(y), x.device), [], [], 0
    for rows in torch.split(x, size):
        tile = _distances(rows, y)
        if exclude_self:
            at = torch.arange(len(rows), device=x.device)
            tile[at, at + first] = math.inf
        near = tile.topk(k, dim=1, largest=False).indices
        exact = torch.stack([(rows - y[column]).norm(dim=1) for column in near.unbind(1)], 1)
        exact, order = exact.sort(dim=1, stable=True)
        distances.append(exact)
        indices.append(near.gather(1, order))
        first += len(rows)
    return torch.cat(distances), torch.cat(indices)


@checked
def nearest_neighbours(samples: DataLike, data: DataLike) -> NeighbourDistances:
    r"""Compare the samples' distances to the training data with those within the data.

    .. math:: \min_j |x_i - y_j| \quad\text{beside}\quad \min_{j \ne i} |y_i - y_j|

    Copies of the data show as a mass of samples near 0. Memorised neighbourhoods in high dimension
    may not: look at ``nearest`` too. ``O(M (N + M) d)``.

    Args:
        samples: generated, ``(N, *)``.
        data: the training data, ``(M, *)``, at least two.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if they are not finite, of different events, or there are too few data.

    Source: Weber, "The score-difference flow for implicit generative modeling" (2023), figure 3.

    Example:
        >>> data = torch.randn(500, 2)
        >>> nearest_neighbours(data[:100], data).copied
        1.0
    """
    to_data, nearest = nearest_distances(samples, data)
    within, _ = nearest_distances(data, data, exclude_self=True)
    to_data, within = to_data[:, 0], within[:, 0]
    middle = float(within.median())
    level = within.sort().values[max(0, math.ceil(0.05 * len(within)) - 1)]
    return NeighbourDistances(
        to_data=to_data,
        within_data=within,
        nearest=nearest[:, 0],
        ratio=float(to_data.median()) / middle if middle > 0 else math.nan,
        copied=float((to_data < level).double().mean()) if float(level) > 0 else math.nan,
    )


@checked
def coverage(samples: DataLike, data: DataLike, *, neighbours: int = 5) -> Coverage:
    r"""Return precision, recall, density and coverage.

    With :math:`B_k(y)` the ball about a point up to its k-th neighbour in its own sample,
    precision is the share of samples in :math:`\bigcup_j B_k(y_j)`, recall that of the data in
    :math:`\bigcup_i B_k(x_i)`, density :math:`\frac{1}{kN} \sum_{ij} 1[x_i \in B_k(y_j)]` and
    coverage :math:`\frac1M \sum_j 1[\exists i: x_i \in B_k(y_j)]`. Bias: precision and recall are
    below 1 for equal laws, and one far data point with its large ball raises precision; density
    has mean 1 and coverage ``1 - Π_{l=1}^k (M - l) / (N + M - l)`` for equal laws in any dimension.
    ``O((N + M)² d)``.

    Args:
        samples: generated, ``(N, *)``, more than k.
        data: ``(M, *)``, more than k.
        neighbours: k; 5 is usual.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if they are not finite, of different events, or have at most k rows.

    Source: Kynkäänniemi et al. (2019) for precision and recall; Naeem et al. (2020) for the others.

    Example:
        >>> data = torch.randn(300, 2)
        >>> coverage(data + 100, data).coverage
        0.0
    """
    x, y = event_rows(samples, data, ("samples", "data"))
    check_at_least(neighbours + 1, f"{neighbours} neighbours", samples=x, data=y)
    x_radius = nearest_distances(x, x, neighbours, exclude_self=True)[0][:, -1]
    y_radius = nearest_distances(y, y, neighbours, exclude_self=True)[0][:, -1]
    inside = recalled = 0.0
    total = 0.0
    covered = torch.zeros(len(y), dtype=torch.bool, device=x.device)
    held = torch.zeros_like(covered)
    size = block_rows(len(y), x.device)
    centre = y.mean(0)
    for rows, radius in zip(torch.split(x, size), torch.split(x_radius, size), strict=True):
        distances = _distances(rows - centre, y - centre)
        in_data = distances <= y_radius
        inside += float(in_data.any(1).sum())
        total += float(in_data.sum())
        covered |= in_data.any(0)
        held |= (distances <= radius.unsqueeze(1)).any(0)
    recalled = float(held.double().mean())
    n, m, k = len(x), len(y), neighbours
    missed = math.prod((m - i) / (n + m - i) for i in range(1, k + 1))
    return Coverage(
        precision=inside / n,
        recall=recalled,
        density=total / (k * n),
        coverage=float(covered.double().mean()),
        expected_coverage=1 - missed,
        neighbours=k,
    )


@checked
def kl_nearest_neighbours(x: DataLike, y: DataLike, *, neighbours: int = 5) -> float:
    r"""Estimate ``KL(p || q)`` in nats from distances to k-th neighbours.

    .. math:: \widehat{KL} = \frac{d}{N} \sum_i \log \frac{\nu_k(i)}{\rho_k(i)}
              + \log \frac{M}{N - 1}

    with :math:`\rho_k(i)` the distance of :math:`x_i` to its k-th neighbour in x and
    :math:`\nu_k(i)` in y.

    Consistent, and of mean near 0 for equal laws. For laws that differ it is biased either way, by
    much: upward in ten dimensions (0.63 for 0.38 between N(0, Id) and N(½ e_1, 1.2² Id) at
    N = 10,000; benchmarks/results), downward where p has tails that q has not (0.53 for 0.81
    between N(0, 2²) and N(0, 1) at N = 5,000). Use it to tell that laws differ, not by how much.
    The terms depend on each other, so no error bar is given: subsample without replacement for
    one; a bootstrap repeats points, whose distance is 0, and is not valid. ``O(N (N + M) d)``.

    Args:
        x: sample of p, ``(N, *)``, more than k.
        y: sample of q, ``(M, *)``, at least k.
        neighbours: k; more lower the variance and raise the bias.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if they are not finite, of different events, too few, or points coincide so
            that a distance is 0.

    Source: Wang, Kulkarni and Verdú (2009), equation 5; Perez-Cruz (2008).

    Example:
        >>> x = torch.randn(2_000, 1, generator=torch.Generator().manual_seed(0))
        >>> y = 2 * torch.randn(2_000, 1, generator=torch.Generator().manual_seed(1))
        >>> abs(kl_nearest_neighbours(x, y) - 0.318) < 0.1  # log 2 - 3/8
        True
    """
    x, y = event_rows(x, y)
    check_at_least(neighbours + 1, f"{neighbours} neighbours", x=x)
    own = nearest_distances(x, x, neighbours, exclude_self=True)[0][:, -1]
    other = nearest_distances(x, y, neighbours)[0][:, -1]
    bad = ((own <= 0) | (other <= 0)).nonzero().flatten()
    if bad.numel() > 0:
        shown = ", ".join(str(int(row)) for row in bad[:5])
        raise ValueError(
            f"{bad.numel()} rows of x (rows {shown}) are at distance 0 from their k-th neighbour:"
            " points coincide, and a law with atoms has no such divergence; drop repeated rows, or"
            " add noise of the data's precision"
        )
    n, d = x.shape
    return float(d * (other.log() - own.log()).mean()) + math.log(len(y) / (n - 1))
