"""Training times by the clock: the base class, and laws of t alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .._core.built import Built
from .._core.checks import number, positive_number
from .._core.precision import as_wide
from .._core.random import local
from .._core.reprs import call
from .._core.signatures import checked
from ..gaussian_part import GaussianPart

__all__ = [
    "GridTimes",
    "HasPart",
    "LogitNormalTimes",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
]

Margin = tuple[float, float]


class HasPart(Protocol):
    """Anything with a Gaussian part, as a process: what times by noise level need of it."""

    @property
    def part(self) -> GaussianPart:
        """The Gaussian part; where there is none, a refusal."""


@checked
class TimeSampler(Built, ABC):
    """Draws times in ``[margin[0], 1 - margin[1]]``.

    Args:
        margin: distance kept from each end, one number for both or a pair; None leaves it to the
            process, which keeps 1e-4 from an end where a target is infinite.

    Raises:
        ValueError: if a margin is negative, or both leave no time between them.

    Example:
        >>> class Late(TimeSampler):  # of density 2 t
        ...     def unit(self, n, *, generator, device, dtype):
        ...         return torch.rand(n, generator=generator, device=device, dtype=dtype).sqrt()
        ...     def unit_density(self, u): return 2 * u
        >>> t = Late().sample(10_000, generator=torch.Generator().manual_seed(0))
        >>> abs(float(t.mean()) - 2 / 3) < 0.02
        True
    """

    _sets: ClassVar[tuple[str, ...]] = ("margin",)

    def __init__(self, *, margin: float | Margin | None = None) -> None:
        if margin is not None:
            low, high = margin if isinstance(margin, tuple) else (margin, margin)
            if not (low >= 0 and high >= 0 and low + high < 1):
                raise ValueError(
                    f"margins must be non-negative and sum to less than 1, got ({low}, {high})"
                )
            margin = (low, high)
        self.margin: Margin | None = margin

    @abstractmethod
    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Draw ``(n,)`` on [0, 1], before margins; what a subclass writes."""

    def sample(
        self,
        n: int,
        *,
        margin: Margin = (0.0, 0.0),
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw ``(n,)`` times; ``margin`` applies where the sampler has none of its own."""
        device = torch.device(device)
        low, high = self.margins(margin)
        u = self.unit(n, generator=local(generator, device), device=device, dtype=dtype)
        if low == 0 and high == 0:
            return u
        return low + (1 - low - high) * u

    def margins(self, margin: Margin = (0.0, 0.0)) -> Margin:
        """Its own margins, or those given where it has none."""
        return self.margin if self.margin is not None else margin

    def bind(self, process: HasPart) -> TimeSampler:
        """The sampler for one process: itself, unless its times depend on the path."""
        return self

    def density(self, t: Tensor, *, margin: Margin = (0.0, 0.0)) -> Tensor:
        """Density of the draws at times ``t``, per unit of time, of the shape of t.

        A loss divided by it is an integral over time, whatever the sampler
        (``Regression(importance=True)``).

        Raises:
            ValueError: if the draws have no density, as those on a grid.
        """
        low, high = self.margins(margin)
        width = 1 - low - high
        return self.unit_density((t - low) / width) / width

    def unit_density(self, u: Tensor) -> Tensor:
        """Density of :meth:`unit` on [0, 1], of the shape of u.

        Raises:
            ValueError: if it is not written, and a loss is to be divided by it.
        """
        raise ValueError(
            f"{type(self).__name__} has no density to divide a loss by; leave importance=True out,"
            " use UniformTimes or LogSNRTimes, or write unit_density(u)"
        )

    def __repr__(self) -> str:
        return call(self)


@checked
class UniformTimes(TimeSampler):
    """t uniform on [0, 1], margins aside.

    Example:
        >>> UniformTimes(margin=0.1).density(torch.tensor([0.5]))  # 1/(1 - 0.1 - 0.1)
        tensor([1.2500])
    """

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return torch.rand(n, generator=generator, device=device, dtype=dtype)

    def unit_density(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)


@checked
class StratifiedTimes(TimeSampler):
    """One uniform draw in each of n equal strata, in random order: a loss of lower variance.

    Example:
        >>> t = StratifiedTimes().sample(4, generator=torch.Generator().manual_seed(0))
        >>> (4 * t.sort().values).floor()  # one in each quarter
        tensor([0., 1., 2., 3.])
    """

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        order = torch.randperm(n, generator=generator, device=device).to(dtype)
        return (order + torch.rand(n, generator=generator, device=device, dtype=dtype)) / n

    def unit_density(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)


@checked
class LogitNormalTimes(TimeSampler):
    """``t = S(m + s z)`` with S the logistic function (Esser et al. 2024): the middle of time.

    Args:
        mean: m; positive leans towards the data.
        std: s, positive.
        margin: see :class:`TimeSampler`.

    Raises:
        ValueError: if ``mean`` is not finite, or ``std`` not positive.

    Example:
        >>> seed = torch.Generator().manual_seed(0)
        >>> t = LogitNormalTimes(mean=1.0).sample(10_000, generator=seed)
        >>> abs(float(t.median()) - 0.7311) < 0.02  # S(1)
        True
    """

    def __init__(
        self, mean: float = 0.0, std: float = 1.0, *, margin: float | Margin | None = None
    ) -> None:
        super().__init__(margin=margin)
        self.mean, self.std = number("mean", mean), positive_number("std", std)

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        z = torch.randn(n, generator=generator, device=device, dtype=dtype)
        return torch.sigmoid(self.mean + self.std * z)

    def unit_density(self, u: Tensor) -> Tensor:
        inside = (u > 0) & (u < 1)  # the density is 0 at the ends, its limit, and beyond
        v = torch.where(inside, u, 0.5)
        z = (torch.logit(v) - self.mean) / self.std
        normal = torch.exp(-0.5 * z.square()) / (self.std * math.sqrt(2 * math.pi))
        return torch.where(inside, normal / (v * (1 - v)), 0.0)


@checked
class GridTimes(TimeSampler):
    """t uniform on a finite grid (the levels of a discrete chain, say).

    Args:
        times: the grid, ``(K,)``, in [0, 1]. Margins do not move it.

    Raises:
        ValueError: if there are no times, or one is outside [0, 1].

    Example:
        >>> t = GridTimes([0.25, 0.5]).sample(50, generator=torch.Generator().manual_seed(0))
        >>> sorted(set(t.tolist()))
        [0.25, 0.5]
    """

    def __init__(self, times: Sequence[float] | Tensor) -> None:
        super().__init__(margin=(0.0, 0.0))
        self.times = as_wide(times)
        if self.times.ndim != 1 or self.times.numel() == 0:
            raise ValueError(f"times must be a non-empty list, got shape {self.times.shape}")
        if not bool(((self.times >= 0) & (self.times <= 1)).all()):
            raise ValueError(f"times must lie in [0, 1], got {self.times.tolist()}")

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        index = torch.randint(self.times.numel(), (n,), generator=generator, device=device)
        return self.times.to(device=device, dtype=dtype)[index]
