"""The noise level of a Gaussian part at some times: what weights of losses are functions of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ._core.precision import widest
from ._core.reprs import summary
from ._core.signatures import checked
from .gaussian_part import GaussianPart

__all__ = ["NoiseLevel"]

_TINY = 1e-60
_NEAR = 1e-12


@checked
@dataclass(frozen=True, eq=False)
class NoiseLevel:
    """β, σ̂ and what follows from them at times ``t``, in float64, of the shape of t.

    Times are held 1e-12 away from the ends, so that ratios have their limits there, and what is
    infinite is large.

    Attributes:
        part: the Gaussian part.
        t: times, float64, of any shape.
        dtype: of the times that were given.

    Example:
        >>> import transportflows as tpf
        >>> part = tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part
        >>> level = NoiseLevel.at(part, torch.tensor([0.5, 0.75]))
        >>> [round(snr, 9) for snr in level.snr.tolist()]  # (t/(1 - t))²
        [1.0, 9.0]
    """

    part: GaussianPart
    t: Tensor
    dtype: torch.dtype = torch.float64

    @classmethod
    def at(cls, part: GaussianPart, t: Tensor) -> NoiseLevel:
        """The noise level at times of any shape and dtype."""
        return cls(part, widest(t).clamp(_NEAR, 1 - _NEAR), t.dtype)

    @cached_property
    def beta(self) -> Tensor:
        """β, of either sign, kept above 1e-30 in size."""
        beta, least = self.part.path.beta(self.t), _TINY**0.5
        return torch.where(beta.abs() < least, torch.where(beta < 0, -least, least), beta)

    @cached_property
    def signal(self) -> Tensor:
        """β², what the variance of x1 is multiplied by."""
        return self.beta.square()

    @cached_property
    def scale_sq(self) -> Tensor:
        """σ̂², kept above 1e-60."""
        return self.part.scale_sq(self.t).clamp(min=_TINY)

    @cached_property
    def delta(self) -> Tensor:
        """``Δ = β σ̂² λ̇``."""
        return self.part.delta(self.t, self.beta, self.scale_sq)

    @property
    def snr(self) -> Tensor:
        """``β²/σ̂²``, the signal-to-noise ratio."""
        return self.signal / self.scale_sq

    @property
    def sigma(self) -> Tensor:
        """``σ = σ̂/|β|``, in units of the data."""
        return self.scale_sq.sqrt() / self.beta.abs()

    @property
    def log_ratio(self) -> Tensor:
        """``λ = log(|β|/σ̂)``, half the log-SNR."""
        return self.part.log_ratio(self.t)

    @property
    def rate(self) -> Tensor:
        """``λ̇``, the derivative of ``log(β/σ̂)`` in time."""
        return self.delta / (self.beta * self.scale_sq)

    @property
    def diffusion_sq(self) -> Tensor:
        """``g² = 2 σ̂² λ̇``, of the forward SDE with these marginals."""
        return 2 * self.delta / self.beta

    __repr__ = summary
