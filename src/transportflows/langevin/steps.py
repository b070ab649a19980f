"""One step of Langevin dynamics, and its Metropolis adjustment."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.random import mix
from .._core.tensor import expand_time, sum_events
from ..solve.rows import Chunks
from .scores import LogProbScore, ScoreFunction, check_log_prob, check_score

__all__ = ["MetropolisSteps", "langevin_step"]


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
    if isinstance(step_size, Tensor):
        h = expand_time(step_size, x)
        return torch.addcmul(torch.addcmul(x, h, score), (2 * temperature * h).sqrt(), noise)
    moved = torch.add(x, score, alpha=step_size)
    return torch.add(moved, noise, alpha=math.sqrt(2 * temperature * step_size))


class MetropolisSteps:
    """Metropolis-adjusted steps: what is known of the current states, and who accepted."""

    def __init__(
        self,
        score: ScoreFunction,
        log_prob: Callable[..., Tensor] | None,
        rows: Chunks,
        x: Tensor,
        temperature: float,
        key: int,
    ) -> None:
        self.rows, self.temperature, self.key = rows, temperature, key
        self.evaluate = _both(score, log_prob)
        self.generator = torch.Generator(x.device)
        self.accepted = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        self.value, self.slope = rows.map(self.evaluate, x)
        bad = ~torch.isfinite(self.value)
        if bool(bad.any()):
            raise ValueError(
                f"log_prob is not finite at {int(bad.sum())} of {len(x)} starting states (first:"
                f" row {int(bad.nonzero()[0])}); a chain must start where the density is positive"
            )

    def step(self, k: int, x: Tensor, h: float | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The next states, and which chains moved, ``(n,)``.

        A proposal at which anything is NaN is refused.
        """
        size = expand_time(h, x) if isinstance(h, Tensor) else h
        proposal = langevin_step(x, self.slope, h, z, temperature=self.temperature)
        value, slope = self.rows.map(self.evaluate, proposal)
        # log q(x' | x) = -|z|²/2; the way back needs the z that leads from x' to x.
        back = (x - proposal - size * slope) / (2 * self.temperature * size) ** 0.5
        log_ratio = (value - self.value) / self.temperature
        log_ratio = log_ratio + 0.5 * sum_events(z.square() - back.square())
        self.generator.manual_seed(mix(self.key, 1, k))
        uniform = torch.rand(len(x), generator=self.generator, dtype=x.dtype, device=x.device)
        moved = uniform.log() < log_ratio
        wide = expand_time(moved, x)
        self.value = torch.where(moved, value, self.value)
        self.slope = torch.where(wide, slope, self.slope)
        return torch.where(wide, proposal, x), moved


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
