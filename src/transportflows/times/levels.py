"""Training times by noise level: what has a law is λ = log(β/σ̂), or σ̂/β, and t follows from it.

Such samplers are bound to a process (:meth:`LevelTimes.bind`), whose λ(t) a table inverts.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core.precision import as_wide, widest, widest_dtype
from .._core.random import local
from .._core.signatures import checked
from ..gaussian_part import GaussianPart
from ..noise_level import NoiseLevel
from .base import GridTimes, HasPart, Margin, TimeSampler

__all__ = ["EDMTimes", "LevelTimes", "LogSNRTimes", "SigmaTimes"]

_END, _CELLS = 1e-9, 4096  # how near to an end with an infinite λ the table goes; its cells


@checked
class LevelTimes(TimeSampler):
    """Times with a law of their noise level; what a subclass writes is the law of λ.

    It is bound to a process when drawn from, by a table that is made once (5 ms), or at every draw
    where the path is learned.

    Attributes:
        bounded: whether the law needs λ finite at the ends of the times, and so a margin.
    """

    bounded: ClassVar[bool] = False
    _bound: tuple[GaussianPart, BoundTimes] | None = None

    def bind(self, process: HasPart) -> TimeSampler:
        part = process.part
        if self._bound is None or self._bound[0] is not part:
            self._bound = (part, BoundTimes(self, part))
        return self._bound[1]

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        raise ValueError(
            f"{type(self).__name__} needs a process to draw times; give it to a loss or to"
            " process.sample(x1, t=...), or bind it: times.bind(process).sample(n)"
        )

    @abstractmethod
    def quantile(self, u: Tensor, low: float, high: float) -> Tensor:
        """λ at the quantiles ``u`` of its law on [low, high], of their shape."""

    @abstractmethod
    def level_density(self, log_ratio: Tensor, low: float, high: float) -> Tensor:
        """The density of that law, of the shape of λ."""


class LogRatioInverse:
    """The time at which ``λ(t)`` has a value, by table: cubic Hermite between 4,097 nodes.

    The nodes are found by bisection in float64, once; a look-up waits for nothing on the device.

    Attributes:
        low: λ at t = 0, or 1e-9 from it where that is infinite.
        high: λ at t = 1, likewise.
    """

    def __init__(self, part: GaussianPart) -> None:
        part.check_monotone()
        device = part.device
        with torch.no_grad():
            ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
            infinite = self._is_infinite(part, ends)
            near = torch.tensor([_END, 1 - _END], dtype=torch.float64, device=device)
            ends = torch.where(infinite, near, ends)
            self.low, self.high = (float(v) for v in NoiseLevel.at(part, ends).log_ratio)
            nodes = torch.linspace(
                self.low, self.high, _CELLS + 1, dtype=torch.float64, device=device
            )
            times = part.time_of(nodes)
            times[0], times[-1] = ends[0], ends[1]
            self.step = (self.high - self.low) / _CELLS
            self.times = times
            self.slopes = self.step / NoiseLevel.at(part, times).rate

    @staticmethod
    def _is_infinite(part: GaussianPart, ends: Tensor) -> Tensor:
        return (part.path.beta(ends).abs() < 1e-12) | (part.scale_sq(ends) < 1e-24)

    def covers(self, low: float, high: float) -> bool:
        """Whether [low, high] is within the table."""
        return low >= self.low - 1e-9 and high <= self.high + 1e-9

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """Times, float64, of the shape of ``log_ratio``; values beyond the ends give the ends."""
        if self.times.device != log_ratio.device:
            device, dtype = log_ratio.device, widest_dtype(log_ratio.device)
            self.times, self.slopes = (w.to(device, dtype) for w in (self.times, self.slopes))
        times, slopes = self.times, self.slopes
        place = ((widest(log_ratio) - self.low) / self.step).clamp(0, _CELLS)
        cell = place.floor().clamp(max=_CELLS - 1).long()
        u = place - cell
        start, stop, first, last = times[cell], times[cell + 1], slopes[cell], slopes[cell + 1]
        rise = stop - start
        return start + u * (
            first + u * (3 * rise - 2 * first - last + u * (first + last - 2 * rise))
        )


@checked
class BoundTimes(TimeSampler):
    """A :class:`LevelTimes` of one process."""

    def __init__(self, law: LevelTimes, part: GaussianPart) -> None:
        super().__init__(margin=law.margin)
        self.law, self.part = law, part
        self.inverse = LogRatioInverse(part)
        self._ranges: dict[Margin, tuple[float, float]] = {}

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        raise NotImplementedError

    def sample(
        self,
        n: int,
        *,
        margin: Margin = (0.0, 0.0),
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        device = torch.device(device)
        u = torch.rand(
            n, generator=local(generator, device), device=device, dtype=widest_dtype(device)
        )
        low, high = self.margins(margin)
        t = self.inverse(self.law.quantile(u, *self._range((low, high))))
        return t.clamp(low, 1 - high).to(dtype)

    def density(self, t: Tensor, *, margin: Margin = (0.0, 0.0)) -> Tensor:
        with torch.no_grad():
            level = NoiseLevel.at(self.part, t)
            of_level = self.law.level_density(level.log_ratio, *self._range(self.margins(margin)))
            return (of_level * level.rate).to(t.dtype)

    def _range(self, margin: Margin) -> tuple[float, float]:
        """λ at the ends of the times allowed, within the table."""
        if margin not in self._ranges:
            ends = torch.tensor(
                [margin[0], 1 - margin[1]], dtype=torch.float64, device=self.part.device
            )
            with torch.no_grad():
                low, high = NoiseLevel.at(self.part, ends).log_ratio.tolist()
            if self.law.bounded and not self.inverse.covers(low, high):
                raise ValueError(
                    f"{type(self.law).__name__} needs finite noise levels, and that of"
                    f" {type(self.part.path).__name__} is not at the ends of times with"
                    f" margins {margin}; give it a positive margin, such as"
                    f" {type(self.law).__name__}(margin=1e-3)"
                )
            self._ranges[margin] = max(low, self.inverse.low), min(high, self.inverse.high)
        return self._ranges[margin]


@checked
class LogSNRTimes(LevelTimes):
    """λ uniform: density ``∝ λ̇ = g²/(2σ̂²)``, that of importance sampling for the likelihood.

    With ``importance=True`` and :class:`LikelihoodWeight` every time counts the same, in units of
    a noise regression, and the variance of the loss is that of the noise regression alone (Song,
    Durkan et al. 2021, section 4.1; Kingma et al. 2021).

    Args:
        margin: distance kept from the ends, positive where the SNR there is 0 or infinite.

    Raises:
        ValueError: when drawn from, if the SNR of the process does not grow all the way with t, or
            is 0 or infinite at an end without a margin.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> times = LogSNRTimes(margin=0.1).bind(process)  # λ = log(t/(1 - t))
        >>> times.density(torch.tensor([0.5]))  # λ̇/(λ(0.9) - λ(0.1)) = 4/(2 log 9)
        tensor([0.9102])
    """

    bounded = True

    def __init__(self, *, margin: float | Margin | None = 1e-3) -> None:
        super().__init__(margin=margin)

    def quantile(self, u: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * u

    def level_density(self, log_ratio: Tensor, low: float, high: float) -> Tensor:
        return torch.full_like(log_ratio, 1 / (high - low))


@checked
class EDMTimes(LevelTimes):
    """``log σ ~ N(mean, std²)`` with ``σ = σ̂/β``, on any one-sided process (Karras et al. 2022).

    The law is truncated to the levels that the path has between its margins.

    Args:
        mean: of log σ (Karras: -1.2), σ in units of the data.
        std: of log σ (Karras: 1.2), positive.
        margin: see :class:`TimeSampler`.

    Raises:
        ValueError: if the mean is not finite, or the deviation not positive.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> t = EDMTimes().bind(process).sample(10_000, generator=torch.Generator().manual_seed(0))
        >>> abs(float(((1 - t) / t).log().mean()) + 1.2) < 0.1  # σ = (1 - t)/t
        True
    """

    def __init__(
        self, mean: float = -1.2, std: float = 1.2, *, margin: float | Margin | None = 1e-6
    ) -> None:
        super().__init__(margin=margin)
        if not (std > 0 and math.isfinite(std) and math.isfinite(mean)):
            raise ValueError(f"mean must be finite and std positive, got {mean} and {std}")
        self.mean, self.std = float(mean), float(std)

    def _mass(self, low: float, high: float) -> tuple[float, float]:
        """The probabilities of ``λ < low`` and of ``λ < high``."""
        root = self.std * math.sqrt(2)
        first = 0.5 * math.erfc(-(low + self.mean) / root)
        last = 0.5 * math.erfc(-(high + self.mean) / root)
        if not last - first > 1e-9:
            raise ValueError(
                f"log σ ~ N({self.mean:g}, {self.std:g}²) has no mass on the noise levels of this"
                f" process, log σ in ({-high:.3g}, {-low:.3g}); choose a mean among them"
            )
        return first, last

    def quantile(self, u: Tensor, low: float, high: float) -> Tensor:
        first, last = self._mass(low, high)
        z = torch.special.ndtri(first + (last - first) * u)
        log_ratio: Tensor = (self.std * z - self.mean).clamp(low, high)
        return log_ratio

    def level_density(self, log_ratio: Tensor, low: float, high: float) -> Tensor:
        first, last = self._mass(low, high)
        z = (log_ratio + self.mean) / self.std
        normal = torch.exp(-0.5 * z.square()) / (self.std * math.sqrt(2 * math.pi))
        return normal / (last - first)


@checked
class SigmaTimes(TimeSampler):
    """Uniform over the times of a few noise levels ``σ̂/β = σ_k``: the levels of NCSN, or one.

    Args:
        sigmas: levels in units of the data, positive and finite: one number or several.

    Raises:
        ValueError: if one is not positive and finite, or, when drawn from, not of the process.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> SigmaTimes(1.0).bind(process).sample(2)  # where (1 - t)/t = 1
        tensor([0.5000, 0.5000])
    """

    _bound: tuple[GaussianPart, GridTimes] | None = None

    def __init__(self, sigmas: float | Sequence[float] | Tensor) -> None:
        super().__init__(margin=(0.0, 0.0))
        self.sigmas = as_wide(sigmas).reshape(-1)
        levels = self.sigmas.tolist()
        if not levels or not all(0 < level < math.inf for level in levels):
            raise ValueError(f"noise levels must be positive and finite, got {levels}")

    def bind(self, process: HasPart) -> TimeSampler:
        part = process.part
        if self._bound is None or self._bound[0] is not part:
            self._bound = (part, GridTimes(part.time_of_sigma(self.sigmas).cpu()))
        return self._bound[1]

    def unit(self, n: int, **how: Any) -> Tensor:
        raise ValueError(
            "SigmaTimes needs a process to draw times; give it to a loss or to process.sample(x1,"
            " t=...), or bind it: times.bind(process).sample(n)"
        )
