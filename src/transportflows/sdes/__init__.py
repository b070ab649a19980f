r"""Forward diffusions, in τ = 1 - t: data at τ = 0, noise at τ = 1.

A forward SDE with a linear drift,

.. math:: dX = f(\tau) X\, d\tau + g(\tau)\, dW, \qquad X_0 = x_1 + \sigma(0) z,

has Gaussian transitions, so that ``X_τ = a(τ) x1 + σ(τ) z`` with

.. math:: \dot a = f a, \quad (\sigma^2)^\cdot = 2 f \sigma^2 + g^2
   \qquad\Longleftrightarrow\qquad
   f = \dot a / a, \quad g^2 = 2 \sigma\dot\sigma - 2 (\dot a / a)\, \sigma^2

(Song et al. 2021, appendix B; Karras et al. 2022, appendix B). Read backward in time that is a
one-sided interpolant with ``β(t) = a(1 - t)`` and ``γ(t) = σ(1 - t)``, and this is what a
:class:`ForwardSDE` is: every process, loss, sampler and oracle takes it. Its reverse SDE (Anderson
1982) is the sampling SDE with ``ε = g²/2`` (:class:`AndersonEpsilon`), its probability flow the one
with ε = 0. This package is the only place where τ is written.

A discrete chain is a forward SDE with levels: :class:`DDPMChain`, :class:`VEChain`.
"""

from .base import ForwardSDE
from .chains import Chain, DDPMChain, VEChain
from .families import VE, VP, OrnsteinUhlenbeck, SubVP
from .reversal import InterpolantSDE

__all__ = [
    "VE",
    "VP",
    "Chain",
    "DDPMChain",
    "ForwardSDE",
    "InterpolantSDE",
    "OrnsteinUhlenbeck",
    "SubVP",
    "VEChain",
]
