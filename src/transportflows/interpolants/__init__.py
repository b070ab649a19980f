"""Interpolants: ``x_t = I(t, x0, x1) + γ(t) z``."""

from .affine import EncoderDecoder, Linear, Mirror, Trigonometric
from .base import AffineInterpolant, Interpolant, OneSided
from .gammas import Brownian, Gamma, Quadratic, Sigmoid, SineSquared
from .one_sided import SBDM, OneSidedLinear, OneSidedTrigonometric

__all__ = [
    "SBDM",
    "AffineInterpolant",
    "Brownian",
    "EncoderDecoder",
    "Gamma",
    "Interpolant",
    "Linear",
    "Mirror",
    "OneSided",
    "OneSidedLinear",
    "OneSidedTrigonometric",
    "Quadratic",
    "Sigmoid",
    "SineSquared",
    "Trigonometric",
]
