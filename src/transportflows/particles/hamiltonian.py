r"""Hamiltonian Monte Carlo on a known density: a baseline for flows of particles.

With momenta ``r ~ N(0, Id)`` the energy is ``H(x, r) = -log p(x) + ½|r|²``. L leapfrog steps of size
h keep it up to O(h²), keep volume, and are reversible; a proposal is accepted with probability
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

from .._checks import check_finite_rows
from .._random import draw_key, mix
from .._tensor import expand_time, sum_events
from ..samplers.solution import NonFiniteStateError, Solution
from .flow import _positive_integer, _saved
from .predictions import as_score

__all__ = ["HamiltonianRun", "hamiltonian"]


@dataclass(frozen=True, eq=False)
class HamiltonianRun:
    """Where particles ended, and how often their proposals were taken.

    Attributes:
        solution: particles, trajectory, and score evaluations a particle as ``nfe``.
        acceptance: mean probability of acceptance of each proposal, ``(steps,)``; 1 where nothing
            is refused.
    """

    solution: Solution
    acceptance: Tensor


def hamiltonian(
    law: Any,
    x: Tensor,
    *,
    steps: int = 100,
    step_size: float = 0.1,
    leapfrog: int = 10,
    score: Callable[[Tensor], Tensor] | None = None,
    adjusted: bool = True,
    save_at: Sequence[float] | Tensor | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> HamiltonianRun:
    r"""Move particles, each its own chain, by Hamiltonian Monte Carlo.

    Args:
        law: p, with ``log_prob``; or, with ``adjusted=False``, a score as a function of x.
        x: particles at the start, ``(M, *)``, not changed.
        steps: number of proposals.
        step_size: h > 0, in units of the data. Stable below twice the smallest scale of p.
        leapfrog: L, leapfrog steps in a proposal.
        score: ``∇ log p``, where it is cheaper than that of ``law``.
        adjusted: accept or refuse; without, proposals are always taken, and the law that they keep
            is off by O(h²).
        save_at: shares of the steps, in [0, 1], after which to save particles.
        progress: show a progress bar.
        generator: source of momenta and acceptances.

    Raises:
        TypeError: if ``law`` has no log-density and ``adjusted`` needs one.
        ValueError: for particles that are not finite rows, and numbers out of their range.
        NonFiniteStateError: if particles diverge (only without acceptance).

    Source: Duane et al. (1987); Neal, "MCMC using Hamiltonian dynamics" (2011), section 5.3.

    Example:
        >>> import transportflows as tpf
        >>> gen = torch.Generator().manual_seed(0)
        >>> run = hamiltonian(tpf.Gaussian((1,), 2.0, 0.5), torch.zeros(2_000, 1), generator=gen)
        >>> round(float(run.solution.x.std()), 1)
        0.5
    """
    check_finite_rows(x, "x")
    _positive_integer("steps", steps)
    _positive_integer("leapfrog", leapfrog)
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size must be positive and finite, got {step_size}")
    log_prob = getattr(law, "log_prob", None)
    if adjusted and not callable(log_prob):
        raise TypeError(
            f"acceptance needs a log-density, and a {type(law).__name__} has none; give a law with"
            " log_prob, or adjusted=False with a score alone"
        )
    pull = as_score(law) if score is None else score
    saved = _saved(save_at, steps)
    key = draw_key(generator)
    own = torch.Generator(x.device)
    x = x.detach().clone()
    energy = -log_prob(x) if adjusted and callable(log_prob) else x.new_zeros(len(x))
    force = pull(x)
    acceptance = x.new_ones(steps)
    trajectory = {0: x.clone()} if 0 in saved else {}
    bar = tqdm(range(steps), disable=None if progress else True, desc="hamiltonian", unit="step")
    with torch.no_grad():
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
            if not (adjusted and callable(log_prob)):
                x, force = new, pushed
            else:
                new_energy = -log_prob(new)
                gain = energy + before - new_energy - 0.5 * sum_events(r.square())
                chance = gain.clamp(max=0).exp().nan_to_num(0.0)
                acceptance[i] = chance.mean()
                taken = u < chance
                wide = expand_time(taken, x)
                x, force = torch.where(wide, new, x), torch.where(wide, pushed, force)
                energy = torch.where(taken, new_energy, energy)
            if i + 1 in saved:
                trajectory[i + 1] = x.clone()
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = torch.stack([trajectory[k] for k in saved]) if saved else None
    solution = Solution(
        x=x,
        t=times,
        nfe=1 + steps * leapfrog,
        scheme="hamiltonian",
        trajectory=kept,
        saved_at=times[saved] if saved else None,
    )
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteStateError(
            f"particles stopped being finite with step_size = {step_size:g}: it must be below twice"
            " the smallest scale of p; take a smaller one, or adjusted=True",
            solution,
        )
    return HamiltonianRun(solution, acceptance)
