r"""The plain split, and where weights no longer look at predictions.

**The plain split.** Where the powers add up to W ≠ 1 the transport is ``v = (1 - W) A + Σ w_i b_i``
with the motion of one Gaussian, of the base's mean and of the variance that x_t has for data of
mean 0 and variance 1, in the units of the field:

.. math:: A = \dot\alpha m + \frac{\dot V}{2 V} (x - \alpha m), \quad V = \hat\sigma^2 + \beta^2,
          \qquad \mathrm{rate} = v \cdot S - \sum_i w_i\, b_i \cdot s_i + (1 - W)\, d\,
          \frac{\dot V}{2 V} .

Without it W velocities would draw the noise together W times as fast as the noise of q_t shrinks,
and weights would have to make up for all of that.

**Learned fields near the ends of time.** An error e of a learned velocity is an error e/σ̂ of its
score, so that the rate holds ``|e|²/σ̂``, whose integral up to t = 1 has no bound, and resampling
keeps the states where e is large. (With exact fields the same terms vanish there: ``b_i - A`` is
``(Δ/β) s_i`` and what is of order σ̂² besides.) So where an error of a prediction is multiplied by
more than a bound, in a stretch up to t = 1, or in one from t = 0, where the noise prediction is
divided by β, ``v·S - Σ w_i b_i·s_i`` is left out of the rate. (With the closure split the rate is
that of its Gaussians there.) What that leaves out of log w is small where the p_i are smooth on the
scale σ̂/β at which it begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..combination import Combination
from ..fields.base import Field
from ..gaussian_part import GaussianPart, NoisePart

__all__ = ["MOST_AMPLIFIED", "Scaling", "amplification", "left_out", "scalings"]

MOST_AMPLIFIED = 20.0
"""Beyond this an error of a learned prediction is all that is seen of it."""


@dataclass(frozen=True)
class Scaling:
    """``(1 - W) A`` at a time: a rate of x, and of the base's mean."""

    rate: float
    of_mean: float


def scalings(part: NoisePart, t: Tensor, missing: float) -> list[Scaling]:
    """The plain split at times ``(T,)``, float64; zero where W = 1, or there is no Gaussian part.

    Args:
        part: the noise in x_t.
        t: times.
        missing: ``1 - W``.
    """
    if missing == 0 or not isinstance(part, GaussianPart):
        return [Scaling(0.0, 0.0)] * len(t)
    path = part.path
    variance = part.scale_sq(t) + path.beta(t).square()
    rate = (0.5 * part.scale_sq_dot(t) + path.beta(t) * path.beta_dot(t)) / variance
    of_mean = path.alpha_dot(t) - path.alpha(t) * rate
    found = zip((missing * rate).tolist(), (missing * of_mean).tolist(), strict=True)
    return [Scaling(*pair) for pair in found]


def left_out(
    part: NoisePart,
    t: Tensor,
    tables: Sequence[tuple[list[Combination], list[Combination]]],
    most: float,
    missing: float,
) -> list[bool]:
    """Whether predictions are left out of the rate at times.

    Args:
        part: the noise in x_t.
        t: times in their order, ``(T,)``, float64.
        tables: of each density the weights of its velocity and of its score at these times.
        most: by how much an error of a prediction may be multiplied.
        missing: ``1 - W``.
    """
    if math.isinf(most) or (missing != 0 and not isinstance(part, GaussianPart)):
        return [False] * len(t)
    of_b, of_s = (
        [max(_loudness(pair[k][i]) for pair in tables) > most for i in range(len(t))]
        for k in (0, 1)
    )
    small = (part.signal(t).abs() > most * part.scale(t)).tolist()
    late = _run([a or b for a, b in zip(of_s, small, strict=True)][::-1])[::-1]
    early = _run([a or b for a, b in zip(of_b, of_s, strict=True)])
    return [a or b for a, b in zip(late, early, strict=True)]


def amplification(field: Field, target: str, t: Tensor) -> Tensor:
    """By how much errors of a field's predictions are multiplied in a quantity, of the shape of t.

    That of a score is taken for ``1/σ̂`` of the others'. 0 for a field without networks.
    """
    found = torch.zeros_like(t)
    if not field.networks:
        return found
    scale = field.process.noise_part.scale(t).clamp(min=1e-12)
    for name, weight in zip(field.outputs, field.weights(target, t).outputs, strict=True):
        if weight is not None:
            size = weight.abs() / scale if name == "score" else weight.abs()
            found = torch.maximum(found, size)
    return found


def _loudness(weights: Combination) -> float:
    """By how much an error of a prediction is multiplied."""
    return max((abs(w) for w in weights.outputs if w is not None), default=0.0)


def _run(flags: Sequence[bool]) -> list[bool]:
    """The flags up to the first that is not set."""
    return [all(flags[: k + 1]) for k in range(len(flags))]
