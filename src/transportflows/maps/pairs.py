r"""Laws of the two times (s, t) that a flow map is trained at."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.built import Built
from .._core.checks import number, positive_integer
from .._core.precision import as_wide
from .._core.random import local
from .._core.reprs import call
from .._core.signatures import checked
from ..times.base import HasPart, Margin, TimeSampler, UniformTimes

__all__ = ["DyadicPairs", "GridPairs", "Pairs", "ToData", "UniformPairs"]


@checked
class Pairs(Built, ABC):
    """Draws times s, of x, and t, to go to.

    Attributes:
        to_data: whether t is 1 always.

    Example:
        >>> class Whole(Pairs):
        ...     def unit(self, n, *, generator, device, dtype):
        ...         s = torch.zeros(n, device=device, dtype=dtype)
        ...         return s, s + 1
        >>> Whole().sample(2)
        (tensor([0., 0.]), tensor([1., 1.]))
    """

    to_data: bool = False

    @abstractmethod
    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Draw s and t, each ``(n,)`` on [0, 1], before margins; what a subclass writes."""

    def bind(self, process: HasPart) -> Pairs:
        """The law for one process: itself, unless its times go by noise level."""
        times = getattr(self, "times", None)
        if not isinstance(times, TimeSampler) or (bound := times.bind(process)) is times:
            return self
        made = copy.copy(self)
        made.times = bound  # type: ignore[attr-defined]
        return made

    def sample(
        self,
        n: int,
        *,
        margin: Margin = (0.0, 0.0),
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """Draw s and t, each ``(n,)``, in ``[margin[0], 1 - margin[1]]``."""
        device = torch.device(device)
        s, t = self.unit(n, generator=local(generator, device), device=device, dtype=dtype)
        low, high = margin
        if low == high == 0:
            return s, t
        return s.clamp(low, 1 - high), t.clamp(low, 1 - high)

    def __repr__(self) -> str:
        return call(self)


@checked
class UniformPairs(Pairs):
    """Two independent uniform times; in some rows the first is 0, in some the last is 1.

    Those rows are what one step from base to data, and the first and last of several, are made of.

    Args:
        both: draw backward pairs, ``t < s``, as often as forward ones: the map that encodes, and
            that densities need, costs nothing more, and errors were no larger for it.
        at_start: share of the rows in which the earlier time is 0.
        at_end: share of the rows in which the later time is 1, independent of that.
        times: law of each of the two, such as ``tpf.times.LogitNormalTimes()``; uniform if None.

    Raises:
        ValueError: if a share is none.

    Example:
        >>> s, t = UniformPairs(both=False, at_end=1.0).sample(100)  # forward, and all to t = 1
        >>> bool((s <= t).all()), bool((t == 1).all())
        (True, True)
    """

    def __init__(
        self,
        *,
        both: bool = True,
        at_start: float = 0.25,
        at_end: float = 0.25,
        times: TimeSampler | None = None,
    ) -> None:
        self.both = bool(both)
        self.at_start = _share("at_start", at_start)
        self.at_end = _share("at_end", at_end)
        self.times = times

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        u, v, *shares = torch.rand(5, n, generator=generator, device=device, dtype=dtype)
        if self.times is not None:
            u, v = (
                self.times.sample(n, generator=generator, device=device, dtype=dtype)
                for _ in range(2)
            )
        first, last = torch.minimum(u, v), torch.maximum(u, v)
        if self.at_start:
            first = torch.where(shares[0] < self.at_start, 0.0, first)
        if self.at_end:
            last = torch.where(shares[1] < self.at_end, 1.0, last)
        if not self.both:
            return first, last
        swap = shares[2] < 0.5
        return torch.where(swap, last, first), torch.where(swap, first, last)


@checked
class ToData(Pairs):
    """t = 1 always: consistency models (Song et al. 2023), which have no other end.

    Args:
        times: law of s, such as ``tpf.times.EDMTimes()``, by noise level; uniform if None.

    Example:
        >>> s, t = ToData().sample(3)
        >>> t
        tensor([1., 1., 1.])
    """

    to_data = True

    def __init__(self, times: TimeSampler | None = None) -> None:
        self.times = times

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        times = UniformTimes() if self.times is None else self.times
        s = times.sample(n, generator=generator, device=device, dtype=dtype)
        return s, torch.ones_like(s)


@checked
class DyadicPairs(Pairs):
    """Widths ``2^-k``, k = 0 .. ``levels``, each as often, from a multiple of the width, forward.

    The pairs of shortcut models (Frans et al. 2024, section 3.1), of which two make one of the
    next width.

    Args:
        levels: K; the smallest width is 2^-K.

    Example:
        >>> s, t = DyadicPairs(levels=2).sample(1_000)
        >>> sorted(set((t - s).tolist())), sorted(set(s.tolist()))
        ([0.25, 0.5, 1.0], [0.0, 0.25, 0.5, 0.75])
    """

    def __init__(self, levels: int = 7) -> None:
        self.levels = positive_integer("levels", levels)

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        k = torch.randint(self.levels + 1, (n,), generator=generator, device=device)
        count = (2**k).to(dtype)
        place = torch.floor(torch.rand(n, generator=generator, device=device, dtype=dtype) * count)
        return place / count, (place + 1) / count


@checked
class GridPairs(Pairs):
    """The steps of one grid, each as often: the last training of a map for these steps alone.

    Args:
        times: of the grid, ``(K,)``, in order, such as what :func:`choose_times` finds.
        both: the steps backward too.

    Raises:
        ValueError: if there are fewer than two times, or they leave [0, 1] or do not go one way.

    Example:
        >>> s, t = GridPairs([0.0, 0.25, 1.0]).sample(100)
        >>> sorted(set(zip(s.tolist(), t.tolist())))
        [(0.0, 0.25), (0.25, 1.0)]
    """

    def __init__(self, times: Sequence[float] | Tensor, *, both: bool = False) -> None:
        self.times, self.both = as_wide(times), bool(both)
        if self.times.ndim != 1 or len(self.times) < 2:
            raise ValueError(f"a grid has at least two times, got shape {tuple(self.times.shape)}")
        steps = self.times.diff()
        if not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise ValueError(f"the times of a grid go one way, got {self.times.tolist()}")
        if float(self.times.min()) < 0 or float(self.times.max()) > 1:
            raise ValueError(f"times lie in [0, 1], got {self.times.tolist()}")

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        grid = self.times.to(device=device, dtype=dtype)
        k = torch.randint(len(grid) - 1, (n,), generator=generator, device=device)
        s, t = grid[k], grid[k + 1]
        if not self.both:
            return s, t
        swap = torch.rand(n, generator=generator, device=device) < 0.5
        return torch.where(swap, t, s), torch.where(swap, s, t)


def _share(name: str, value: float) -> float:
    return number(name, value, "a share of the rows, from 0 to 1", least=0.0, most=1.0)
