r"""Schedules of the noise level σ over a flow.

They are functions of the flow's clock u, which runs from 0 at the first step to 1 at the last, and
are tabulated in float64 before the loop. σ is a standard deviation, in units of the data; Weber
gives variances γ = σ².
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core.checks import per_time, positive_number
from .._core.precision import as_wide
from .._core.reprs import call
from .._core.signatures import checked

__all__ = [
    "ConstantSigma",
    "CosineSigma",
    "ExponentialSigma",
    "ModifiedCosineSigma",
    "SigmaSchedule",
    "as_sigma",
    "as_sigmas",
]


@checked
class SigmaSchedule(ABC):
    """σ as a function of the flow's clock u in [0, 1].

    Example:
        >>> class Halving(SigmaSchedule):
        ...     def value(self, u):
        ...         return 2.0 ** -u
        >>> Halving().table(3)
        tensor([1.0000, 0.7071, 0.5000], dtype=torch.float64)
    """

    @abstractmethod
    def value(self, u: Tensor) -> Tensor:
        """σ at ``u``, float64, of any shape."""

    @property
    def constant(self) -> bool:
        """Whether σ is the same at all times."""
        return False

    def table(self, steps: int) -> Tensor:
        """σ of each of some steps, the first at u = 0 and the last at u = 1, float64 ``(steps,)``.

        Raises:
            ValueError: if one of them is not positive and finite.
        """
        clock = torch.linspace(0, 1, steps, dtype=torch.float64)
        values = as_wide(self.value(clock)).expand(steps)
        bad = ~(values.isfinite() & (values > 0))
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            raise ValueError(
                f"sigma must be positive and finite, and is {float(values[first]):g} at u ="
                f" {float(clock[first]):g}; end it at a positive level, near the distance of"
                " nearest neighbours"
            )
        return values

    def __repr__(self) -> str:
        return call(self)


@checked
class ConstantSigma(SigmaSchedule):
    """The same σ at all steps.

    Args:
        sigma: its value, > 0.

    Example:
        >>> ConstantSigma(0.5).table(3)
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = positive_number("sigma", sigma)

    def value(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.sigma)

    @property
    def constant(self) -> bool:
        return True


@checked
class CosineSigma(SigmaSchedule):
    r""":math:`\sigma^2 = \sigma_{min}^2 + (\sigma_{max}^2 - \sigma_{min}^2) (1 + \cos \pi u) / 2`.

    Flat at both ends (after Nichol & Dhariwal 2021).

    Args:
        sigma_max: σ at u = 0.
        sigma_min: σ at u = 1.

    Example:
        >>> CosineSigma(5.0, 1.0).table(3).square().round(decimals=4)  # 25, (25 + 1)/2, 1
        tensor([25., 13.,  1.], dtype=torch.float64)
    """

    def __init__(self, sigma_max: float, sigma_min: float) -> None:
        self.sigma_max, self.sigma_min = _falling(sigma_max, sigma_min)

    def value(self, u: Tensor) -> Tensor:
        low, high = self.sigma_min**2, self.sigma_max**2
        return (low + (high - low) * 0.5 * (1 + torch.cos(math.pi * u))).sqrt()


@checked
class ModifiedCosineSigma(SigmaSchedule):
    r""":math:`\sigma^2 = \sigma_{max}^2 \cos(\pi t / 2)`, t from 0 to :math:`t_{max}` (Weber 2023).

    :math:`t_{max} = \frac2\pi \arccos(\sigma_{min}^2 / \sigma_{max}^2)`, where the variance is
    :math:`\sigma_{min}^2`: flat at first, falling steeply at the end (E.1.1).

    Args:
        sigma_max: σ at u = 0.
        sigma_min: σ at u = 1.

    Example:
        >>> sigma = ModifiedCosineSigma(2.0, 2**0.5).table(3)
        >>> sigma.square()  # 4 cos(0), 4 cos(π/6), 4 cos(π/3)
        tensor([4.0000, 3.4641, 2.0000], dtype=torch.float64)
    """

    def __init__(self, sigma_max: float, sigma_min: float) -> None:
        self.sigma_max, self.sigma_min = _falling(sigma_max, sigma_min)

    def value(self, u: Tensor) -> Tensor:
        angle = math.acos(self.sigma_min**2 / self.sigma_max**2)
        return self.sigma_max * torch.cos(angle * u).sqrt()


@checked
class ExponentialSigma(SigmaSchedule):
    r""":math:`\sigma = \sigma_{max} (\sigma_{min} / \sigma_{max})^u`: exponential annealing.

    Args:
        sigma_max: σ at u = 0.
        sigma_min: σ at u = 1.

    Source: the geometric levels of Song and Ermon (2019).

    Example:
        >>> ExponentialSigma(4.0, 1.0).table(3)
        tensor([4., 2., 1.], dtype=torch.float64)
    """

    def __init__(self, sigma_max: float, sigma_min: float) -> None:
        self.sigma_max, self.sigma_min = _falling(sigma_max, sigma_min)

    def value(self, u: Tensor) -> Tensor:
        return self.sigma_max * (self.sigma_min / self.sigma_max) ** u


class _CallableSigma(SigmaSchedule):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def value(self, u: Tensor) -> Tensor:
        return per_time("sigma(u)", self.function(u), u).to(u).expand(u.shape)


def as_sigma(sigma: float | Callable[[Tensor], Tensor] | SigmaSchedule) -> SigmaSchedule:
    """Return a number, a function of the clock (float64 tensor) or a schedule as a schedule."""
    if isinstance(sigma, SigmaSchedule):
        return sigma
    if isinstance(sigma, (int, float)) or getattr(sigma, "ndim", None) == 0:
        return ConstantSigma(float(sigma))  # type: ignore[arg-type]
    if callable(sigma) and not isinstance(sigma, type):
        return _CallableSigma(sigma)
    raise TypeError(
        "sigma must be a positive number, a function of the clock u or a schedule such as"
        f" CosineSigma(2.0, 0.5), got {sigma!r}"
    )


def as_sigmas(
    sigma: float | Sequence[float] | Callable[[Tensor], Tensor] | SigmaSchedule,
) -> list[SigmaSchedule]:
    """Return one level of noise, or several, as schedules."""
    if isinstance(sigma, (list, tuple)):
        if not sigma:
            raise ValueError("there is no sigma in the sequence; give at least one")
        return [as_sigma(one) for one in sigma]
    return [as_sigma(sigma)]  # type: ignore[arg-type]


def _falling(sigma_max: float, sigma_min: float) -> tuple[float, float]:
    high, low = positive_number("sigma_max", sigma_max), positive_number("sigma_min", sigma_min)
    if not low <= high:
        raise ValueError(
            f"sigma falls from sigma_max to sigma_min, got {high:g} and {low:g}; swap them"
        )
    return high, low
