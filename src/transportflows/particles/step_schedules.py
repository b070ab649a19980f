r"""Schedules of the step η over a flow.

They are functions of the flow's clock u, as those of σ are. The step is dimensionless where
directions are displacements (``Δ = σ² (∇log p_σ - ∇log q_σ)``), and η = 1 then moves a point from
one posterior mean to the other. Its size may be left to the first step: η is then such that the
mean norm of the first displacement is 0.5 (Weber 2023, E.1.1).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from .._core.built import Built
from .._core.checks import per_time, positive_number
from .._core.reprs import call
from .._core.signatures import checked

__all__ = [
    "ConstantStep",
    "CosineStep",
    "DiffusionStep",
    "ExponentialStep",
    "StepSchedule",
    "as_step",
]


@checked
class StepSchedule(Built, ABC):
    """η over a flow: a size, and a factor of the clock.

    Args:
        size: η where the factor is 1; None for the automatic first step.
        norm: mean norm of the first displacement, where ``size`` is None.

    Example:
        >>> class Falling(StepSchedule):
        ...     def factor(self, u):
        ...         return 1 - u
        >>> Falling(0.5).table(torch.ones(3))
        tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """

    _sets: ClassVar[tuple[str, ...]] = ("size", "norm")

    def __init__(self, size: float | None = None, *, norm: float = 0.5) -> None:
        self.size = None if size is None else positive_number("the size of a step", size)
        self.norm = positive_number("norm", norm)

    @abstractmethod
    def factor(self, u: Tensor) -> Tensor:
        """The factor at ``u``, of its shape, float64."""

    def table(self, sigma: Tensor) -> Tensor:
        """The factor of each step, ``(steps,)``, float64, given the σ of each."""
        return self.factor(torch.linspace(0, 1, len(sigma), dtype=torch.float64))

    def __repr__(self) -> str:
        return call(self)


@checked
class ConstantStep(StepSchedule):
    """The same η at all steps, or the automatic one of the first.

    Example:
        >>> import transportflows as tpf
        >>> y, x = torch.zeros(2, 1), torch.ones(2, 1)
        >>> moved = tpf.particle_flow(y, x, steps=2, sigma=1.0, step=ConstantStep(0.5)).x
        >>> moved.flatten()  # each step goes half of the way that is left
        tensor([0.7500, 0.7500])
    """

    def factor(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)


@checked
class CosineStep(StepSchedule):
    r"""Factor :math:`m + (1 - m) (1 + \cos \pi u) / 2`: from 1 down to m.

    A smaller step averages more draws of the noise, so that the flow settles.

    Args:
        size: see :class:`StepSchedule`.
        floor: m, in [0, 1].
        norm: see :class:`StepSchedule`.

    Raises:
        ValueError: if the floor is not in [0, 1].

    Source: the factor is that of Loshchilov and Hutter (2017) for learning rates.

    Example:
        >>> CosineStep(0.5, floor=0.1).factor(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.5500, 0.1000])
    """

    def __init__(self, size: float | None = None, *, floor: float = 0.0, norm: float = 0.5) -> None:
        super().__init__(size, norm=norm)
        if not 0 <= floor <= 1:
            raise ValueError(f"floor is a part of the first step, in [0, 1], got {floor}")
        self.floor = floor

    def factor(self, u: Tensor) -> Tensor:
        return self.floor + (1 - self.floor) * 0.5 * (1 + torch.cos(math.pi * u))


@checked
class ExponentialStep(StepSchedule):
    """Factor ``r^u``: from 1 to r.

    Args:
        size: see :class:`StepSchedule`.
        ratio: r > 0, the last step over the first.
        norm: see :class:`StepSchedule`.

    Example:
        >>> ExponentialStep(0.5, ratio=0.01).factor(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.1000, 0.0100])
    """

    def __init__(self, size: float | None = None, *, ratio: float = 0.1, norm: float = 0.5) -> None:
        super().__init__(size, norm=norm)
        self.ratio = positive_number("ratio", ratio)

    def factor(self, u: Tensor) -> Tensor:
        return torch.tensor(self.ratio, dtype=u.dtype) ** u


@checked
class DiffusionStep(StepSchedule):
    r""":math:`\rho_i = 1 - \sigma_{i+1}^2 / \sigma_i^2`: the step of a diffusion's reverse process.

    With a data prediction for p, y itself for q and ``noise="carried"`` the flow then is the
    ancestral sampler (Weber 2023, equations 33 to 35). After the last σ comes 0, so that the last
    step has ρ = 1 and ends on the data prediction.

    Example:
        >>> DiffusionStep().table(torch.tensor([2.0, 1.0, 0.5]))  # 1 - 1/4, 1 - 1/4, 1
        tensor([0.7500, 0.7500, 1.0000])
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
        return per_time("step(u)", self.function(u), u).to(u).expand(u.shape)


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
