r"""Hamiltonian Monte Carlo on a known density: a baseline for flows of particles.

With momenta ``r ~ N(0, Id)`` the energy is ``H(x, r) = -log p(x) + ½|r|²``. L leapfrog steps of
size h keep it up to O(h²), keep volume, and are reversible; a proposal is accepted with probability
``min(1, exp(H - H'))``, which makes p invariant whatever h is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core.checks import check_finite_rows
from .._core.random import draw_key, mix
from .._core.tensor import expand_time, sum_events
from ..solve.solution import NonFiniteStateError, Solution
from .flow import _positive_integer
from .predictions import as_score

__all__ = ["HamiltonianSolution", "hamiltonian"]


@dataclass(frozen=True)
class HamiltonianSolution(Solution):
    """Where chains are, and how they got there.

    ``t`` and ``saved_at`` count proposals; ``nfe`` counts evaluations of the score.

    Attributes:
        acceptance: mean probability with which each chain's proposals are accepted, ``(n,)``; all
            ones for the unadjusted chain.
    """

    acceptance: Tensor | None = None


@torch.no_grad()
def hamiltonian(
    score: Any,
    x: Tensor,
    *,
    step_size: float,
    steps: int,
    leapfrog: int = 10,
    metropolis: bool = True,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    save_at: Sequence[int] | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> HamiltonianSolution:
    r"""Run one chain of Hamiltonian Monte Carlo from each row of x.

    Args:
        score: p, as a law with a log-density, or ``∇ log p`` as a function of x.
        x: starting states, ``(n, *)``. Not changed.
        step_size: h > 0, of a leapfrog step, in units of the data. Stable below twice the smallest
            scale of p.
        steps: number of proposals.
        leapfrog: L, leapfrog steps in a proposal.
        metropolis: accept or refuse; without, proposals are always taken, and the law that the
            chain keeps is off by O(h²).
        log_prob: the log-density, ``(n, *)`` to ``(n,)``, up to a constant, where the score is a
            function; for ``metropolis`` only.
        save_at: numbers of proposals after which to save the states, in 0 .. steps.
        progress: show a progress bar, where there is a terminal.
        generator: source of momenta and acceptances; one key is drawn from it.

    Raises:
        ValueError: for states that are not finite rows, numbers out of their range, or
            ``metropolis`` without a log-density.
        NonFiniteStateError: if a state stops being finite (only without ``metropolis``).

    Source: Duane et al. (1987); Neal, "MCMC using Hamiltonian dynamics" (2011), section 5.3.

    Example:
        >>> import transportflows as tpf
        >>> gen = torch.Generator().manual_seed(0)
        >>> law = tpf.Gaussian((1,), 2.0, 0.5)
        >>> x = hamiltonian(law, torch.zeros(2_000, 1), step_size=0.1, steps=50, generator=gen).x
        >>> round(float(x.std()), 1)
        0.5
    """
    check_finite_rows(x, "x")
    _positive_integer("steps", steps)
    _positive_integer("leapfrog", leapfrog)
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size must be positive and finite, got {step_size}")
    if log_prob is not None and not metropolis:
        raise ValueError("log_prob is for metropolis=True; leave it out, or ask for metropolis")
    density = log_prob if log_prob is not None else getattr(score, "log_prob", None)
    if metropolis and not callable(density):
        raise ValueError(
            "metropolis=True needs the log-density: give log_prob=, or a law that has one for the"
            " score; from a score alone only metropolis=False is possible"
        )
    if not metropolis:
        density = None
    pull = as_score(score)
    saved = [] if save_at is None else [int(k) for k in save_at]
    if saved != list(save_at or []) or any(not 0 <= k <= steps for k in saved):
        raise ValueError(f"save_at holds numbers of proposals in 0 .. {steps}, got {save_at}")
    key = draw_key(generator)
    own = torch.Generator(x.device)
    x = x.detach().clone()
    energy = x.new_zeros(len(x)) if density is None else -density(x)
    if not bool(torch.isfinite(energy).all()):
        raise ValueError(
            f"the log-density is not finite at {int((~energy.isfinite()).sum())} of {len(x)}"
            " starting states; a chain must start where the density is positive"
        )
    force = pull(x)
    accepted = x.new_zeros(len(x))
    trajectory = {0: x} if 0 in saved else {}
    bar = tqdm(range(steps), disable=None if progress else True, desc="hamiltonian")
    for i in bar:
        own.manual_seed(mix(key, i))
        r = torch.randn(x.shape, generator=own, dtype=x.dtype, device=x.device)
        u = torch.rand(len(x), generator=own, dtype=x.dtype, device=x.device)
        before = 0.5 * sum_events(r.square())
        new, pushed = x, force
        for _ in range(leapfrog):
            r = torch.add(r, pushed, alpha=0.5 * step_size)
            new = torch.add(new, r, alpha=step_size)
            pushed = pull(new)
            r = torch.add(r, pushed, alpha=0.5 * step_size)
        if density is None:
            x, force = new, pushed
        else:
            new_energy = -density(new)
            gain = energy + before - new_energy - 0.5 * sum_events(r.square())
            chance = gain.clamp(max=0).exp().nan_to_num(0.0)
            accepted += chance
            taken = u < chance
            wide = expand_time(taken, x)
            x, force = torch.where(wide, new, x), torch.where(wide, pushed, force)
            energy = torch.where(taken, new_energy, energy)
        if i + 1 in saved:
            trajectory[i + 1] = x
    counts = torch.arange(steps + 1, dtype=torch.float64)
    solution = HamiltonianSolution(
        x=x,
        t=counts,
        nfe=1 + steps * leapfrog,
        scheme="hamiltonian",
        trajectory=torch.stack([trajectory[k] for k in saved]) if saved else None,
        saved_at=counts[saved] if saved else None,
        acceptance=torch.ones_like(accepted) if density is None else accepted / steps,
    )
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteStateError(
            f"states stopped being finite with step_size = {step_size:g}: it must be below twice"
            " the smallest scale of p; take a smaller one, or metropolis=True",
            solution,
        )
    return solution
