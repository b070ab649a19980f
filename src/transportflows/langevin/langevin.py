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

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_finite_rows, positive_integer, step_numbers
from .._core.precision import table_device
from .._core.random import draw_key, mix
from .._core.reprs import summary
from .._core.signatures import checked
from ..solve.hooks import Hooks
from ..solve.loop import march
from ..solve.solution import Solution, check_hooks_finite
from ..solve.stepper import Stepper
from .curvature import diverged
from .scores import ScoreFunction, check_callable_score
from .steps import MetropolisSteps, UnadjustedSteps

__all__ = ["LangevinSolution", "langevin"]


@checked
@dataclass(frozen=True, repr=False)
class LangevinSolution(Solution):
    """Where chains are, and how they got there.

    ``t`` and ``saved_at`` count steps; ``nfe`` counts evaluations of the score.

    Attributes:
        step_size: h of the last step, ``()`` or ``(n,)``: what was given, or what the warm-up
            made of it.
        acceptance: share of the proposals that each chain accepted after the warm-up, ``(n,)``;
            all ones for the unadjusted chain, NaN if a hook ended the chain in the warm-up.

    Example:
        >>> x = torch.zeros(3, 1)
        >>> run = langevin(lambda x: -x, x, step_size=0.1, steps=20, save_at=(10, 20))
        >>> run.nfe, run.acceptance, run.trajectory.shape
        (20, tensor([1., 1., 1.]), torch.Size([2, 3, 1]))
    """

    step_size: Tensor | None = None
    acceptance: Tensor | None = None

    __repr__ = summary


@checked
@torch.no_grad()
def langevin(
    score: ScoreFunction,
    x: DataLike,
    *,
    step_size: float | Tensor,
    steps: int,
    metropolis: bool = False,
    log_prob: Callable[..., Tensor] | None = None,
    temperature: float = 1.0,
    warmup: int = 0,
    save_at: Sequence[int] | None = None,
    cond: Mapping[str, Any] | None = None,
    hooks: Hooks = (),
    chunk: int | None = None,
    max_nfe: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> LangevinSolution:
    r"""Run one Langevin chain from each row of x: unadjusted, or Metropolis-adjusted (MALA).

    Unadjusted, the law is off by O(h) and h must be below 2/L. Adjusted, ``p^{1/T}`` is left
    invariant at any h; each row accepts or keeps by itself. A row that starts far out in a steep
    tail may refuse every proposal: its ``acceptance`` tells.

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
        hooks: called after each step, as for :func:`sample`: to look at the states, to end the
            chain, or to return other states; a Metropolis-adjusted chain, which remembers the
            density of the states that it left, refuses the last.
        chunk: rows in one call of the score; all at once if None.
        max_nfe: most evaluations of the score for a row; more steps than that are refused.
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
        >>> target = tpf.langevin.score_of(lambda x: -x.abs().pow(3).sum(1))
        >>> generator = torch.Generator().manual_seed(0)
        >>> run = langevin(target, torch.zeros(500, 2), step_size=0.3, steps=50, metropolis=True,
        ...                generator=generator)
        >>> run.x.shape, bool(run.acceptance.mean() > 0.5)
        (torch.Size([500, 2]), True)
    """
    check_callable_score(score, cond)
    x = as_rows("x", x)
    check_finite_rows(x, "x")
    steps = positive_integer("steps", steps)
    size = as_step_size(step_size, x)
    _check_options(steps, temperature, warmup, metropolis, log_prob)
    key = draw_key(generator)
    h: float | Tensor = float(size) if size.ndim == 0 and not warmup else size.to(x)
    stepper: Stepper = (
        MetropolisSteps(score, log_prob, h, temperature, warmup, key)
        if metropolis
        else UnadjustedSteps(score, h, temperature)
    )
    solution, (chain,) = march(
        stepper,
        x,
        torch.arange(steps + 1, dtype=torch.float64),
        saved=step_numbers(save_at, steps),
        hooks=hooks,
        key=mix(key, 0),
        cond=cond,
        chunk=chunk,
        max_nfe=max_nfe,
        progress=progress,
    )
    if metropolis:
        h, counted = chain.step_size, max(0, len(solution.t) - 1 - warmup)
    solution = LangevinSolution(
        **vars(solution),
        step_size=torch.as_tensor(h, dtype=torch.float64, device=table_device(x.device)),
        acceptance=chain.accepted / counted if metropolis else x.new_ones(len(x)),
    )
    if solution.first_bad_step is not None:
        check_hooks_finite(solution)
        raise diverged("Langevin steps", score, x, solution, cond, size, temperature)
    return solution


def _check_options(
    steps: int, temperature: float, warmup: int, metropolis: bool, log_prob: Any
) -> None:
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


def as_step_size(step_size: float | Tensor, x: Tensor) -> Tensor:
    """The step size as float64, ``()`` or ``(n,)``, or refuse it."""
    size = torch.as_tensor(step_size, dtype=torch.float64, device=table_device(x.device)).detach()
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
