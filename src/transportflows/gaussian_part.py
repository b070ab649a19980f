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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .process import Process

__all__ = ["NoiseLevel", "check_monotone", "time_of_sigma"]

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


def bisect(process: Process, log_ratio: Tensor, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Times in [start, stop] at which ``λ(t)`` has the values given, by bisection in float64."""
    low, high = torch.full_like(log_ratio, start), torch.full_like(log_ratio, stop)
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
