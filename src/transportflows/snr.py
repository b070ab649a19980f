r"""The noise level of a one-sided process, and time samplers that look at it instead of the clock.

A process whose all but x1 is Gaussian, ``x_t = α m + β x1 + σ̂ ẑ``, is, up to the scale β, data
seen through noise of standard deviation :math:`\hat\sigma/\beta`. So a diffusion model is told by
its signal-to-noise ratio, and any two differ by a change of clock and of scale:

.. math:: \sigma = \hat\sigma / \beta, \quad \mathrm{SNR} = \beta^2 / \hat\sigma^2, \quad
          \lambda = \log(\beta / \hat\sigma) = \tfrac12 \log \mathrm{SNR}, \quad
          \dot\lambda = \Delta / (\beta \hat\sigma^2), \quad
          \Delta = \dot\beta \hat\sigma^2 - \beta \hat\sigma \dot{\hat\sigma}.

Δ is finite wherever σ̂σ̂̇ is. A forward SDE exists where λ grows with t, and its squared diffusion
is ``g² = 2 σ̂² λ̇ = 2 Δ / β`` (Kingma et al. 2021, "Variational Diffusion Models").

Times with a given λ come from a table of the inverse, made once a process: nodes by bisection in
float64, cubic between them. A draw waits for nothing on the device.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._random import local
from .process import Process
from .times import GridTimes, Margin, TimeSampler

__all__ = [
    "EDMTimes",
    "LevelTimes",
    "LogSNRTimes",
    "NoiseLevel",
    "SigmaTimes",
    "check_monotone",
    "time_of_sigma",
]

_TINY = 1e-60
_NEAR = 1e-12  # distance from an end of time at which ratios are taken for their limits
_END = 1e-9  # how near to an end with an infinite λ the table goes
_CELLS = 4096


@dataclass(frozen=True)
class NoiseLevel:
    """β, σ̂ and what follows from them at times ``t``, in float64, of the shape of t.

    Times are held 1e-12 away from the ends, so that ratios have their limits there, and what is
    infinite is large.
    """

    process: Process
    t: Tensor
    dtype: torch.dtype = torch.float64  # of the times given

    @classmethod
    def at(cls, process: Process, t: Tensor) -> NoiseLevel:
        """The noise level of a process at times of any shape and dtype."""
        return cls(process, t.double().clamp(_NEAR, 1 - _NEAR), t.dtype)

    @cached_property
    def beta(self) -> Tensor:
        """β, kept above 1e-30.

        Raises:
            ValueError: if more than x1 is not Gaussian, so that there is no such level.
        """
        if not self.process.one_sided:
            raise ValueError(
                "the signal-to-noise ratio is β²/σ̂² of a process whose all but x1 is Gaussian, and"
                f" this one ({type(self.process.interpolant).__name__}, base"
                f" {type(self.process.base).__name__}, coupling"
                f" {type(self.process.coupling).__name__}) is not; use a one-sided path or an"
                " independent isotropic Gaussian base, or a weight that is a function of t"
            )
        return self.process.affine.beta(self.t).clamp(min=_TINY**0.5)

    @cached_property
    def signal(self) -> Tensor:
        """β²."""
        return self.beta.square()

    @cached_property
    def noise(self) -> Tensor:
        """σ̂²."""
        return self.process.noise_scale_sq(self.t).clamp(min=_TINY)

    @cached_property
    def delta(self) -> Tensor:
        """``Δ = β̇ σ̂² - β σ̂σ̂̇``."""
        beta_dot = self.process.affine.beta_dot(self.t)
        return beta_dot * self.noise - self.beta * 0.5 * self.process.noise_scale_sq_dot(self.t)

    @property
    def snr(self) -> Tensor:
        """``β²/σ̂²``."""
        return self.signal / self.noise

    @property
    def sigma(self) -> Tensor:
        """``σ = σ̂/β``, in units of the data."""
        return self.noise.sqrt() / self.beta

    @property
    def log_ratio(self) -> Tensor:
        """``λ = log(β/σ̂)``, half the log-SNR."""
        return self.beta.log() - 0.5 * self.noise.log()

    @property
    def rate(self) -> Tensor:
        """``λ̇``."""
        return self.delta / (self.beta * self.noise)

    @property
    def diffusion_sq(self) -> Tensor:
        """``g² = 2 σ̂² λ̇``, of the forward SDE with these marginals."""
        return 2 * self.delta / self.beta


def check_monotone(process: Process) -> None:
    """Refuse a process on which the signal-to-noise ratio does not grow all the way with t.

    Raises:
        ValueError: if it does not (an encoder-decoder, a mirror), or there is none.
    """
    if process.monotone is None:
        inside = torch.linspace(0, 1, 1001, dtype=torch.float64, device=process.device)[1:-1]
        with torch.no_grad():
            process.monotone = bool((NoiseLevel.at(process, inside).delta > 0).all())
    if not process.monotone:
        raise ValueError(
            "the signal-to-noise ratio of this process"
            f" ({type(process.interpolant).__name__}) does not grow all the way from t = 0 to 1, so"
            " it is no diffusion read backward: it has no time for each noise level, and no g²."
            " Use a path such as Linear() or SBDM(), or UniformTimes and a weight of your own"
        )


class LogRatioInverse:
    """The time at which ``λ(t)`` has a value, by table: cubic Hermite between 4,097 nodes.

    Attributes:
        low: λ at t = 0, or 1e-9 from it where that is infinite.
        high: λ at t = 1, likewise.
    """

    def __init__(self, process: Process) -> None:
        check_monotone(process)
        device = process.device
        with torch.no_grad():
            ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
            infinite = self._is_infinite(process, ends)
            near = torch.tensor([_END, 1 - _END], dtype=torch.float64, device=device)
            ends = torch.where(infinite, near, ends)
            self.low, self.high = (float(v) for v in NoiseLevel.at(process, ends).log_ratio)
            nodes = torch.linspace(
                self.low, self.high, _CELLS + 1, dtype=torch.float64, device=device
            )
            times = bisect(process, nodes)
            times[0], times[-1] = ends[0], ends[1]
            self.step = (self.high - self.low) / _CELLS
            self.times = times
            self.slopes = self.step / NoiseLevel.at(process, times).rate

    @staticmethod
    def _is_infinite(process: Process, ends: Tensor) -> Tensor:
        return (process.affine.beta(ends).abs() < 1e-12) | (process.noise_scale_sq(ends) < 1e-24)

    def covers(self, low: float, high: float) -> bool:
        """Whether [low, high] is within the table."""
        return low >= self.low - 1e-9 and high <= self.high + 1e-9

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """Times, float64, of the shape of ``log_ratio``; values beyond the ends give the ends."""
        if self.times.device != log_ratio.device:
            self.times = self.times.to(log_ratio.device)
            self.slopes = self.slopes.to(log_ratio.device)
        times, slopes = self.times, self.slopes
        place = ((log_ratio.double() - self.low) / self.step).clamp(0, _CELLS)
        cell = place.floor().clamp(max=_CELLS - 1).long()
        u = place - cell
        start, stop, first, last = times[cell], times[cell + 1], slopes[cell], slopes[cell + 1]
        rise = stop - start
        return start + u * (
            first + u * (3 * rise - 2 * first - last + u * (first + last - 2 * rise))
        )


def bisect(process: Process, log_ratio: Tensor) -> Tensor:
    """Times at which ``λ(t)`` has the values given, by bisection in float64."""
    low, high = torch.zeros_like(log_ratio), torch.ones_like(log_ratio)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = NoiseLevel.at(process, middle).log_ratio < log_ratio
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)


def time_of_sigma(process: Process, sigma: float | Sequence[float] | Tensor) -> Tensor:
    r"""Return the times at which the noise level ``σ̂/β`` of a process is ``sigma``, float64.

    There :math:`x_t / \beta = x_1 + \sigma z` in law: data with noise of standard deviation σ.

    Args:
        process: one-sided, with a signal-to-noise ratio that grows.
        sigma: noise levels in units of the data, of any shape.

    Raises:
        ValueError: if the process does not have such a level, or the level is not positive.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> time_of_sigma(process, 1.0)
        tensor(0.5000, dtype=torch.float64)
    """
    check_monotone(process)
    levels = torch.as_tensor(sigma, dtype=torch.float64, device=process.device)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=process.device)
    with torch.no_grad():
        highest, lowest = NoiseLevel.at(process, ends).sigma.tolist()
        outside = (levels < lowest * (1 - 1e-9)) | (levels > highest * (1 + 1e-9)) | (levels <= 0)
        if bool((outside | ~torch.isfinite(levels)).any()):
            raise ValueError(
                f"noise levels of {type(process.interpolant).__name__} lie in"
                f" [{lowest:.3g}, {highest:.3g}] in float64, got {levels.tolist()}"
            )
        return bisect(process, -levels.log())


class LevelTimes(TimeSampler):
    """Times with a law of their noise level; what a subclass writes is the law of λ.

    It is bound to a process when drawn from, by a table that is made once (5 ms), or at every draw
    where the path is learned.

    Attributes:
        bounded: whether the law needs λ finite at the ends of the times, and so a margin.
    """

    bounded: ClassVar[bool] = False
    _bound: tuple[Process, BoundTimes] | None = None

    def bind(self, process: Process) -> TimeSampler:  # noqa: D102
        learned = any(True for _ in process.interpolant.parameters())
        if learned or self._bound is None or self._bound[0] is not process:
            self._bound = (process, BoundTimes(self, process))
        return self._bound[1]

    def unit(  # noqa: D102
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        raise ValueError(
            f"{type(self).__name__} needs a process to draw times; give it to a loss or to"
            " process.sample(x1, t=...), or bind it: times.bind(process).sample(n)"
        )

    @abstractmethod
    def quantile(self, u: Tensor, low: float, high: float) -> Tensor:
        """λ at the quantiles ``u`` of its law on [low, high]."""

    @abstractmethod
    def level_density(self, log_ratio: Tensor, low: float, high: float) -> Tensor:
        """The density of that law."""


class BoundTimes(TimeSampler):
    """A :class:`LevelTimes` of one process."""

    def __init__(self, law: LevelTimes, process: Process) -> None:
        super().__init__(margin=law.margin)
        self.law, self.process = law, process
        self.inverse = LogRatioInverse(process)
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
        u = torch.rand(n, generator=local(generator, device), device=device, dtype=torch.float64)
        low, high = self.margins(margin)
        t = self.inverse(self.law.quantile(u, *self._range((low, high))))
        return t.clamp(low, 1 - high).to(dtype)

    def density(self, t: Tensor, *, margin: Margin = (0.0, 0.0)) -> Tensor:
        with torch.no_grad():
            level = NoiseLevel.at(self.process, t)
            of_level = self.law.level_density(level.log_ratio, *self._range(self.margins(margin)))
            return (of_level * level.rate).to(t.dtype)

    def _range(self, margin: Margin) -> tuple[float, float]:
        """λ at the ends of the times allowed, within the table."""
        if margin not in self._ranges:
            ends = torch.tensor(
                [margin[0], 1 - margin[1]], dtype=torch.float64, device=self.process.device
            )
            with torch.no_grad():
                low, high = NoiseLevel.at(self.process, ends).log_ratio.tolist()
            if self.law.bounded and not self.inverse.covers(low, high):
                raise ValueError(
                    f"{type(self.law).__name__} needs finite noise levels, and that of"
                    f" {type(self.process.interpolant).__name__} is not at the ends of times with"
                    f" margins {margin}; give it a positive margin, such as"
                    f" {type(self.law).__name__}(margin=1e-3)"
                )
            self._ranges[margin] = max(low, self.inverse.low), min(high, self.inverse.high)
        return self._ranges[margin]


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
        >>> loss = tpf.ScoreLoss(
        ...     weight=tpf.LikelihoodWeight(), times=LogSNRTimes(), importance=True
        ... )
    """

    bounded = True

    def __init__(self, *, margin: float | Margin = 1e-3) -> None:
        super().__init__(margin=margin)

    def quantile(self, u: Tensor, low: float, high: float) -> Tensor:  # noqa: D102
        return low + (high - low) * u

    def level_density(self, log_ratio: Tensor, low: float, high: float) -> Tensor:  # noqa: D102
        return torch.full_like(log_ratio, 1 / (high - low))


