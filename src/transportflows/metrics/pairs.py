r"""Whether samples that start at given x0 end where the pairs say.

A field keeps the laws at both ends and may lose the pairs (:class:`transportflows.Paired` says
when), so metrics of the samples alone see nothing. Here the joint law of (x0, y) is compared with
that of (x0, x1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike, together
from .._core.checks import check_finite_rows, check_same_kind
from .._core.precision import wide
from .._core.reprs import summary
from .._core.signatures import checked
from .energy import energy_distance

__all__ = ["PairError", "pair_error"]


@checked
@dataclass(frozen=True)
class PairError:
    r"""How far samples from given starts are from the pairs.

    Attributes:
        correlation: of x0 and the samples, all coordinates together:
            :math:`\sum \mathrm{cov} / \sqrt{\sum \mathrm{var} \sum \mathrm{var}}`.
        true_correlation: of x0 and x1.
        energy: energy distance of the joint laws, each end in units of its spread; of mean 0 where
            they are one.
        unpaired: the same for the x1 in another order, as if nothing were paired.

    Source: Székely and Rizzo (2013), of the joint laws.
    """

    correlation: float
    true_correlation: float
    energy: float
    unpaired: float

    @property
    def lost(self) -> float:
        """``energy / unpaired``, which is 0 where the pairs are kept, and 1 where none is."""
        return self.energy / self.unpaired

    __repr__ = summary


@checked
@torch.no_grad()
def pair_error(x0: DataLike, x1: DataLike, samples: DataLike) -> PairError:
    """Compare samples that started at x0 with the x1 that belong to it.

    The first half of the rows tells of the samples and the second half of the pairs, so that the
    two are independent.

    Args:
        x0: starts, ``(N, *)``, N ≥ 4, such as were not trained on.
        x1: what belongs to them, ``(N, *)``.
        samples: what the field made of them: ``sample(field, start=x0, ...).x``.

    Raises:
        ValueError: if the three have not the same number of rows, or are not finite.

    Example:
        >>> x0 = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
        >>> found = pair_error(x0, -x0, x0)  # mirrored data, and a field that moves nothing
        >>> round(found.correlation, 3), round(found.true_correlation, 3), found.lost > 1
        (1.0, -1.0, True)
    """
    x0, x1, samples = together(("x0", "x1", "samples"), x0, x1, samples)
    for name, x in (("x0", x0), ("x1", x1), ("samples", samples)):
        check_finite_rows(x, name)
        check_same_kind(x, x0, name, "x0")
        if len(x) != len(x0) or len(x) < 4:
            raise ValueError(f"pairs have as many rows each, at least 4; {name} has {len(x)}")
    start, end, made = (wide(x.flatten(1)) for x in (x0, x1, samples))
    a, b = (start - start.mean(0)) / _spread(start), end.mean(0)
    end, made = (end - b) / _spread(end), (made - b) / _spread(end)
    half = len(a) // 2
    pairs = torch.cat([a[half:], end[half:]], 1)

    def away(other: Tensor) -> float:
        return energy_distance(torch.cat([a[:half], other[:half]], 1), pairs, unbiased=True)

    return PairError(_correlation(a, made), _correlation(a, end), away(made), away(end.roll(1, 0)))


def _spread(x: Tensor) -> Tensor:
    """The root mean variance of the coordinates; 1 where nothing varies."""
    spread = x.var(0, correction=0).mean().sqrt()
    return torch.where(spread > 0, spread, 1.0)


def _correlation(x: Tensor, y: Tensor) -> float:
    if x.shape[1] != y.shape[1]:
        return float("nan")
    x, y = x - x.mean(0), y - y.mean(0)
    size = (x.square().sum() * y.square().sum()).sqrt()
    return float((x * y).sum() / size.clamp(min=1e-300))
