r"""Sliced Wasserstein-2 distances: over random projections, and over the worst one.

.. math:: SW_2^2 = E_\theta\, W_2^2(\langle\theta, x\rangle, \langle\theta, y\rangle), \qquad
          \max\text{-}SW_2 = \max_{|\theta| = 1}
          W_2(\langle\theta, x\rangle, \langle\theta, y\rangle)

Each projection is sorted, exact for samples of different sizes too. Unlike that of W2, the bias
from finite samples does not suffer from the dimension: for equal laws :math:`SW_2^2` is of order
1/N times the mean projected variance (log N more for Gaussian tails).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.samples import event_rows
from .._core.signatures import checked

__all__ = [
    "MaxSlicedDistance",
    "SlicedDistance",
    "max_sliced_wasserstein2",
    "sliced_wasserstein2",
]

_CHUNK = 1 << 20  # projected values held at a time


@checked
@dataclass(frozen=True)
class SlicedDistance:
    """A mean over random directions, and its error.

    Attributes:
        value: ``SW_2``, the root of the mean square, in units of the data.
        standard_error: of ``value``, from the choice of directions alone (the samples held fixed);
            0 in one dimension.
        projections: number of directions.
    """

    value: float
    standard_error: float
    projections: int

    __repr__ = summary


@checked
@dataclass(frozen=True, eq=False)
class MaxSlicedDistance:
    """A distance along the worst direction that was found.

    Attributes:
        value: the distance there, in units of the data: a lower bound of the maximum.
        direction: the unit vector, of the event's shape.
        steps: ascent steps taken.
    """

    value: float
    direction: Tensor
    steps: int

    __repr__ = summary


@checked
def sliced_wasserstein2(
    x: DataLike,
    y: DataLike,
    *,
    projections: int = 256,
    generator: torch.Generator | None = None,
) -> SlicedDistance:
    r"""Return the sliced :math:`W_2` (not its square) between two samples.

    ``O(K (N + M) (d + log(N + M)))``; memory of a few projections at a time. Its units are those of
    the data, but for a shift by a vector a it is ``|a| / √d``, not ``|a|``.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``.
        projections: number K of directions, at least 2 (events of one number have but one).
        generator: source of the directions, on any device; torch's default one if None.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are empty, not finite or of different events, or there are fewer
            than two projections.

    Source: Rabin et al. (2011); Bonneel et al. (2015).

    Example:
        >>> x = torch.randn(100, 1)
        >>> round(sliced_wasserstein2(x, x + 2).value, 6)
        2.0
    """
    if projections < 2:
        raise ValueError(f"projections must be at least 2, got {projections}; 256 is usual")
    x, y = event_rows(x, y)
    d = x.shape[1]
    count = projections if d > 1 else 1
    thetas = _directions(count, d, x.device, generator)
    size = max(1, _CHUNK // (len(x) + len(y)))
    squares = torch.cat([_squared_along(x, y, part) for part in torch.split(thetas, size)])
    mean = float(squares.mean())
    value = math.sqrt(mean)
    error = float(squares.std()) / math.sqrt(count) if count > 1 else 0.0
    return SlicedDistance(value, error / (2 * value) if value > 0 else 0.0, count)


@checked
def max_sliced_wasserstein2(
    x: DataLike,
    y: DataLike,
    *,
    starts: int = 16,
    steps: int = 50,
    generator: torch.Generator | None = None,
) -> MaxSlicedDistance:
    r"""Return the largest projected :math:`W_2`, and where it is.

    From random directions, the difference of the means and the leading directions of the
    difference of the covariances: with the sorted pairs (i, k) of a direction fixed, its square is
    :math:`\theta^\top A \theta`, :math:`A = \sum w_{ik} (x_i - y_k)(x_i - y_k)^\top`; the next
    direction is that of :math:`A \theta`, which never makes the distance smaller while the pairs
    stay, and the best met is kept. It is a lower bound of a maximum that is not concave. Bias: for
    equal laws larger than the sliced distance, of order ``√(d/N)`` standard deviations.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``.
        starts: random directions to start from, at least 1.
        steps: ascent steps, at least 1.
        generator: source of the starts, on any device; torch's default one if None.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are empty, not finite or of different events, or ``starts`` or
            ``steps`` is not positive.

    Source: Deshpande et al. (2019); Kolouri et al. (2019).

    Example:
        >>> x = torch.randn(200, 3)
        >>> found = max_sliced_wasserstein2(x, x + torch.tensor([0.0, 4.0, 0.0]))
        >>> round(found.value, 6), round(abs(float(found.direction[1])), 6)
        (4.0, 1.0)
    """
    if starts < 1 or steps < 1:
        raise ValueError(f"starts and steps must be at least 1, got {starts} and {steps}")
    x = as_rows("x", x, torch.float64, like=y)
    shape = x.shape[1:]
    x, y = event_rows(x, y)
    d = x.shape[1]
    thetas = [_directions(starts, d, x.device, generator)]
    shift = x.mean(0) - y.mean(0)
    if float(shift.norm()) > 0:
        thetas.append((shift / shift.norm()).unsqueeze(0))
    if min(len(x), len(y)) > 1 and d <= 512:
        change = torch.linalg.eigh((torch.cov(x.mT) - torch.cov(y.mT)).view(d, d)).eigenvectors
        thetas.append(change[:, [0, -1]].mT)
    theta = torch.cat(thetas)
    best = torch.full((len(theta),), -1.0, dtype=x.dtype, device=x.device)
    best_theta = theta.clone()
    for _ in range(steps):
        square, ascent = _ascent(x, y, theta)
        better = square > best
        best = torch.where(better, square, best)
        best_theta = torch.where(better.unsqueeze(1), theta, best_theta)
        length = ascent.norm(dim=1, keepdim=True)
        theta = torch.where(length > 0, ascent / length.clamp(min=1e-300), theta)
    k = int(best.argmax())
    return MaxSlicedDistance(
        math.sqrt(max(0.0, float(best[k]))), best_theta[k].reshape(shape), steps
    )


def _directions(
    count: int, d: int, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    draws = stream(draw_key(generator), device=device)
    theta = torch.randn(count, d, generator=draws, device=device, dtype=torch.float64)
    lengths: Tensor = theta.norm(dim=1, keepdim=True)
    return theta / lengths


def _quantile_pairs(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which sorted point meets which, and the mass: the monotone coupling of 1/n and 1/m."""
    levels = torch.cat(
        [
            torch.arange(1, n + 1, device=device) * m,
            torch.arange(1, m + 1, device=device) * n,
        ]
    )
    levels = torch.unique(levels)  # in units of 1 / (n m), so that ties are exact
    mass = levels.diff(prepend=levels.new_zeros(1))
    i = torch.div(levels - 1, m, rounding_mode="floor")
    k = torch.div(levels - 1, n, rounding_mode="floor")
    return i, k, mass.double() / (n * m)