class EDMTimes(LevelTimes):
    """``log σ ~ N(mean, std²)`` with ``σ = σ̂/β``, on any one-sided process (Karras et al. 2022).

    The law is truncated to the levels that the path has between its margins.

    Args:
        mean: of log σ (Karras: -1.2), σ in units of the data.
        std: of log σ (Karras: 1.2), positive.
        margin: see :class:`TimeSampler`.
    """

    def __init__(
        self, mean: float = -1.2, std: float = 1.2, *, margin: float | Margin = 1e-6
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

    def quantile(self, u: Tensor, low: float, high: float) -> Tensor:  # noqa: D102
        first, last = self._mass(low, high)
        z = torch.special.ndtri(first + (last - first) * u)
        log_ratio: Tensor = (self.std * z - self.mean).clamp(low, high)
        return log_ratio

    def level_density(self, log_ratio: Tensor, low: float, high: float) -> Tensor:  # noqa: D102
        first, last = self._mass(low, high)
        z = (log_ratio + self.mean) / self.std
        normal = torch.exp(-0.5 * z.square()) / (self.std * math.sqrt(2 * math.pi))
        return normal / (last - first)


class SigmaTimes(TimeSampler):
    """Uniform over the times of a few noise levels ``σ̂/β = σ_k``: the levels of NCSN, or one.

    Args:
        sigmas: levels in units of the data, positive: one number or several.

    Raises:
        ValueError: if a level is not positive, or, when drawn from, not one of the process.
    """

    _bound: tuple[Process, GridTimes] | None = None

    def __init__(self, sigmas: float | Sequence[float] | Tensor) -> None:
        super().__init__(margin=(0.0, 0.0))
        self.sigmas = torch.as_tensor(sigmas, dtype=torch.float64).reshape(-1)
        if self.sigmas.numel() == 0 or not bool((self.sigmas > 0).all()):
            raise ValueError(f"noise levels must be positive, got {self.sigmas.tolist()}")

    def bind(self, process: Process) -> TimeSampler:  # noqa: D102
        learned = any(True for _ in process.interpolant.parameters())
        if learned or self._bound is None or self._bound[0] is not process:
            self._bound = (process, GridTimes(time_of_sigma(process, self.sigmas).cpu()))
        return self._bound[1]

    def unit(self, n: int, **how: Any) -> Tensor:  # noqa: D102
        raise ValueError(
            "SigmaTimes needs a process to draw times; give it to a loss or to"
            " process.sample(x1, t=...), or bind it: times.bind(process).sample(n)"
        )
