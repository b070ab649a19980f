r"""Interpolants: the path from a base sample to a data sample.

A stochastic interpolant between ρ0 and ρ1 is

.. math:: x_t = I(t, x_0, x_1) + \gamma(t)\, z, \qquad z \sim N(0, \mathrm{Id}),

with ``I(0) = x0``, ``I(1) = x1`` and ``γ(0) = γ(1) = 0`` (Albergo, Boffi & Vanden-Eijnden 2023).
The law ρ_t of ``x_t`` solves a transport equation with velocity ``b = E[∂t I + γ̇ z | x_t]``, and
its score is ``s = -E[z | x_t] / γ``. An interpolant here is only the path: no law, no network.

Three ways to write one, from the most common to the most general:

- :class:`AffineInterpolant`: write ``alpha`` and ``beta``, of ``I = α(t) x0 + β(t) x1``;
- :class:`OneSided`: write ``beta`` and ``gamma_sq``, of ``x_t = β(t) x1 + γ(t) z``, whose latent z
  is the base;
- :class:`Interpolant`: write ``mean``, any ``I(t, x0, x1)``.

Derivatives come from forward-mode autodiff wherever a subclass gives none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core.autodiff import time_derivative
from .._core.signatures import checked
from .._core.tensor import expand_time
from .gammas import Gamma, LatentScale

__all__ = ["AffineInterpolant", "Interpolant", "OneSided"]


@checked
class Interpolant(LatentScale, ABC):
    r"""A path :math:`x_t = I(t, x_0, x_1) + \gamma(t) z`.

    A subclass writes ``mean`` and, if it has a latent, ``gamma_sq`` (or ``gamma``), or takes a
    composable γ by ``super().__init__(gamma=...)``.

    Parameters inside an interpolant receive gradients from every loss. Minimising a regression
    loss over them is rarely what you want: the velocity loss then shrinks the *irreducible*
    variance of ẋ, and collapses a path that can collapse. They make sense under an objective of
    their own, such as the transport cost ``E|b|²`` of the max-min problem of Albergo &
    Vanden-Eijnden (2022, section 3), or a validation metric of the samples.

    Args:
        gamma: a composable latent scale, or None for none.

    Attributes:
        breakpoints: times inside (0, 1) where the path is not smooth, those of its γ among them;
            time grids include them, and steps on either side see their own side.
        uses_base: whether x0 enters the path. Where it does not (one-sided, mirror), the latent
            is the only source of noise and x0 may be None.
        affine: whether ``I = α(t) x0 + β(t) x1``.

    Raises:
        TypeError: if ``gamma`` is no :class:`Gamma`.

    Example:
        >>> class Arc(Interpolant):  # not straight from x0 to x1, but a detour of one unit
        ...     def mean(self, t, x0, x1): return (1 - t) * x0 + t * x1 + torch.sin(torch.pi * t)
        >>> Arc().mean_dot(torch.tensor([0.0]), torch.zeros(1, 1), torch.ones(1, 1))  # x1 - x0 + π
        tensor([[4.1416]])
    """

    _generic: ClassVar[bool] = True
    _sets: ClassVar[tuple[str, ...]] = ("latent",)
    breakpoints: tuple[float, ...] = ()
    uses_base: ClassVar[bool] = True
    affine: ClassVar[bool] = False

    def __init__(self, gamma: Gamma | None = None) -> None:
        super().__init__()
        if gamma is not None and not isinstance(gamma, Gamma):
            raise TypeError(
                f"gamma must be a Gamma such as Brownian(), got {type(gamma).__name__};"
                " for your own γ subclass Gamma and write gamma_sq(t)"
            )
        self.latent = gamma
        if gamma is not None and gamma.breakpoints:
            self.breakpoints = tuple(sorted({*self.breakpoints, *gamma.breakpoints}))

    def _writes(self, method: str) -> bool:
        written = getattr(type(self), method)
        return written not in (getattr(Interpolant, method), getattr(LatentScale, method))

    @property
    def has_latent(self) -> bool:
        """Whether the path has a latent z at all."""
        return self.latent is not None or self._writes("gamma_sq") or self._writes("gamma")

    @abstractmethod
    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """``I(t, x0, x1)``, of the shape ``(B, *)`` of x1.

        The library calls it with a ``t`` that broadcasts against ``x1``: ``()`` or ``(B, 1, ...)``.
        """

    def mean_dot(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """``∂t I(t, x0, x1)``, ``(B, *)``; by forward-mode autodiff unless overridden."""
        return time_derivative(
            lambda s: self.mean(expand_time(s, x1), x0, x1), t.expand(x1.shape[0])
        )

    def gamma_sq(self, t: Tensor) -> Tensor:
        if self._writes("gamma"):
            return self.gamma(t).square()
        return torch.zeros_like(t) if self.latent is None else self.latent.gamma_sq(t)

    def gamma(self, t: Tensor) -> Tensor:
        if self.latent is not None and not self._writes("gamma_sq"):
            return self.latent.gamma(t)
        return super().gamma(t)

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        if not self.has_latent:
            return torch.zeros_like(t)
        if self._writes("gamma_sq") or self._writes("gamma") or self.latent is None:
            return super().gamma_sq_dot(t)
        return self.latent.gamma_sq_dot(t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        if not self.has_latent:
            return torch.zeros_like(t)
        if self._writes("gamma"):
            return time_derivative(self.gamma, t)
        if self._writes("gamma_sq") or self.latent is None:
            return super().gamma_dot(t)
        return self.latent.gamma_dot(t)

    def gamma_slope_sq(self, t: Tensor) -> Tensor:
        if not self.has_latent:
            return torch.zeros_like(t)
        if self._writes("gamma_sq") or self._writes("gamma") or self.latent is None:
            return super().gamma_slope_sq(t)
        return self.latent.gamma_slope_sq(t)

    def end_errors(self, x0: Tensor, x1: Tensor) -> dict[str, float]:
        """Distances of the path's ends from x0 and x1, ``(B, *)``: all zero for a right path."""
        zero, one = x1.new_zeros(()), x1.new_ones(())
        first, last = self.mean(zero, x0, x1), self.mean(one, x0, x1)
        return {
            "I(0, x0, x1) - x0": float((first - x0).abs().max()),
            "I(1, x0, x1) - x1": float((last - x1).abs().max()),
            **self._latent_end_errors(x1),
        }

    def _latent_end_errors(self, like: Tensor) -> dict[str, float]:
        zero, one = like.new_zeros(()), like.new_ones(())
        return {
            "γ²(0)": abs(float(self.gamma_sq(zero))),
            "γ²(1)": abs(float(self.gamma_sq(one))),
        }

    def config(self) -> dict[str, Any]:
        return {} if self.latent is None else {"gamma": self.latent}


