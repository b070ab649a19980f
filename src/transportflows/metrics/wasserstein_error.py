"""What samples of finite size do to a Wasserstein distance: a floor, and an error bar.

Two samples of one law are some distance apart, the *floor*, which falls slowly with their size. It
is estimated between halves of each sample, the error bar between disjoint blocks of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .._core.arrays import DataLike
from .._core.precision import as_wide
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.samples import check_at_least, event_rows
from .._core.signatures import checked
from .estimates import Estimate
from .wasserstein import wasserstein2

__all__ = ["CorrectedDistance", "corrected_wasserstein2", "wasserstein2_error"]


@checked
@dataclass(frozen=True)
class CorrectedDistance:
    """A distance between samples less what samples of this size show for equal laws.

    Attributes:
        squared: ``raw² - floor²``; of either sign.
        value: its root, 0 where it is negative, in units of the data.
        raw: root mean square of the distances between halves of x and halves of y.
        floor: root mean square of those between the halves of x, and of y.
    """

    squared: float
    value: float
    raw: float
    floor: float

    __repr__ = summary


@checked
def corrected_wasserstein2(
    x: DataLike, y: DataLike, *, generator: torch.Generator | None = None
) -> CorrectedDistance:
    r"""Return :math:`W_2` less its floor, from halves of both samples.

    .. math:: \widehat{W}^2 = \tfrac14 \sum_{ab} W_2^2(x_a, y_b)
              - \tfrac12 \bigl(W_2^2(x_1, x_2) + W_2^2(y_1, y_2)\bigr)

    Bias: none for equal laws. For laws that differ it is downward, since the floor is more than
    what finite samples add to a large distance (for a shift they add next to nothing): by at most
    the floor squared. That of the raw distance is upward, so the two are bounds on average.
    Measured where :func:`wasserstein2` says: 0.573 for 0.575 in two dimensions, 0.74 for 0.81 in
    ten, and within its noise of 0 for equal laws. Costs six solves of half the size.

    Args:
        x: first sample, ``(N, *)``, at least four rows.
        y: second sample, ``(M, *)``, at least four rows.
        generator: source of the halves; torch's default one if None.

    Raises:
        TypeError: as :func:`wasserstein2`.
        ValueError: as :func:`wasserstein2`, or if there are fewer than four rows.
        RuntimeError: as :func:`wasserstein2`.

    Source: the correction by halves is this library's, after the energy distance of Székely and
    Rizzo (2013).

    Example:
        >>> x = torch.randn(400, 2)
        >>> found = corrected_wasserstein2(x, x + 3)
        >>> found.squared < found.raw**2 < 25
        True
    """
    x, y = event_rows(x, y)
    check_at_least(4, "two halves", x=x, y=y)
    size = min(len(x), len(y)) // 2
    draws = stream(draw_key(generator))
    xs, ys = (
        torch.split(s[torch.randperm(len(s), generator=draws)[: 2 * size].to(s.device)], size)
        for s in (x, y)
    )
    raw = sum(wasserstein2(a, b) ** 2 for a in xs for b in ys) / 4
    floor = (wasserstein2(*xs) ** 2 + wasserstein2(*ys) ** 2) / 2
    squared = raw - floor
    return CorrectedDistance(
        squared, math.sqrt(max(0.0, squared)), math.sqrt(raw), math.sqrt(floor)
    )


@checked
def wasserstein2_error(
    x: DataLike, y: DataLike, *, blocks: int = 10, generator: torch.Generator | None = None
) -> Estimate:
    r"""Return :math:`W_2` of the whole samples with an error bar from disjoint subsamples.

    Where the laws differ, the deviation of :math:`W_2^2(p_N, q_N)` about its *mean* is normal, of
    variance ∝ 1/N (del Barrio and Loubes 2019). So the standard deviation of the square over B
    disjoint blocks of N/B points, over √B, is the standard error of the square of the whole, and
    over ``2 W2`` that of its root. The interval is for the mean of the
    distance at this sample size, bias included, not for the distance between the laws. Resampling
    with replacement is not valid here: repeated points are matched at no cost.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``.
        blocks: B, at least 3; each needs two points of each sample.
        generator: source of the blocks; torch's default one if None.

    Raises:
        TypeError: as :func:`wasserstein2`.
        ValueError: as :func:`wasserstein2`, or if there are too few rows or blocks.
        RuntimeError: as :func:`wasserstein2`.

    Source: del Barrio and Loubes, "Central limit theorems for empirical transportation cost in
    general dimension" (2019).

    Example:
        >>> x = torch.randn(400, 1)
        >>> low, high = wasserstein2_error(x, x + 3).interval()
        >>> low < 3 < high
        True
    """
    if blocks < 3:
        raise ValueError(f"blocks must be at least 3, got {blocks}; 10 is usual")
    x, y = event_rows(x, y)
    check_at_least(2 * blocks, f"{blocks} blocks of two points", x=x, y=y)
    draws = stream(draw_key(generator))
    parts = []
    for s in (x, y):
        order = torch.randperm(len(s), generator=draws).to(s.device)
        parts.append(torch.tensor_split(s[order], blocks))
    squares = as_wide([wasserstein2(a, b) ** 2 for a, b in zip(*parts, strict=True)])
    value = wasserstein2(x, y)
    error = float(squares.std()) / math.sqrt(blocks)
    return Estimate(value, error / (2 * value) if value > 0 else 0.0, blocks)
