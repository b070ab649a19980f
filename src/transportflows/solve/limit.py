r"""A limit on ε: how much of its noise a step may renew.

Within a step of width h the relaxation draws what is Gaussian in x_t towards its law by the number
``r = |h| ε/σ̂²``, while noise makes up for it. A scheme that takes r for small errs by a share of it
that no number of steps removes where r does not fall with h: at the n-th step from a time where
σ̂ vanishes like a root, or ε grows like a pole, r is about 1/n whatever h is. So

.. math:: \varepsilon \leftarrow \min\big(\varepsilon,\; E \hat\sigma^2 / |h|
          + (\hat\sigma \dot{\hat\sigma})_+\big)

with E the scheme's own limit. The law of every x_t stays what it is, for it is the same for every
ε; the law of a path does not. The second term, where σ̂ grows along the motion, is what a scheme may
take besides: there the velocity spreads the noise at the rate ``σ̂̇/σ̂``, and what the relaxation
takes back of that is no motion at all (a Brownian bridge leaving its start has both infinite, and a
drift that is zero).

Where only a latent is Gaussian in x_t, it vanishes at both ends, and x_t is never noise alone. Then
E is at least 1 and σ̂² the most that it is about the step, ``σ̂² + |h dσ̂²/dt|``: no constant ε up to
that of a Brownian bridge is limited, nor need it be, since ``∫ ε/σ̂ dt`` is finite.

That is so where the score itself is an output, too: data may be narrow in any direction, and then
x_t relaxes at the rate of its noise.

**Out of a point**, where all of σ̂ is to come from noise, too little of it is as bad. With σ̂² = a t
the drift is ``(½ - ε/a) x/t``, and of the variance at t the share ``(h/t)^(2ε/a)`` was drawn in the
first step: nearly all of it where ε is small, and by a drift that is infinite there. So while a
step adds more than a 32nd to σ̂², ε is at least ``σ̂σ̂̇``, for which that drift is zero.

A law of paths is another for every ε. Where it is wanted, give :class:`UnlimitedEpsilon`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core.checks import per_time
from .._core.signatures import checked
from ..gaussian_part import GaussianPart, NoisePart
from .epsilon import EpsilonSchedule, as_epsilon

__all__ = ["LimitedEpsilon", "UnlimitedEpsilon", "limited", "limited_times"]

_LEAVES = 1 / 32  # of σ̂²: what a step out of a point adds to it, up to which any ε will do


class LimitedEpsilon(EpsilonSchedule):
    """An ε that renews no more than a share of the noise in a step, and out of a point no less.

    Args:
        schedule: ε.
        limit: E, above 0: the most of ``|h| ε/σ̂²``; infinite for none.
        growth: whether what σ̂ grows by counts besides; not for schemes that solve the transport
            exactly.
        from_point: whether the solve starts in one point, at t = 0.
    """

    def __init__(
        self,
        schedule: EpsilonSchedule,
        limit: float,
        *,
        growth: bool = False,
        from_point: bool = False,
    ) -> None:
        self.schedule, self.limit = schedule, limit
        self.growth, self.from_point = growth, from_point
        self._most: tuple[Tensor, Tensor] | None = None  # of ε and of ε/σ̂
        self._least: tuple[Tensor, Tensor] | None = None

    @property
    def is_zero(self) -> bool:
        return self.schedule.is_zero

    def bound(self, part: NoisePart, stages: Tensor, widths: Tensor) -> EpsilonSchedule:
        schedule = self.schedule.bound(part, stages, widths)
        if self.limit == math.inf:
            return schedule
        own = LimitedEpsilon(schedule, self.limit, growth=self.growth, from_point=self.from_point)
        t, h = stages.reshape(-1), widths[:, None].expand(stages.shape).reshape(-1).to(stages)
        scale, square = part.scale(t), part.scale_sq(t)
        whole = isinstance(part, GaussianPart)
        rate = (self.limit if whole else max(self.limit, 1.0)) / h.abs()
        most, over = rate * square, rate * scale
        if not whole:
            most = most + rate * h.abs() * part.scale_sq_dot(t).abs()
            over = over + 2 * rate * h.abs() * part.scale_dot(t).abs()
        elif self.growth:
            most = most + (0.5 * h.sign() * part.scale_sq_dot(t)).clamp(min=0)
            over = over + (h.sign() * part.scale_dot(t)).clamp(min=0)
        own._most = most, over
        if self.from_point:
            gain, gain_scale = part.scale_sq_dot(t), part.scale_dot(t)
            leaves = (h * gain >= _LEAVES * square).view(stages.shape).any(1, keepdim=True)
            leaves = leaves.expand(stages.shape).reshape(-1)
            own._least = tuple(  # type: ignore[assignment]
                torch.where(leaves, of, 0.0).clamp(min=0) for of in (0.5 * gain, gain_scale)
            )
        return own

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        name = f"{type(self.schedule).__name__}.value"
        value = per_time(name, self.schedule.value(t, noise_scale), t).to(t)
        return value if self.limit == math.inf else self._between(value, 0)

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        over = self.schedule.over_noise_scale(t, noise_scale)
        return over if self.limit == math.inf else self._between(over, 1)

    def acts(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        """Whether ε is another than it would be, of the shape of t."""
        value = self.schedule.value(t, noise_scale)
        found = ~(value <= self._bound()[0])  # NaN is beyond it
        return found if self._least is None else found | (value < self._least[0])

    def _between(self, value: Tensor, which: int) -> Tensor:
        """ε, or ``ε/σ̂``, within its bounds."""
        kept = torch.fmin(value, self._bound()[which])
        return kept if self._least is None else torch.fmax(kept, self._least[which])

    def _bound(self) -> tuple[Tensor, Tensor]:
        if self._most is None:
            raise ValueError("a limited epsilon depends on a process and a grid: bind it first")
        return self._most


@checked
class UnlimitedEpsilon(LimitedEpsilon):
    """An ε that is never limited: for the law of paths (a bridge's), not only that of each x_t.

    Where the drift b ± ε s is itself finite, as for the bridge of ``Linear(Brownian(a))`` with
    ε = a/2, nothing need be limited. Otherwise take steps short enough for ``h ε/σ̂²`` to be small.

    Args:
        epsilon: a number, a function of time or a schedule.

    Example:
        >>> import transportflows as tpf
        >>> path, base = tpf.Linear(gamma=tpf.Brownian(1.0)), tpf.Gaussian((1,))
        >>> field = tpf.oracles.oracle(tpf.Process(path, base=base), tpf.Gaussian((1,)))
        >>> how = {"steps": 10, "generator": torch.Generator().manual_seed(0)}
        >>> both = [tpf.sample(field, 2, epsilon=e, **how) for e in (0.5, UnlimitedEpsilon(0.5))]
        >>> [solution.limited is None for solution in both]
        [False, True]
    """

    def __init__(self, epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule) -> None:
        self.epsilon = as_epsilon(epsilon)
        super().__init__(self.epsilon, math.inf)


def limited(
    schedules: Sequence[EpsilonSchedule],
    limit: float,
    *,
    growth: bool = False,
    from_point: bool = False,
) -> list[EpsilonSchedule]:
    """Schedules with their limit; those that are zero or unlimited stay as they are."""
    return [
        schedule
        if schedule.is_zero or isinstance(schedule, UnlimitedEpsilon)
        else LimitedEpsilon(schedule, limit, growth=growth, from_point=from_point)
        for schedule in schedules
    ]


def limited_times(
    schedules: Sequence[EpsilonSchedule],
    part: NoisePart,
    stages: Tensor,
    widths: Tensor,
    still: Tensor | None = None,
) -> tuple[tuple[float, float], ...] | None:
    """Stretches of time whose steps have a limited ε, as (first, last); None if none has.

    Args:
        schedules: not yet bound.
        part: the noise in x_t.
        stages: times within the steps, ``(steps, nodes)``.
        widths: of the steps, ``(steps,)``.
        still: steps that are made with ε = 0, ``(steps,)``.
    """
    t = stages.reshape(-1)
    found = torch.zeros_like(widths, dtype=torch.bool) if still is None else still.clone()
    scale = part.scale(t)
    for schedule in schedules:
        own = schedule.bound(part, stages, widths)
        if isinstance(own, LimitedEpsilon):
            acts = own.acts(t, scale)
            found |= acts.view(stages.shape).any(1)
    lows, highs = stages.amin(1).tolist(), stages.amax(1).tolist()
    stretches: list[tuple[float, float]] = []
    last = -2
    for step in found.nonzero().flatten().tolist():
        low, high = lows[step], highs[step]
        if step == last + 1:
            low, high = min(low, stretches[-1][0]), max(high, stretches[-1][1])
            stretches.pop()
        stretches.append((low, high))
        last = step
    return tuple(sorted(stretches)) or None
