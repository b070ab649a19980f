"""The two-sided families: linear, trigonometric, encoder-decoder; and the mirror.

Formulas of Albergo, Boffi & Vanden-Eijnden (2023), table 2 and sections 3.2 to 3.4. Derivatives
are in closed form (an autodiff pass costs a tenth of a small training step) and tested against
autodiff.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core.signatures import checked
from .._core.tensor import expand_time
from .base import AffineInterpolant
from .gammas import Brownian, Gamma, SineSquared

__all__ = ["EncoderDecoder", "Linear", "Mirror", "Trigonometric"]

_HALF_PI = math.pi / 2
_OWN = SineSquared()


@checked
class Linear(AffineInterpolant):
    """``x_t = (1 - t) x0 + t x1 + γ(t) z``.

    Without a latent and with a Gaussian base this is flow matching (Lipman et al. 2022) and
    rectified flow (Liu et al. 2022).

    Args:
        gamma: latent scale, or None for none.

    Example:
        >>> x0, x1 = torch.zeros(1, 1), torch.full((1, 1), 4.0)
        >>> Linear().mean(torch.tensor(0.25), x0, x1)
        tensor([[1.]])
        >>> Linear(gamma=Brownian()).gamma(torch.tensor(0.5))  # sqrt(t (1 - t))
        tensor(0.5000)
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def beta(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def beta_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return torch.lerp(x0, x1, expand_time(t, x1))

    def mean_dot(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return x1 - x0


@checked
class Trigonometric(AffineInterpolant):
    """``x_t = cos(πt/2) x0 + sin(πt/2) x1 + γ(t) z``, of constant variance for white ends.

    Args:
        gamma: latent scale, or None for none.
        scaled: scale α and β by ``sqrt(1 - γ²)``, which keeps the variance constant with the
            latent too; needs γ < 1.

    Raises:
        ValueError: for ``scaled=True`` without a latent, or with a γ that reaches 1.

    Example:
        >>> path, t = Trigonometric(gamma=Brownian(), scaled=True), torch.linspace(0, 1, 5)
        >>> variance = path.alpha(t) ** 2 + path.beta(t) ** 2 + path.gamma_sq(t)
        >>> torch.allclose(variance, torch.ones(5))
        True
    """

    def __init__(self, gamma: Gamma | None = None, *, scaled: bool = False) -> None:
        super().__init__(gamma)
        self.scaled = scaled
        if scaled:
            if gamma is None:
                raise ValueError("scaled=True scales by sqrt(1 - γ²) and needs a gamma")
            peak = float(gamma.gamma_sq(torch.linspace(0, 1, 1001, dtype=torch.float64)).max())
            if peak >= 1:
                raise ValueError(
                    f"scaled=True needs γ < 1 everywhere, but γ² reaches {peak:.3g};"
                    " use a smaller γ or scaled=False"
                )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(_HALF_PI * t) * self._shrink(t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(_HALF_PI * t) * self._shrink(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        dot = -_HALF_PI * torch.sin(_HALF_PI * t) * self._shrink(t)
        return dot + torch.cos(_HALF_PI * t) * self._shrink_dot(t)

    def beta_dot(self, t: Tensor) -> Tensor:
        dot = _HALF_PI * torch.cos(_HALF_PI * t) * self._shrink(t)
        return dot + torch.sin(_HALF_PI * t) * self._shrink_dot(t)

    def _shrink(self, t: Tensor) -> Tensor | float:
        return (1 - self.gamma_sq(t)).sqrt() if self.scaled else 1.0

    def _shrink_dot(self, t: Tensor) -> Tensor | float:
        if not self.scaled:
            return 0.0
        return -0.5 * self.gamma_sq_dot(t) / (1 - self.gamma_sq(t)).sqrt()

    def config(self) -> dict[str, Any]:
        return {**super().config(), "scaled": self.scaled}


@checked
class EncoderDecoder(AffineInterpolant):
    """Base to pure latent by t = ½, latent to data after it.

    ``α = cos²(πt)`` up to ½ and 0 after, ``β = 0`` up to ½ and ``cos²(πt)`` after,
    ``γ = sin²(πt)``. At t = ½ the state is N(0, γ(½)² Id) whatever the ends: the path encodes ρ0
    into noise and decodes noise into ρ1. Not smooth at ½.

    Args:
        gamma: latent scale, the ``sin²(πt)`` of the paper by default.

    Raises:
        ValueError: without a latent, or with one that vanishes at ½: all paths would meet in one
            point there, and forget where they go.

    Example:
        >>> path, half = EncoderDecoder(), torch.tensor(0.5)
        >>> [round(float(weight(half)), 6) for weight in (path.alpha, path.beta, path.gamma)]
        [0.0, 0.0, 1.0]
    """

    breakpoints = (0.5,)

    def __init__(self, gamma: Gamma | None = _OWN) -> None:
        super().__init__(SineSquared() if gamma is _OWN else gamma)
        half = torch.tensor(0.5, dtype=torch.float64)
        if gamma is None or not float(gamma.gamma_sq(half)) > 1e-12:
            raise ValueError(
                "at t = 1/2 the encoder-decoder is γ(1/2) z and nothing else, so it takes a latent"
                f" that does not vanish there, got gamma={gamma!r}; write EncoderDecoder() for its"
                " own, sin²(πt), or EncoderDecoder(Brownian())"
            )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.where(t <= 0.5, torch.cos(math.pi * t).square(), 0.0)

    def beta(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.5, torch.cos(math.pi * t).square(), 0.0)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.where(t <= 0.5, -math.pi * torch.sin(2 * math.pi * t), 0.0)

    def beta_dot(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.5, -math.pi * torch.sin(2 * math.pi * t), 0.0)


@checked
class Mirror(AffineInterpolant):
    """``x_t = x1 + γ(t) z``: from the data, through noise, to the data.

    Both ends are the data; ``b = -γ γ̇ s``, so the ODE maps each point to itself and it takes the
    noise of the SDE to move (Albergo, Boffi & Vanden-Eijnden 2023, section 3.3).

    Args:
        gamma: latent scale; Brownian with a = 1 by default.

    Example:
        >>> import transportflows as tpf
        >>> field = tpf.oracles.oracle(tpf.Process(Mirror(), shape=(1,)), tpf.Gaussian((1,)))
        >>> ends = tpf.sample(field, start=torch.ones(1, 1), steps=50).x  # by the ODE
        >>> round(float(ends), 2)  # where it began
        1.0
    """

    uses_base: ClassVar[bool] = False

    def __init__(self, gamma: Gamma | None = None) -> None:
        super().__init__(Brownian() if gamma is None else gamma)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def beta_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def mean(self, t: Tensor, x0: Tensor | None, x1: Tensor) -> Tensor:
        return x1

    def mean_dot(self, t: Tensor, x0: Tensor | None, x1: Tensor) -> Tensor:
        return torch.zeros_like(x1)

    def end_errors(self, x0: Tensor, x1: Tensor) -> dict[str, float]:
        return self._latent_end_errors(x1)
