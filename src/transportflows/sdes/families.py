"""The forward SDEs of Song et al. (2021): variance exploding, variance preserving, sub-VP.

Marginals and coefficients are in closed form, and tested against each other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core.checks import number
from .._core.signatures import checked
from .base import ForwardSDE

__all__ = ["VE", "VP", "OrnsteinUhlenbeck", "SubVP"]


@checked
class VE(ForwardSDE):
    r"""Variance exploding: ``a = 1``, ``σ = σ_min (σ_max/σ_min)^τ``.

    .. math:: dX = \sigma(\tau) \sqrt{2 \log(\sigma_{max}/\sigma_{min})}\, dW

    (Song et al. 2021, equation 30; NCSN as its levels become dense). The initial variance is
    σ(0)² = σ_min²: samples are of the data smoothed by σ_min. The prior is ``N(0, σ_max² Id)``.

    Args:
        sigma_min: σ(0), in the units of the data, positive.
        sigma_max: σ(1), above ``10 sigma_min``, and of the size of the data's diameter or more.

    Raises:
        ValueError: unless ``0 < sigma_min < sigma_max``.

    Example:
        >>> [round(s, 4) for s in VE(0.01, 100.0).sigma(torch.tensor([0.0, 0.5, 1.0])).tolist()]
        [0.01, 1.0, 100.0]
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = check_sigmas(sigma_min, sigma_max)
        self._log_ratio = math.log(self.sigma_max / self.sigma_min)

    def a(self, tau: Tensor) -> Tensor:
        return torch.ones_like(tau)

    def sigma(self, tau: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * tau)

    def sigma_sq(self, tau: Tensor) -> Tensor:
        return self.sigma_min**2 * torch.exp(2 * self._log_ratio * tau)

    def a_dot(self, tau: Tensor) -> Tensor:
        return torch.zeros_like(tau)

    def sigma_sq_dot(self, tau: Tensor) -> Tensor:
        return 2 * self._log_ratio * self.sigma_sq(tau)

    def drift_rate(self, tau: Tensor) -> Tensor:
        return torch.zeros_like(tau)

    def diffusion_sq(self, tau: Tensor) -> Tensor:
        return 2 * self._log_ratio * self.sigma_sq(tau)

    def _more_noise(self) -> str:
        return "Raise sigma_max to the diameter of the data, at least 2"

    def config(self) -> dict[str, Any]:
        return {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}


