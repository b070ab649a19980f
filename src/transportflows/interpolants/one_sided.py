"""The one-sided families ``x_t = β(t) x1 + γ(t) z``, whose latent is the base.

Formulas of Albergo, Boffi & Vanden-Eijnden (2023), section 5.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.signatures import checked
from .base import OneSided

__all__ = ["SBDM", "OneSidedLinear", "OneSidedTrigonometric"]

_HALF_PI = math.pi / 2


@checked
class OneSidedLinear(OneSided):
    """``x_t = t x1 + (1 - t) z``: flow matching from a standard normal.

    Example:
        >>> path, t = OneSidedLinear(), torch.tensor(0.75)
        >>> path.gamma(t) / path.beta(t)  # the noise level σ, in units of the data: 0.25/0.75
        tensor(0.3333)
    """

    def beta(self, t: Tensor) -> Tensor:
        return t

    def beta_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gamma_sq(self, t: Tensor) -> Tensor:
        return (1 - t).square()

    def gamma(self, t: Tensor) -> Tensor:
        return 1 - t

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        return -2 * (1 - t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


@checked
class OneSidedTrigonometric(OneSided):
    """``x_t = sin(πt/2) x1 + cos(πt/2) z``: variance preserving on white data.

    Example:
        >>> path, t = OneSidedTrigonometric(), torch.linspace(0, 1, 5)
        >>> torch.allclose(path.beta(t) ** 2 + path.gamma(t) ** 2, torch.ones(5))
        True
    """

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(_HALF_PI * t)

    def beta_dot(self, t: Tensor) -> Tensor:
        return _HALF_PI * torch.cos(_HALF_PI * t)

    def gamma_sq(self, t: Tensor) -> Tensor:
        return self.gamma(t).square()

    def gamma(self, t: Tensor) -> Tensor:
        return torch.cos(_HALF_PI * t)

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        return -_HALF_PI * torch.sin(math.pi * t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        return -_HALF_PI * torch.sin(_HALF_PI * t)


@checked
class SBDM(OneSided):
    """``x_t = t x1 + sqrt(1 - t²) z``: score-based diffusion on the unit interval.

    It is the Ornstein-Uhlenbeck process of variance-preserving diffusion with ``t = exp(-s)`` for
    its time s in [0, ∞), so nothing is cut off (Albergo, Boffi & Vanden-Eijnden 2023, section
    5.1). γ̇ is infinite at t = 1.

    Example:
        >>> path, t = SBDM(), torch.tensor(0.6)
        >>> path.gamma(t), path.gamma_dot(t)  # 0.6² + 0.8² = 1, and -t/γ
        (tensor(0.8000), tensor(-0.7500))
    """

    def beta(self, t: Tensor) -> Tensor:
        return t

    def beta_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gamma_sq(self, t: Tensor) -> Tensor:
        return (1 - t) * (1 + t)

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        return -2 * t

    def gamma_dot(self, t: Tensor) -> Tensor:
        return -t / self.gamma(t)