def _squared_along(x: Tensor, y: Tensor, thetas: Tensor) -> Tensor:
    """Squared W2 of the projections on each direction, ``(K,)``."""
    a, b = (thetas @ x.mT).sort(dim=1).values, (thetas @ y.mT).sort(dim=1).values
    if len(x) == len(y):
        return (a - b).square().mean(1)
    i, k, mass = _quantile_pairs(len(x), len(y), x.device)
    return (a[:, i] - b[:, k]).square() @ mass


def _ascent(x: Tensor, y: Tensor, thetas: Tensor) -> tuple[Tensor, Tensor]:
    """Squared W2 along each direction, and A θ, one direction at a time."""
    i, k, mass = _quantile_pairs(len(x), len(y), x.device)
    squares, ascents = [], []
    for theta in thetas:
        a, b = (x @ theta).sort(), (y @ theta).sort()
        weighted = (a.values[i] - b.values[k]) * mass
        on_x = torch.zeros(len(x), dtype=x.dtype, device=x.device).index_add_(0, i, weighted)
        on_y = torch.zeros(len(y), dtype=x.dtype, device=x.device).index_add_(0, k, weighted)
        ascents.append(on_x @ x[a.indices] - on_y @ y[b.indices])
        squares.append(weighted @ (a.values[i] - b.values[k]))
    return torch.stack(squares), torch.stack(ascents)
