r"""Kernels on events, and a bandwidth for them.

A kernel k is positive definite: :math:`\sum_{ij} a_i a_j k(x_i, x_j) \ge 0` for all points and
numbers. The distance of two laws in its space is :func:`~transportflows.metrics.mmd2`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import integer, positive_integer
from .._core.distances import square_distances
from .._core.reprs import brief, call_lines
from .._core.samples import event_rows
from .._core.signatures import checked

__all__ = [
    "GaussianKernel",
    "Kernel",
    "PolynomialKernel",
    "RationalQuadraticKernel",
    "median_bandwidth",
]


@checked
class Kernel(ABC):
    """A positive definite kernel on flattened events."""

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """``k(x_i, y_j)``, ``(N, M)``, for rows ``(N, D)`` and ``(M, D)``."""

    def __repr__(self) -> str:
        parts = [f"{name}={brief(value)}" for name, value in vars(self).items()]
        return call_lines(type(self).__name__, parts)


@checked
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
        octaves = integer("octaves", octaves, "in 0 .. 64", least=0, most=64)
        return cls([bandwidth * 2.0**k for k in range(-octaves, octaves + 1)])

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        square = square_distances(x, y)
        if len(self.bandwidths) == 1:
            return square.mul_(-0.5 / self.bandwidths[0] ** 2).exp_()
        if square.requires_grad:  # autograd follows nothing that is written over
            return torch.stack([(square * (-0.5 / h**2)).exp() for h in self.bandwidths]).mean(0)
        part, total = torch.empty_like(square), torch.zeros_like(square)
        for k, h in enumerate(self.bandwidths):
            if k and self.bandwidths[k - 1] == 2 * h:  # e^(-4u) from e^-u, faster than an exp
                part.square_().square_()
            else:
                torch.mul(square, -0.5 / h**2, out=part).exp_()
            total += part
        return total.div_(len(self.bandwidths))


@checked
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
        square = square_distances(x, y).mul_(0.5 / self.bandwidth**2)
        if square.requires_grad:
            return torch.stack([(1 + square / a).pow(-a) for a in self.exponents]).mean(0)
        part, total = torch.empty_like(square), torch.zeros_like(square)
        for a in self.exponents:
            total += _inverse_power(torch.mul(square, 1 / a, out=part).add_(1), a)
        return total.div_(len(self.exponents))


@checked
class PolynomialKernel(Kernel):
    r"""``(x·y / D + 1)^degree``: the kernel of the kernel (Inception) distance.

    It sees moments up to ``degree`` only, so it does not tell all laws apart.

    Args:
        degree: 3 by default.
    """

    def __init__(self, degree: int = 3) -> None:
        self.degree = positive_integer("degree", degree)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return ((x @ y.mT) / x.shape[1] + 1) ** self.degree


@checked
def median_bandwidth(x: DataLike, y: DataLike, *, points: int = 2_000) -> float:
    """The median distance between the pooled points, over ``√2``: a common bandwidth.

    Over at most ``points`` points, evenly spaced in the order given, half from each sample.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``.
        points: how many of both together, at least 2.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are not finite or of different events, or all points coincide.

    Source: Gretton et al. (2012), section 8.

    Example:
        >>> round(median_bandwidth(torch.tensor([[0.0]]), torch.tensor([[2.0]])), 6)
        1.414214
    """
    x, y = event_rows(x, y)
    half = integer("points", points, "a number of points, at least 2", least=2) // 2
    pooled = torch.cat([s[:: math.ceil(len(s) / half)] for s in (x, y)])
    distance = float(torch.pdist(pooled).median()) if len(pooled) > 1 else 0.0
    if distance <= 0:
        raise ValueError(
            "half of the pooled points coincide, so their median distance is 0; give a bandwidth"
        )
    return distance / math.sqrt(2)


def _inverse_power(base: Tensor, a: float) -> Tensor:
    """``base^-a`` in its place, without a logarithm where a is a half or a small integer.

    Pages of memory that are new cost more than what is written into them here.
    """
    if a == 0.5:
        return base.rsqrt_()
    if a not in range(1, 9):
        return base.log_().mul_(-a).exp_()
    inverse, bits = base.reciprocal_(), f"{int(a):b}"[1:]
    if "1" not in bits:
        for _ in bits:
            inverse.square_()
        return inverse
    power = inverse.clone()
    for bit in bits:  # from the left: a square for each, and a product for each that is 1
        power.square_()
        if bit == "1":
            power *= inverse
    return power


def _positive(value: float | Sequence[float], name: str) -> tuple[float, ...]:
    values = tuple(float(v) for v in (value if isinstance(value, Sequence) else [value]))
    if not values or not all(v > 0 and math.isfinite(v) for v in values):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return values
