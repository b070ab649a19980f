r"""Schedules of the noise level σ and of the step η over a flow.

Both are functions of the flow's clock u, which runs from 0 at the first step to 1 at the last, and
are tabulated in float64 before the loop. σ is a standard deviation, in units of the data; Weber
gives variances γ = σ².

The step is dimensionless where directions are displacements (``Δ = σ² (∇log p_σ - ∇log q_σ)``), and
η = 1 then moves a point from one posterior mean to the other. Its size may be left to the first
step: η is then such that the mean norm of the first displacement is 0.5 (Weber 2023, E.1.1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core.reprs import call

__all__ = [
    "ConstantSigma",
    "ConstantStep",
    "CosineSigma",
    "CosineStep",
    "DiffusionStep",
    "ExponentialSigma",
    "ExponentialStep",
    "ModifiedCosineSigma",
    "SigmaSchedule",
    "StepSchedule",
    "as_sigma",
    "as_step",
]


class SigmaSchedule(ABC):
    """σ as a function of the flow's clock u in [0, 1]."""

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
        values = torch.as_tensor(self.value(clock), dtype=torch.float64).expand(steps)
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


class ConstantSigma(SigmaSchedule):
    """The same σ at all steps.

    Args:
        sigma: its value, > 0.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = _positive("sigma", sigma)

    def value(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.sigma)

    @property
    def constant(self) -> bool:
        return True


class CosineSigma(SigmaSchedule):
    r""":math:`\sigma^2 = \sigma_{min}^2 + (\sigma_{max}^2 - \sigma_{min}^2) (1 + \cos \pi u) / 2`.

    Flat at both ends (after Nichol & Dhariwal 2021).

    Args:
        sigma_max: σ at u = 0.
        sigma_min: σ at u = 1.
    """

    def __init__(self, sigma_max: float, sigma_min: float) -> None:
        self.sigma_max, self.sigma_min = _falling(sigma_max, sigma_min)

    def value(self, u: Tensor) -> Tensor:
        low, high = self.sigma_min**2, self.sigma_max**2
        return (low + (high - low) * 0.5 * (1 + torch.cos(math.pi * u))).sqrt()


class ModifiedCosineSigma(SigmaSchedule):
    r""":math:`\sigma^2 = \sigma_{max}^2 \cos(\pi t / 2)`, t from 0 to :math:`t_{max}` (Weber 2023).

    :math:`t_{max} = \frac2\pi \arccos(\sigma_{min}^2 / \sigma_{max}^2)`, where the variance is
    :math:`\sigma_{min}^2`: flat at first, falling steeply at the end (E.1.1).

    Args:
        sigma_max: σ at u = 0.
        sigma_min: σ at u = 1.
    """

    def __init__(self, sigma_max: float, sigma_min: float) -> None:
        self.sigma_max, self.sigma_min = _falling(sigma_max, sigma_min)

    def value(self, u: Tensor) -> Tensor:
        angle = math.acos(self.sigma_min**2 / self.sigma_max**2)
        return self.sigma_max * torch.cos(angle * u).sqrt()


class ExponentialSigma(SigmaSchedule):
    r""":math:`\sigma = \sigma_{max} (\sigma_{min} / \sigma_{max})^u`: exponential annealing.

    Args:
        sigma_max: σ at u = 0.
        sigma_min: σ at u = 1.
    """

    def __init__(self, sigma_max: float, sigma_min: float) -> None:
        self.sigma_max, self.sigma_min = _falling(sigma_max, sigma_min)

    def value(self, u: Tensor) -> Tensor:
        return self.sigma_max * (self.sigma_min / self.sigma_max) ** u


class _CallableSigma(SigmaSchedule):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def value(self, u: Tensor) -> Tensor:
        return torch.as_tensor(self.function(u), dtype=u.dtype)


class StepSchedule(ABC):
    """η over a flow: a size, and a factor of the clock.

    Args:
        size: η where the factor is 1; None for the automatic first step.
        norm: mean norm of the first displacement, where ``size`` is None.
    """

    def __init__(self, size: float | None = None, *, norm: float = 0.5) -> None:
        self.size = None if size is None else _positive("the size of a step", size)
        self.norm = _positive("norm", norm)

    @abstractmethod
    def factor(self, u: Tensor) -> Tensor:
        """The factor at ``u``, float64."""

    def table(self, sigma: Tensor) -> Tensor:
        """The factor of each step, float64, given the σ of each."""
        return self.factor(torch.linspace(0, 1, len(sigma), dtype=torch.float64))

    def __repr__(self) -> str:
        return call(self)


class ConstantStep(StepSchedule):
    """The same η at all steps, or the automatic one of the first."""

    def factor(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)


class CosineStep(StepSchedule):
    r"""Factor :math:`m + (1 - m) (1 + \cos \pi u) / 2`: from 1 down to m.

    A smaller step averages more draws of the noise, so that the flow settles.

    Args:
        size: see :class:`StepSchedule`.
        floor: m, in [0, 1].
        norm: see :class:`StepSchedule`.
    """

    def __init__(self, size: float | None = None, *, floor: float = 0.0, norm: float = 0.5) -> None:
        super().__init__(size, norm=norm)
        if not 0 <= floor <= 1:
            raise ValueError(f"floor is a part of the first step, in [0, 1], got {floor}")
        self.floor = floor

    def factor(self, u: Tensor) -> Tensor:
        return self.floor + (1 - self.floor) * 0.5 * (1 + torch.cos(math.pi * u))


class ExponentialStep(StepSchedule):
    """Factor ``r^u``: from 1 to r.

    Args:
        size: see :class:`StepSchedule`.
        ratio: r > 0, the last step over the first.
        norm: see :class:`StepSchedule`.
    """

    def __init__(self, size: float | None = None, *, ratio: float = 0.1, norm: float = 0.5) -> None:
        super().__init__(size, norm=norm)
        self.ratio = _positive("ratio", ratio)

    def factor(self, u: Tensor) -> Tensor:
        return torch.tensor(self.ratio, dtype=u.dtype) ** u


class DiffusionStep(StepSchedule):
    r""":math:`\rho_i = 1 - \sigma_{i+1}^2 / \sigma_i^2`: the step of a diffusion's reverse process.

    With a data prediction for p, y itself for q and ``noise="carried"`` the flow then is the
    ancestral sampler (Weber 2023, equations 33 to 35). After the last σ comes 0, so that the last
    step has ρ = 1 and ends on the data prediction.
    """

    def __init__(self) -> None:
        super().__init__(1.0)

    def factor(self, u: Tensor) -> Tensor:
        raise ValueError("the steps of a diffusion are made from sigma; use table(sigma)")

    def table(self, sigma: Tensor) -> Tensor:
        after = torch.cat([sigma[1:], sigma.new_zeros(1)])
        return 1 - (after / sigma).square()


class _CallableStep(StepSchedule):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(1.0)
        self.function = function

    def factor(self, u: Tensor) -> Tensor:
        return torch.as_tensor(self.function(u), dtype=u.dtype).expand(u.shape)


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


def as_step(step: float | Callable[[Tensor], Tensor] | StepSchedule | None) -> StepSchedule:
    """Return a size η, a function of the clock that gives it, or a schedule as a schedule."""
    if isinstance(step, StepSchedule):
        return step
    if step is None or isinstance(step, (int, float)):
        return ConstantStep(step)
    if callable(step) and not isinstance(step, type):
        return _CallableStep(step)
    raise TypeError(
        "step must be a positive number, a function of the clock u, a schedule such as"
        f" CosineStep(0.5), or None for the automatic first step, got {step!r}"
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


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value:g}")
    return float(value)


def _falling(sigma_max: float, sigma_min: float) -> tuple[float, float]:
    high, low = _positive("sigma_max", sigma_max), _positive("sigma_min", sigma_min)
    if not low <= high:
        raise ValueError(
            f"sigma falls from sigma_max to sigma_min, got {high:g} and {low:g}; swap them"
        )
    return high, low
