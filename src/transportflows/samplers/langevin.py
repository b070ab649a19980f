r"""Langevin dynamics: samples of a law from its score alone.

The overdamped Langevin equation ``dX = s(X) dt + √(2T) dW``, with ``s = ∇ log p``, leaves
``p^{1/T}`` invariant, p itself at temperature T = 1. Its Euler-Maruyama step of size h is

.. math:: x' = x + h\, s(x) + \sqrt{2 h T}\, z, \quad z \sim N(0, \mathrm{Id}).

*Conventions.* h is the step of Rakitin's (1), ``γ`` there, and of Song et al.'s (2021) algorithms
4 and 5, ``ε`` there. Song & Ermon (2019) write ``x + (α/2) s + √α z``: their α is 2h.

*Bias.* The step is not exact: the law that it leaves invariant is off by O(h). On N(0, v) it is
``x' = (1 - h/v) x + √(2h) z``, so the stationary variance V obeys ``V = (1 - h/v)² V + 2h``:

.. math:: V = \frac{v}{1 - h / (2 v)},

and the chain is stable only for ``h < 2v``. In general h must stay below 2/L, with L the largest
curvature of log p. The Metropolis-adjusted chain (MALA: Roberts & Tweedie 1996) takes the step as
a proposal and accepts it with probability ``min(1, p(x') q(x | x') / (p(x) q(x' | x)))``, which
leaves p invariant for every h; it needs the log-density too.

*Mixing.* What an exact chain does not do is to cross: between separated modes it passes at a rate
that falls exponentially with the barrier, so that for any affordable number of steps the modes
keep the weights that the start gave them. :func:`annealed_langevin` is the cure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._checks import check_finite_rows
from .._random import draw_key, mix
from .._tensor import expand_time, sum_events
from .curvature import diverged
from .noise import Increments
from .scores import ChunkedRows, LogProbScore, ScoreFunction, check_log_prob
from .solution import Solution

__all__ = ["LangevinSolution", "langevin", "langevin_step"]

_TARGET = 0.574
"""The acceptance rate at which MALA mixes fastest in high dimension (Roberts & Rosenthal 1998)."""


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


@dataclass(frozen=True)
class LangevinSolution(Solution):
    """Where chains are, and how they got there.

    ``t`` and ``saved_at`` count steps; ``nfe`` counts evaluations of the score.

    Attributes:
        step_size: h of the last step, ``()`` or ``(n,)``: what was given, or what the warm-up
            made of it.
        acceptance: share of the proposals that each chain accepted after the warm-up, ``(n,)``;
            all ones for the unadjusted chain.
    """

    step_size: Tensor | None = None
    acceptance: Tensor | None = None


@torch.no_grad()
def langevin(
    score: ScoreFunction,
    x: Tensor,
    *,
    step_size: float | Tensor,
    steps: int,
    metropolis: bool = False,
    log_prob: Callable[..., Tensor] | None = None,
    temperature: float = 1.0,
    warmup: int = 0,
    save_at: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> LangevinSolution:
    r"""Run one Langevin chain from each row of x: unadjusted, or Metropolis-adjusted (MALA).

    Unadjusted, the law is off by O(h) and h must be below 2/L. Adjusted, ``p^{1/T}`` is left
    invariant at any h; each row accepts or keeps by itself.

    Args:
        score: ``s(x, **cond)``: any callable, ``score_at(field, t)`` for a field or an oracle,
            ``score_of(log_prob)`` for a log-density.
        x: starting states, ``(n, *)``. Not changed.
        step_size: h > 0, a number or one a row, ``(n,)``.
        steps: number of steps.
        metropolis: accept or refuse each step by Metropolis and Hastings' rule.
        log_prob: the log-density, ``(n, *)`` to ``(n,)``, up to a constant; for ``metropolis``
            only, and there not needed where ``score`` comes from :func:`score_of`.
        temperature: T > 0; the law sampled is ``p^{1/T}``.
        warmup: first steps, of ``steps``, in which MALA's step sizes are all multiplied by one
            factor until 57 % of all proposals are accepted (Robbins & Monro). The chain is not
            exact while they change; what follows is.
        save_at: numbers of steps after which to save the states, in 0 .. steps, such as
            ``range(100, 1001, 10)``.
        cond: conditions for the score; tensors of n rows go with their rows.
        chunk: rows in one call of the score; all at once if None.
        progress: show a progress bar.
        generator: source of randomness; one key is drawn from it, and noise is a function of
            (key, step), whatever the chunk.

    Raises:
        NonFiniteStateError: if a state stops being finite: at which step, and which step size
            the score's curvature allows.
        ValueError: for a step size or a temperature that is not positive, ``metropolis`` without
            a log-density, and so on.

    Example:
        >>> import transportflows as tpf
        >>> target = tpf.score_of(lambda x: -x.abs().pow(3).sum(1))
        >>> generator = torch.Generator().manual_seed(0)
        >>> run = langevin(target, torch.zeros(500, 2), step_size=0.3, steps=50, metropolis=True,
        ...                generator=generator)
        >>> run.x.shape, bool(run.acceptance.mean() > 0.5)
        (torch.Size([500, 2]), True)
    """
    check_finite_rows(x, "x")
    steps = check_steps(steps)
    size = as_step_size(step_size, x)
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"temperature must be finite and > 0, got {temperature}; for temperature 0 use ascend"
        )
    if isinstance(warmup, bool) or int(warmup) != warmup or not 0 <= warmup < steps:
        raise ValueError(f"warmup must be a number of steps in 0 .. {steps - 1}, got {warmup}")
    if warmup and not metropolis:
        raise ValueError(
            "warmup tunes the acceptance rate, which the unadjusted chain has not; give"
            " metropolis=True"
        )
    if log_prob is not None and not metropolis:
        raise ValueError("log_prob is for metropolis=True; leave it out, or ask for metropolis")
    saved = check_save_at(save_at, steps)

    key = draw_key(generator)
    source = Increments()
    source.begin(mix(key, 0), x, 0.0)
    rows = ChunkedRows(x, chunk, cond)
    state, finite = x.clone(), torch.ones(steps, dtype=torch.bool, device=x.device)
    trajectory = {0: state} if 0 in saved else {}
    chain = _Metropolis(score, log_prob, rows, state, temperature, key) if metropolis else None
    h: float | Tensor = float(size) if size.ndim == 0 and not warmup else size.to(x)
    for k in tqdm(range(steps), disable=None if progress else True, desc="langevin"):
        z, _ = source.increment(k, 0.0, 1.0, area=False)
        if chain is None:
            s = check_score(rows.map(score, state), state)
            state = langevin_step(state, s, h, z, temperature=temperature)
        else:
            state, accepted = chain.step(k, state, h, z)
            if k < warmup:
                gain = (k + 1) ** -0.6
                h = h * torch.exp(gain * (accepted.to(x.dtype).mean() - _TARGET))
            else:
                chain.accepted += accepted
        finite[k] = torch.isfinite(state).all()
        if k + 1 in saved:
            trajectory[k + 1] = state

    counts = torch.arange(steps + 1, dtype=torch.float64)
    solution = LangevinSolution(
        x=state,
        t=counts,
        nfe=steps + metropolis,
        scheme="mala" if metropolis else "langevin",
        trajectory=torch.stack([trajectory[k] for k in saved]) if saved else None,
        saved_at=counts[saved] if saved else None,
        first_bad_step=None if bool(finite.all()) else int((~finite).nonzero()[0]),
        step_size=torch.as_tensor(h, dtype=torch.float64, device=x.device),
        acceptance=x.new_ones(len(x)) if chain is None else chain.accepted / (steps - warmup),
    )
    if solution.first_bad_step is not None:
        raise diverged("Langevin steps", score, x, solution, rows, size, temperature)
    return solution


class _Metropolis:
    """Metropolis-adjusted steps: what is known of the current states, and who accepted."""

    def __init__(
        self,
        score: ScoreFunction,
        log_prob: Callable[..., Tensor] | None,
        rows: ChunkedRows,
        x: Tensor,
        temperature: float,
        key: int,
    ) -> None:
        self.rows, self.temperature, self.key = rows, temperature, key
        self.evaluate = _both(score, log_prob)
        self.generator = torch.Generator(x.device)
        self.accepted = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        self.value, self.slope = rows.map_pair(self.evaluate, x)
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
        size = expand_time(torch.as_tensor(h, dtype=x.dtype, device=x.device), x)
        proposal = langevin_step(x, self.slope, h, z, temperature=self.temperature)
        value, slope = self.rows.map_pair(self.evaluate, proposal)
        # log q(x' | x) = -|z|²/2; the way back needs the z that leads from x' to x.
        back = (x - proposal - size * slope) / (2 * self.temperature * size).sqrt()
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


def check_score(s: Any, x: Tensor) -> Tensor:
    """Refuse a score that has not the shape of its states."""
    if not isinstance(s, Tensor) or s.shape != x.shape:
        got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise ValueError(
            f"the score must have the shape of x, {tuple(x.shape)}, and it gave {got}; a field is"
            " given as score_at(field, t), a log-density as score_of(log_prob)"
        )
    return s


# ----------------------------------------------------------------------------------- refusals


def check_steps(steps: int) -> int:
    """Refuse a number of steps that is not a positive integer."""
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps}")
    return int(steps)


def as_step_size(step_size: float | Tensor, x: Tensor) -> Tensor:
    """The step size as float64, ``()`` or ``(n,)``, or refuse it."""
    size = torch.as_tensor(step_size, dtype=torch.float64, device=x.device).detach()
    if size.shape not in (torch.Size(()), x.shape[:1]):
        raise ValueError(
            f"step_size must be a number or one a row, ({x.shape[0]},), got shape"
            f" {tuple(size.shape)}"
        )
    good = torch.isfinite(size) & (size > 0)
    if not bool(good.all()):
        raise ValueError(
            f"step_size must be finite and > 0, got {float(size[~good].reshape(-1)[0])}"
        )
    return size


def check_save_at(save_at: Sequence[int] | None, steps: int) -> list[int]:
    """The steps to save after, or refuse them."""
    saved = [] if save_at is None else [int(k) for k in save_at]
    outside = [k for k in saved if not 0 <= k <= steps]
    if outside or (save_at is not None and saved != [float(k) for k in save_at]):
        raise ValueError(
            f"save_at holds numbers of steps in 0 .. {steps}, got {list(save_at or [])}"
        )
    return saved
