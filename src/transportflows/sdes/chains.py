r"""Discrete diffusion chains: forward SDEs with levels.

The chain of DDPM, ``X_k = √(1 - β_k) X_{k-1} + √β_k z`` (Ho et al. 2020, equation 2), is what the
SDE ``dX = -½ r(τ) X dτ + √r(τ) dW`` does at τ = k/T, for every rate r whose integral over
((k-1)/T, k/T] is ``-log(1 - β_k)``: one step of the chain is the transition of the SDE over it.
So a chain is a :class:`ForwardSDE` with levels. What is trained or sampled at its levels is the
chain; between them ``-log ᾱ`` is a monotone cubic, so that schemes of higher order and adaptive
ones may step anywhere.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .._core.precision import as_wide, widest
from .._core.signatures import checked
from .base import ForwardSDE
from .families import check_sigmas

__all__ = ["Chain", "DDPMChain", "VEChain"]


@checked
class Chain(ForwardSDE):
    """A forward SDE with levels k = 0 (data), ..., T (noise) at τ = k/T.

    Attributes:
        levels: T, the number of steps.

    Example:
        >>> DDPMChain(levels=100).times(4)  # from noise to data, each a level
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """

    _generic: ClassVar[bool] = True
    levels: int

    def times(self, steps: int | None = None, *, spacing: str = "uniform") -> Tensor:
        """Times t at levels of the chain, from 0 (noise) to 1 (data): a grid for sampling.

        Args:
            steps: number of steps; all T by default.
            spacing: of the levels visited: ``"uniform"``, or ``"quadratic"`` in k, denser near the
                data (Song, Meng & Ermon 2021, appendix D.2).

        Returns:
            ``(steps + 1,)``, float64: ``sample(field, n, t=chain.times(50), scheme="ddim")``.

        Raises:
            ValueError: if there are more steps than levels.
        """
        steps = self.levels if steps is None else steps
        if not 1 <= steps <= self.levels:
            raise ValueError(
                f"steps must be in 1 .. {self.levels}, the levels of this chain, got {steps}"
            )
        if spacing not in ("uniform", "quadratic"):
            raise ValueError(f"spacing is 'uniform' or 'quadratic', got {spacing!r}")
        power = 1 if spacing == "uniform" else 2
        unit = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** power
        # Distinct levels: each at least its own index, as there are enough of them.
        k = torch.maximum((unit * self.levels).round(), torch.arange(steps + 1))
        return 1 - k.flip(0) / self.levels

    def training_times(self) -> Tensor:
        """The times of the levels 1 .. T, at which a chain is trained: ``GridTimes(...)``."""
        return self.times()[:-1]

    def _more_noise(self) -> str:
        return f"Take more levels than {self.levels}, or larger steps of noise"


@checked
class DDPMChain(Chain):
    r"""The variance-preserving chain of β_1 .. β_T (Ho et al. 2020).

    .. math:: X_k = \sqrt{1 - \beta_k} X_{k-1} + \sqrt{\beta_k}\, z, \qquad
              X_k = \sqrt{\bar\alpha_k}\, x_1 + \sqrt{1 - \bar\alpha_k}\, z

    Args:
        betas: ``"linear"``, from 1e-4 to 0.02 (Ho et al.; scaled by 1000/T, so that any T >= 50
            ends in noise); ``"cosine"`` (Nichol & Dhariwal 2021, equation 17, with s = 0.008 and β
            below 0.999); or a table ``(T,)`` with entries in (0, 1).
        levels: T, for the named tables.

    Attributes:
        betas: β_1 .. β_T, float64.

    Raises:
        ValueError: if a β is not in (0, 1), or there are so few levels that the chain does not
            end in noise.

    Example:
        >>> chain = DDPMChain(torch.tensor([0.5, 0.9]))
        >>> [round(each, 6) for each in chain.alpha_bars.tolist()]  # 1, 1 - β_1, (1 - β_1)(1 - β_2)
        [1.0, 0.5, 0.05]
    """

    betas: Tensor
    _logs: Tensor  # -log ᾱ_k
    _cubic: Tensor  # (4, T): its monotone cubic between levels, highest power first

    def __init__(self, betas: str | Tensor = "linear", levels: int = 1000) -> None:
        super().__init__()
        self.table = betas if isinstance(betas, str) else None
        if isinstance(betas, str):
            betas = _named_table(betas, levels)
        betas = as_wide(betas).detach().cpu().clone()
        if betas.ndim != 1 or betas.numel() < 2:
            raise ValueError(
                f"a chain needs at least 2 levels, β_1 .. β_T; got a table of shape"
                f" {tuple(betas.shape)}"
            )
        bad = ~((betas > 0) & (betas < 1))
        if bool(bad.any()):
            raise ValueError(
                f"β must lie in (0, 1), and β_{int(bad.nonzero()[0]) + 1} is"
                f" {float(betas[bad][0]):g}"
            )
        self.levels = betas.numel()
        self.register_buffer("betas", betas, persistent=False)
        logs = torch.cat([betas.new_zeros(1), -torch.log1p(-betas).cumsum(0)])
        from scipy.interpolate import PchipInterpolator  # it takes half a second

        cubic = PchipInterpolator(np.arange(len(logs)), logs.numpy()).c
        self.register_buffer("_logs", logs, persistent=False)
        self.register_buffer("_cubic", torch.from_numpy(cubic.copy()), persistent=False)
        self.check()

    @property
    def alpha_bars(self) -> Tensor:
        """ᾱ_0 = 1, ᾱ_1 .. ᾱ_T, float64."""
        return torch.exp(-self._logs)

    def _place(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """``B(τ) = -log ᾱ`` and its rate, in float64."""
        place = widest(tau) * self.levels
        below = place.detach().floor().long().clamp(0, self.levels - 1)
        u = place - below
        c3, c2, c1, c0 = self._cubic.to(place)[:, below]
        rate = self.levels * ((3 * c3 * u + 2 * c2) * u + c1)
        return ((c3 * u + c2) * u + c1) * u + c0, rate

    def a(self, tau: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._place(tau)[0]).to(tau.dtype)

    def sigma_sq(self, tau: Tensor) -> Tensor:
        return -torch.expm1(-self._place(tau)[0]).to(tau.dtype)

    def a_dot(self, tau: Tensor) -> Tensor:
        integral, rate = self._place(tau)
        return (-0.5 * rate * torch.exp(-0.5 * integral)).to(tau.dtype)

    def sigma_sq_dot(self, tau: Tensor) -> Tensor:
        integral, rate = self._place(tau)
        return (rate * torch.exp(-integral)).to(tau.dtype)

    def drift_rate(self, tau: Tensor) -> Tensor:
        return (-0.5 * self._place(tau)[1]).to(tau.dtype)

    def diffusion_sq(self, tau: Tensor) -> Tensor:
        return self._place(tau)[1].to(tau.dtype)

    @property
    def prior_scale(self) -> float:
        return 1.0

    def config(self) -> dict[str, Any]:
        if self.table is not None:
            return {"betas": self.table, "levels": self.levels}
        return {"betas": self.betas}


@checked
class VEChain(Chain):
    r"""The variance-exploding chain of σ_1 < ... < σ_T, geometric (Song & Ermon 2019; SMLD).

    .. math:: X_k = X_{k-1} + \sqrt{\sigma_k^2 - \sigma_{k-1}^2}\, z, \qquad
              X_k = x_1 + \sigma_k z, \quad \sigma_0 = 0

    (Song et al. 2021, equation 20). Between levels the variance is geometric, and linear before the
    first.

    Args:
        sigma_min: σ_1, in the units of the data.
        sigma_max: σ_T.
        levels: T.

    Raises:
        ValueError: unless ``0 < sigma_min < sigma_max`` and T >= 2.

    Example:
        >>> [round(sigma, 6) for sigma in VEChain(1.0, 4.0, levels=3).sigmas.tolist()]
        [0.0, 1.0, 2.0, 4.0]
    """

    def __init__(
        self, sigma_min: float = 0.01, sigma_max: float = 50.0, levels: int = 1000
    ) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = check_sigmas(sigma_min, sigma_max)
        if isinstance(levels, bool) or int(levels) != levels or levels < 2:
            raise ValueError(f"a chain needs at least 2 levels, σ_1 .. σ_T; got {levels}")
        self.levels = int(levels)
        self._rate = 2 * math.log(self.sigma_max / self.sigma_min) / (1 - 1 / self.levels)
        self.check()

    @property
    def sigmas(self) -> Tensor:
        """σ_0 = 0, σ_1 .. σ_T, float64."""
        levels = torch.arange(self.levels + 1, dtype=torch.float64) / self.levels
        return self.sigma(levels)

    def _first(self, tau: Tensor) -> Tensor:
        return tau * self.levels < 1

    def a(self, tau: Tensor) -> Tensor:
        return torch.ones_like(tau)

    def sigma_sq(self, tau: Tensor) -> Tensor:
        geometric = torch.exp(self._rate * (tau - 1 / self.levels).clamp(min=0))
        return self.sigma_min**2 * torch.where(self._first(tau), tau * self.levels, geometric)

    def a_dot(self, tau: Tensor) -> Tensor:
        return torch.zeros_like(tau)

    def sigma_sq_dot(self, tau: Tensor) -> Tensor:
        linear = torch.full_like(tau, self.sigma_min**2 * self.levels)
        return torch.where(self._first(tau), linear, self._rate * self.sigma_sq(tau))

    def config(self) -> dict[str, Any]:
        return {
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "levels": self.levels,
        }


def _named_table(name: str, levels: int) -> Tensor:
    if isinstance(levels, bool) or int(levels) != levels or levels < 2:
        raise ValueError(f"a chain needs at least 2 levels, got {levels}")
    if name == "linear":
        scale = 1000 / levels
        table = torch.linspace(1e-4 * scale, 0.02 * scale, int(levels), dtype=torch.float64)
        if float(table[-1]) >= 1:
            raise ValueError(
                f"{levels} levels are too few for the linear table: β_T would be"
                f" {float(table[-1]):g}; take at least 21, or betas='cosine'"
            )
        return table
    if name == "cosine":
        tau = torch.linspace(0, 1, int(levels) + 1, dtype=torch.float64)
        bars = torch.cos((tau + 0.008) / 1.008 * math.pi / 2).square()
        return (1 - bars[1:] / bars[:-1]).clamp(max=0.999)
    raise ValueError(f"betas is 'linear', 'cosine' or a table (T,), got {name!r}")
