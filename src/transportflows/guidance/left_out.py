r"""Where weights no longer look at predictions: learned fields near the ends of time.

An error e of a learned velocity is an error e/σ̂ of its score, so
that the rate holds |e|²/σ̂, whose integral up to t = 1 has no bound, and resampling keeps the states
where e is large. (With exact fields the same terms vanish there.) So where an error of a prediction
is multiplied by more than a bound, in a stretch up to t = 1, predictions are left out of the rate.
There the split is ``A_i = Ā = A``, the motion of the mean scale,

.. math:: A = \dot\alpha m + \frac{\dot\beta}{\beta} (x - \alpha m), \qquad
          b_i = A + \frac{\Delta}{\beta} s_i, \qquad
          \mathrm{rate} = (1 - W)\, d\, \frac{\dot\beta}{\beta}
          + \frac{\Delta}{\beta} \Big( |S|^2 - \sum_i w_i |s_i|^2 \Big) ,

and the second term is dropped: of order σ̂² in all, where p_i is smooth on the scale σ̂/β. (With
the closure split the rate is that of its Gaussians there.) For W = 1 the same is done in a stretch
from t = 0, where the noise prediction is divided by β.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..combination import Combination
from ..gaussian_part import GaussianPart, NoisePart

__all__ = ["Scaling", "left_out"]


@dataclass(frozen=True)
class Scaling:
    """``(1 - W) A`` at a time: a rate of x, and of the base's mean."""

    rate: float
    of_mean: float


def left_out(
    part: NoisePart,
    t: Tensor,
    tables: Sequence[tuple[list[Combination], list[Combination]]],
    most: float,
    missing: float,
) -> list[Scaling | None]:
    """``(1 - W) A`` at the times where predictions are left out, None at the others.

    Args:
        part: the noise in x_t.
        t: times in their order, ``(T,)``, float64.
        tables: of each density the weights of its velocity and of its score at these times.
        most: by how much an error of a prediction may be multiplied.
        missing: ``1 - W``.
    """
    if math.isinf(most) or (missing != 0 and not isinstance(part, GaussianPart)):
        return [None] * len(t)
    of_b, of_s = (
        [max(_loudness(pair[k][i]) for pair in tables) > most for i in range(len(t))]
        for k in (0, 1)
    )
    small = (part.signal(t).abs() > most * part.scale(t)).tolist()
    late = _run([a or b for a, b in zip(of_s, small, strict=True)][::-1])[::-1]
    early = _run([a or b for a, b in zip(of_b, of_s, strict=True)]) if missing == 0 else late
    rate = of_mean = torch.zeros_like(t)
    if isinstance(part, GaussianPart) and missing != 0:
        growth = part.path.beta_dot(t) / part.path.beta(t)
        rate = missing * growth
        of_mean = missing * (part.path.alpha_dot(t) - part.path.alpha(t) * growth)
    found = zip(late, early, rate.tolist(), of_mean.tolist(), strict=True)
    return [Scaling(r, m) if out or also else None for out, also, r, m in found]


def _loudness(weights: Combination) -> float:
    """By how much an error of a prediction is multiplied."""
    return max((abs(w) for w in weights.outputs if w is not None), default=0.0)


def _run(flags: Sequence[bool]) -> list[bool]:
    """The flags up to the first that is not set."""
    return [all(flags[: k + 1]) for k in range(len(flags))]
