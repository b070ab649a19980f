r"""The process: an interpolant, a base and a coupling, which together are the law of ``x_t``.

.. math:: x_t = I(t, x_0, x_1) + \gamma(t) z, \quad (x_0, x_1) \sim \text{coupling}, \;
          z \sim N(0, \mathrm{Id})

It draws training samples, and it knows the *Gaussian part* of ``x_t``: where x0 is N(m, σ0² Id)
and independent of x1, or does not enter the path, ``x_t = α m + β x1 + σ̂ ẑ`` with
``σ̂² = α² σ0² + γ²`` and ẑ standard normal. There every field (velocity, score, noise, data) can
be had from every other. With another base or a dependent coupling only γ z is Gaussian, σ̂ = γ,
and a velocity and a score are two fields to learn.
"""

from .law import Process

__all__ = ["Process"]
