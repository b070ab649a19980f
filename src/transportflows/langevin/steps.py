"""One step of Langevin dynamics, and the steppers of chains: unadjusted and Metropolis-adjusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.checks import number
from .._core.random import stream
from .._core.signatures import checked
from .._core.tensor import expand_time, sum_events
from ..solve.noise import NoiseSource
from ..solve.rows import Chunks
from ..solve.stepper import Prepared, Stepper
from .scores import LogProbScore, ScoreFunction, check_log_prob, check_score

__all__ = ["Chain", "LangevinSteps", "MetropolisSteps", "UnadjustedSteps", "langevin_step"]

_TARGET = 0.574
"""The acceptance rate at which MALA mixes fastest in high dimension (Roberts & Rosenthal 1998)."""


@checked
def langevin_step(
    x: Tensor,
    score: Tensor,
    step_size: float | Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    r"""One Langevin step, ``x + h s + √(2hT) z``; a new tensor, differentiable.

    Song & Ermon's (2019) α is ``2 step_size``; Song et al.'s (2021) ε is ``step_size``.

    Args:
        x: states, ``(B, *)``.
        score: ``s(x)``, of the shape of x.
        step_size: h > 0: a number, a tensor ``()``, or one a row, ``(B,)``.
        noise: z, standard normal, of the shape of x.
        temperature: T ≥ 0; 0 is a step of gradient ascent.

    Example:
        >>> x = torch.tensor([[1.0, -1.0]])
        >>> langevin_step(x, -x, 0.5, torch.ones_like(x))
        tensor([[1.5000, 0.5000]])
    """
    number("temperature", temperature, "a number ≥ 0", least=0)
    if isinstance(step_size, Tensor):
        h = expand_time(step_size, x)
        return torch.addcmul(torch.addcmul(x, h, score), (2 * temperature * h).sqrt(), noise)
    number("step_size", step_size, "a number ≥ 0", least=0)
    moved = torch.add(x, score, alpha=step_size)
    return torch.add(moved, noise, alpha=math.sqrt(2 * temperature * step_size))


class LangevinSteps(Stepper):
    """Steps of all rows at once, each with a standard normal of their shape."""

    whole = True

    def prepare(self, times: Tensor, like: Tensor) -> Prepared:
        return Prepared(noisy=True)

    def draw(
        self, prepared: Prepared, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        return noise.increment(step, 0.0, 1.0, area=False)[:1]


class UnadjustedSteps(LangevinSteps):
    """Langevin steps that are all taken; nothing is remembered.

    Args:
        score: ``s(x, **cond)``.
        step_size: h, a number or one a row, ``(n,)``.
        temperature: T.
    """

    name = "langevin"

    def __init__(self, score: ScoreFunction, step_size: float | Tensor, temperature: float) -> None:
        self.score, self.step_size, self.temperature = score, step_size, temperature

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: None, rows: Chunks, draws: Any
    ) -> tuple[Tensor, None]:
        s = check_score(rows.map(self.score, x), x)
        return langevin_step(x, s, self.step_size, *draws, temperature=self.temperature), None


@dataclass(frozen=True, eq=False)
class Chain:
    """What a Metropolis-adjusted chain remembers.

    Attributes:
        value: log-density of the current states, ``(n,)``.
        slope: their scores, ``(n, *)``.
        step_size: h, ``()`` or ``(n,)``.
        accepted: proposals that each row accepted after the warm-up, ``(n,)``.
    """

    value: Tensor
    slope: Tensor
    step_size: float | Tensor
    accepted: Tensor


class MetropolisSteps(LangevinSteps):
    """Langevin steps as proposals, which each row takes or refuses by Metropolis and Hastings.

    Args:
        score: ``s(x, **cond)``.
        log_prob: the log-density; None where the score brings it.
        step_size: h at the start, a number or one a row, ``(n,)``.
        temperature: T.
        warmup: first steps, in which h is tuned.
        key: of the acceptances.
    """

    name, remembers = "mala", True

    def __init__(
        self,
        score: ScoreFunction,
        log_prob: Callable[..., Tensor] | None,
        step_size: float | Tensor,
        temperature: float,
        warmup: int,
        key: int,
    ) -> None:
        self.evaluate = _both(score, log_prob)
        self.step_size, self.temperature = step_size, temperature
        self.warmup, self.key = warmup, key

    def prepare(self, times: Tensor, like: Tensor) -> Prepared:
        return Prepared(noisy=True, before=1)

    def memory(self, prepared: Prepared, x: Tensor, rows: Chunks) -> Chain:
        value, slope = rows.map(self.evaluate, x)
        bad = ~torch.isfinite(value)
        if bool(bad.any()):
            raise ValueError(
                f"log_prob is not finite at {int(bad.sum())} of {len(x)} starting states (first:"
                f" row {int(bad.nonzero()[0])}); a chain must start where the density is positive"
            )
        return Chain(value, slope, self.step_size, x.new_zeros(len(x)))

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: Chain, rows: Chunks, draws: Any
    ) -> tuple[Tensor, Chain]:
        """Propose, and accept or keep; a proposal at which anything is NaN is refused."""
        h, (z,) = memory.step_size, draws
        size = expand_time(h, x) if isinstance(h, Tensor) else h
        proposal = langevin_step(x, memory.slope, h, z, temperature=self.temperature)
        value, slope = rows.map(self.evaluate, proposal)
        # log q(x' | x) = -|z|²/2; the way back needs the z that leads from x' to x.
        back = (x - proposal - size * slope) / (2 * self.temperature * size) ** 0.5
        log_ratio = (value - memory.value) / self.temperature
        log_ratio = log_ratio + 0.5 * sum_events(z.square() - back.square())
        own = stream(self.key, 1, step, device=x.device)
        uniform = torch.rand(len(x), generator=own, dtype=x.dtype, device=x.device)
        moved = uniform.log() < log_ratio
        accepted = memory.accepted
        if step < self.warmup:
            gain = (step + 1) ** -0.6
            h = h * torch.exp(gain * (moved.to(x.dtype).mean() - _TARGET))
        else:
            accepted = accepted + moved
        wide = expand_time(moved, x)
        return torch.where(wide, proposal, x), Chain(
            torch.where(moved, value, memory.value),
            torch.where(wide, slope, memory.slope),
            h,
            accepted,
        )


def _both(
    score: ScoreFunction, log_prob: Callable[..., Tensor] | None
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Log-density and score of a chunk of rows."""
    if log_prob is None:
        if not isinstance(score, LogProbScore):
            raise ValueError(
                "metropolis=True needs the log-density: give log_prob=, or"
                " score=score_of(log_prob); from a score alone only metropolis=False is possible"
            )
        return score.with_value
    density = log_prob
    return lambda x, **cond: (
        check_log_prob(density(x, **cond), x),
        check_score(score(x, **cond), x),
    )