@checked
class AffineInterpolant(Interpolant):
    r"""A path :math:`x_t = \alpha(t) x_0 + \beta(t) x_1 + \gamma(t) z`.

    A subclass writes ``alpha`` and ``beta``, element by element on a tensor of times, with
    ``α(0) = β(1) = 1`` and ``α(1) = β(0) = 0``, and perhaps ``gamma_sq`` (or ``gamma``).
    Where α has a root (``sqrt(1 - t)``), override ``alpha_sq`` too, without it.

    Source: Albergo, Boffi and Vanden-Eijnden (2023).

    Example:
        >>> class Power(AffineInterpolant):
        ...     def alpha(self, t): return 1 - t**3
        ...     def beta(self, t): return t**3
        >>> Power().beta_dot(torch.tensor(0.5))
        tensor(0.7500)
    """

    _generic: ClassVar[bool] = True
    affine: ClassVar[bool] = True

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """α(t), the coefficient of x0, of the shape of ``t``."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """β(t), the coefficient of x1, of the shape of ``t``."""

    def alpha_dot(self, t: Tensor) -> Tensor:
        """α̇(t), of the shape of t; by autodiff unless overridden."""
        return time_derivative(self.alpha, t)

    def beta_dot(self, t: Tensor) -> Tensor:
        """β̇(t), of the shape of t; by autodiff unless overridden."""
        return time_derivative(self.beta, t)

    def alpha_sq(self, t: Tensor) -> Tensor:
        """α²(t), of the shape of t; override it without a root where α̇ is infinite."""
        return self.alpha(t).square()

    def alpha_sq_dot(self, t: Tensor) -> Tensor:
        """The derivative of α² at ``t``, ``2 α α̇``, of the shape of t."""
        if type(self).alpha_sq is AffineInterpolant.alpha_sq:
            return 2 * self.alpha(t) * self.alpha_dot(t)
        return time_derivative(self.alpha_sq, t)

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        a, b = expand_time(self.alpha(t), x1), expand_time(self.beta(t), x1)
        return torch.addcmul(a * x0, b, x1)

    def mean_dot(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        a, b = expand_time(self.alpha_dot(t), x1), expand_time(self.beta_dot(t), x1)
        return torch.addcmul(a * x0, b, x1)

    def end_errors(self, x0: Tensor, x1: Tensor) -> dict[str, float]:
        zero, one = x1.new_zeros(()), x1.new_ones(())
        return {
            "α(0) - 1": abs(float(self.alpha(zero)) - 1),
            "β(0)": abs(float(self.beta(zero))),
            "α(1)": abs(float(self.alpha(one))),
            "β(1) - 1": abs(float(self.beta(one)) - 1),
            **self._latent_end_errors(x1),
        }


@checked
class OneSided(AffineInterpolant):
    r"""A path :math:`x_t = \beta(t) x_1 + \gamma(t) z` whose latent z is the base (α ≡ 0).

    A subclass writes ``beta`` and ``gamma_sq`` (or ``gamma``). The law at t = 0 is
    ``N(0, γ(0)²)`` when β(0) = 0. Every diffusion model is such a path read from the other end of
    time (Albergo, Boffi & Vanden-Eijnden 2023, section 5.1).

    Example:
        >>> class Root(OneSided):
        ...     def beta(self, t): return t
        ...     def gamma_sq(self, t): return 4 * (1 - t)
        >>> Root().prior_scale, Root().gamma_dot(torch.tensor(0.75))  # 2 sqrt(1 - t) and its slope
        (2.0, tensor(-2.))
    """

    _generic: ClassVar[bool] = True
    uses_base: ClassVar[bool] = False

    @property
    def prior_scale(self) -> float:
        """``|γ(0)|``, the scale of the Gaussian from which sampling starts."""
        with torch.no_grad():
            return abs(float(self.gamma(torch.zeros((), dtype=torch.float64))))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def mean(self, t: Tensor, x0: Tensor | None, x1: Tensor) -> Tensor:
        return expand_time(self.beta(t), x1) * x1

    def mean_dot(self, t: Tensor, x0: Tensor | None, x1: Tensor) -> Tensor:
        return expand_time(self.beta_dot(t), x1) * x1

    def end_errors(self, x0: Tensor, x1: Tensor) -> dict[str, float]:
        zero, one = x1.new_zeros(()), x1.new_ones(())
        start, end = float(self.gamma_sq(zero)), float(self.gamma_sq(one))
        return {
            "β(1) - 1": abs(float(self.beta(one)) - 1),
            "γ²(1) / γ²(0), over 1 %": max(end / start - 0.01, 0.0) if start > 0 else 1.0,
            "|β(0)| / γ(0), over 10 %": max(abs(float(self.beta(zero))) / start**0.5 - 0.1, 0.0)
            if start > 0
            else 1.0,
        }
