r"""Clocks: changes of the time variable in which a velocity is regular at the ends of time.

Where a latent scale has a root at an end of time, such as γ² = a t (1 - t), a velocity has weights
that are infinite there and integrable, such as γ̇ η. By a clock with ``|t - t_end| ~ u²`` near such
an end,

.. math:: \frac{dX}{du} = b(t, X)\, \frac{dt}{du}, \qquad \frac{dt}{du} \sim |t - t_{end}|^{1/2},

and the product is regular: it is integrated up to the end itself, by any scheme and to any
tolerance, without a margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["NEAREST", "Clock"]

NEAREST = 1e-4
"""How near to a root, in u, weights are formed; from there on they are extrapolated.

At a distance of 1e-8 in time σ̂² has lost half of its digits in float64, and so much is what the
extrapolation, linear in u, leaves out."""

_HALF_PI = math.pi / 2


@dataclass(frozen=True)
class Clock:
    """``t = φ(u)`` from [0, 1] onto itself: u, u², 1 - (1 - u)², or sin²(πu/2).

    Attributes:
        first: whether there is a root at t = 0.
        last: whether there is a root at t = 1.
    """

    first: bool = False
    last: bool = False

    def time(self, u: Tensor) -> Tensor:
        """φ(u), of the shape of u."""
        if self.first and self.last:
            return torch.sin(_HALF_PI * u).square()
        if self.first:
            return u.square()
        return 1 - (1 - u).square() if self.last else u

    def rate(self, u: Tensor) -> Tensor:
        """φ'(u), of the shape of u."""
        if self.first and self.last:
            return _HALF_PI * torch.sin(math.pi * u)
        if self.first:
            return 2 * u
        return 2 * (1 - u) if self.last else torch.ones_like(u)

    def of(self, t: float) -> float:
        """The u at which the time is t."""
        if self.first and self.last:
            if t < 0.5:
                return math.asin(math.sqrt(t)) / _HALF_PI
            return 1 - math.asin(math.sqrt(1 - t)) / _HALF_PI
        if self.first:
            return math.sqrt(t)
        return 1 - math.sqrt(1 - t) if self.last else t

    def inside(self, u: Tensor) -> Tensor:
        """The nearest u at which weights can be formed."""
        return u.clamp(NEAREST if self.first else 0.0, 1 - NEAREST if self.last else 1.0)