@checked
class VP(ForwardSDE):
    r"""Variance preserving: ``a² = e^{-B}``, ``σ² = 1 - e^{-B}``, ``B(τ) = ∫_0^τ β``.

    .. math:: dX = -\tfrac12 \beta(\tau) X\, d\tau + \sqrt{\beta(\tau)}\, dW, \qquad
              \beta(\tau) = \beta_{min} + \tau (\beta_{max} - \beta_{min})

    (Song et al. 2021, equation 32; DDPM as its levels become dense). The prior is ``N(0, Id)``. σ̇
    is infinite at τ = 0.

    Args:
        beta_min: β(0), per unit of τ, not negative.
        beta_max: β(1), not below ``beta_min``.

    Raises:
        ValueError: if a β is negative, or so small that the data are still seen at τ = 1.

    Example:
        >>> sde, end = VP(), torch.tensor(1.0, dtype=torch.float64)
        >>> round(float(sde.a(end).log()), 4)  # -B(1)/2, with B(1) = (0.1 + 20)/2
        -5.025
        >>> round(float(sde.a(end) ** 2 + sde.sigma_sq(end)), 12)
        1.0
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        beta_min, beta_max = number("beta_min", beta_min), number("beta_max", beta_max)
        if not (0 <= beta_min <= beta_max and beta_max > 0):
            raise ValueError(
                f"β must not be negative nor fall: got beta_min = {beta_min}, beta_max ="
                f" {beta_max}; Song et al. take 0.1 and 20"
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def _rate_integral(self, tau: Tensor) -> Tensor:
        """``B(τ) = ∫_0^τ β``."""
        return tau * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * tau)

    def diffusion_sq(self, tau: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * tau

    def drift_rate(self, tau: Tensor) -> Tensor:
        return -0.5 * VP.diffusion_sq(self, tau)  # β, of which other diffusions are made too

    def a(self, tau: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._rate_integral(tau))

    def sigma_sq(self, tau: Tensor) -> Tensor:
        return -torch.expm1(-self._rate_integral(tau))

    def a_dot(self, tau: Tensor) -> Tensor:
        return self.drift_rate(tau) * self.a(tau)

    def sigma_sq_dot(self, tau: Tensor) -> Tensor:
        return -2 * self.drift_rate(tau) * torch.exp(-self._rate_integral(tau))

    @property
    def prior_scale(self) -> float:
        return 1.0

    def _more_noise(self) -> str:
        return "Raise beta_max (the integral of β over [0, 1] should be 10 or so)"

    def config(self) -> dict[str, Any]:
        return {"beta_min": self.beta_min, "beta_max": self.beta_max}


@checked
class OrnsteinUhlenbeck(VP):
    r"""``dX = -½ β X dτ + √β dW`` with constant β: ``a = e^{-βτ/2}``.

    In its own time ``s = β τ / 2`` it is ``dX = -X ds + √2 dW`` up to ``s = β/2``.

    Args:
        beta: β, positive; e^{-β/2} is what is left of the data at τ = 1.

    Raises:
        ValueError: if β is not positive, or so small that the data are still seen at τ = 1.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(OrnsteinUhlenbeck(10.0), shape=(1,))
        >>> field = tpf.oracles.oracle(process, tpf.Gaussian((1,)))  # data of the stationary law
        >>> field.velocity(torch.tensor(0.5), torch.ones(1, 1)).abs() < 1e-6  # which does not move
        tensor([[True]])
    """

    def __init__(self, beta: float = 10.0) -> None:
        super().__init__(beta, beta)
        self.beta_constant = float(beta)

    def _more_noise(self) -> str:
        return "Raise beta to 10 or so"

    def config(self) -> dict[str, Any]:
        return {"beta": self.beta_constant}


@checked
class SubVP(VP):
    r"""Sub-VP: the a of :class:`VP`, ``σ = 1 - e^{-B}``, of smaller variance at every time.

    .. math:: dX = -\tfrac12 \beta(\tau) X\, d\tau
              + \sqrt{\beta(\tau) (1 - e^{-2 B(\tau)})}\, dW

    (Song et al. 2021, equation 34). The prior is ``N(0, Id)``; σ̇ is finite at τ = 0.

    Args:
        beta_min: see :class:`VP`.
        beta_max: see :class:`VP`.

    Raises:
        ValueError: as :class:`VP`.

    Example:
        >>> tau = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
        >>> torch.allclose(SubVP().sigma(tau), VP().sigma_sq(tau))  # VP's variance
        True
    """

    # As VP's, and named: else, with a diffusion_sq of its own, a would be found by quadrature.
    a, a_dot, drift_rate = VP.a, VP.a_dot, VP.drift_rate

    def sigma(self, tau: Tensor) -> Tensor:
        return -torch.expm1(-self._rate_integral(tau))

    def sigma_sq(self, tau: Tensor) -> Tensor:
        return self.sigma(tau).square()

    def sigma_sq_dot(self, tau: Tensor) -> Tensor:
        integral = self._rate_integral(tau)
        return -2 * torch.expm1(-integral) * VP.diffusion_sq(self, tau) * torch.exp(-integral)

    def diffusion_sq(self, tau: Tensor) -> Tensor:
        return -VP.diffusion_sq(self, tau) * torch.expm1(-2 * self._rate_integral(tau))


def check_sigmas(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """Refuse scales that are not ``0 < sigma_min < sigma_max``."""
    sigma_min, sigma_max = number("sigma_min", sigma_min), number("sigma_max", sigma_max)
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"sigma_min must be positive and below sigma_max, got {sigma_min} and {sigma_max};"
            " sigma_min is what smoothing of the data you accept (0.01 of their scale, say),"
            " sigma_max their diameter"
        )
    return sigma_min, sigma_max
