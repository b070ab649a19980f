r"""Whether a pool can be a sample of a law: by Kolmogorov's distance, number by number of an event.

Training starts from the pool and sampling from the base. Where these are two laws nothing fails,
and all that is sampled is wrong. Of n and m draws of one law, whichever it is, distribution
functions are further apart than :math:`\sqrt{\tfrac12 \log(2/p)\, (1/n + 1/m)}` with a
probability of about p; of weighted rows n is ``1/Σ w²``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.precision import wide
from .._core.random import stream
from .._core.reprs import brief
from ..distributions import Distribution

__all__ = ["check_sampled_from"]

_SEED, _DRAWS, _NUMBERS = 0x706F6F6C, 4_000, 32
_CHANCE = 1e-12  # of a false refusal, for each number that is looked at
_BLUR = 1e-5  # of the range: what numbers may be off by rounding, also where many are equal


def check_sampled_from(base: Distribution, x0: Tensor, weights: Tensor | None) -> None:
    """Refuse a base of which a pool is no sample.

    Args:
        base: of a process.
        x0: the pool, ``(N, *)``.
        weights: of its rows, of sum 1; None for equal ones.

    Raises:
        ValueError: if the laws are certain to be two.
    """
    random = stream(_SEED, device=x0.device)
    draws = base.sample(_DRAWS, generator=random, dtype=x0.dtype, device=x0.device)
    rows, drawn = (wide(x.detach().flatten(1)).cpu() for x in (x0, draws))
    p = torch.full((len(rows),), 1 / len(rows)).double() if weights is None else weights.cpu()
    each = float(p.square().sum())  # 1/n
    chance = math.sqrt(0.5 * math.log(2 / _CHANCE) * (each + 1 / _DRAWS))
    if chance >= 1:
        return
    count = rows.shape[1]
    for k in range(0, count, -(-count // _NUMBERS)):
        own, order = rows[:, k].sort()
        below = torch.cat([p.new_zeros(1), p[order].cumsum(0)])
        theirs = drawn[:, k].sort().values
        blur = _BLUR * float(own[-1] - own[0] + theirs[-1] - theirs[0])
        under, over, at = (
            torch.searchsorted(values, theirs + shift, right=True)
            for values, shift in ((own, -blur), (own, blur), (theirs, 0.0))
        )
        share = at / _DRAWS
        apart = float(torch.maximum(below[under] - share, share - below[over]).max())
        if apart > chance:
            raise ValueError(
                f"the base is {brief(base)}, and the x0 of the plan are no sample of it: the"
                f" distribution functions of number {k} of an event are {apart:.2g} apart, where"
                f" chance leaves at most {chance:.2g}. Training starts from x0 and sampling from"
                " the base; leave base out, or make the plan of draws of the base,"
                " TransportPlan(base.sample(10_000), x1)"
            )
