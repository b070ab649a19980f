r"""How a state moves from s to t where one prediction stays as it is, and what that is divided by.

With a Gaussian part, ``x_s = α_s m + β_s d + σ̂_s η̂``. A prediction d that is kept on the way gives

.. math:: X = \frac{\hat\sigma_t}{\hat\sigma_s} x
          + \Big(\alpha_t - \alpha_s \frac{\hat\sigma_t}{\hat\sigma_s}\Big) m
          + \Big(\beta_t - \beta_s \frac{\hat\sigma_t}{\hat\sigma_s}\Big) d ,

and one of the noise gives the same with β and σ̂ in each other's place. (A step of DDIM: Song, Meng
and Ermon 2021, equation 12.) From these the mean velocity between s and t is
``v_{s,t} = (X - x)/(t - s)``; where s = t it is the conversion to a velocity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.tensor import expand_time
from ..combination import Combination
from ..conversions import conversion
from ..gaussian_part import GaussianPart

__all__ = ["average_weights", "moved"]

_NEAR = 1e-6  # a difference of times, below which a quotient of differences loses its digits


def average_weights(part: GaussianPart, prediction: str, s: Tensor, t: Tensor) -> Combination:
    """Weights of x, m and a prediction in ``v_{s,t}``, of the shape of the times; float64.

    Args:
        part: of the process.
        prediction: ``"data"`` or ``"noise"``.
        s: time of x.
        t: time to go to.
    """
    path = part.path
    by = (part.scale, path.beta) if prediction == "data" else (path.beta, part.scale)
    kept, other = by
    ratio = kept(t) / kept(s)
    gap = t - s
    near = gap.abs() < _NEAR
    safe = torch.where(near, 1.0, gap)
    mean = None
    if part.base_mean is not None:
        mean = (path.alpha(t) - path.alpha(s) * ratio) / safe
    quotient = Combination((ratio - 1) / safe, mean, ((other(t) - other(s) * ratio) / safe,))
    limit = conversion(part, (prediction,), "velocity", 0.5 * (s + t))
    return limit.where(near, quotient)


def moved(s: Tensor, t: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """``x + (t - s) v``, and x itself where s = t, though v be infinite there."""
    gap = expand_time((t - s).to(x), x)
    return torch.where(gap == 0, x, x + gap * v)
