r"""Hamiltonian Monte Carlo on a known density: a baseline for flows of particles.

With momenta ``r ~ N(0, Id)`` the energy is ``H(x, r) = -log p(x) + ½|r|²``. L leapfrog steps of
size h keep it up to O(h²), keep volume, and are reversible; a proposal is accepted with probability
``min(1, exp(H - H'))``, which makes p invariant whatever h is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_finite_rows, positive_integer, positive_number, step_numbers
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import expand_time, sum_events
from ..solve.hooks import Hook
from ..solve.loop import march
from ..solve.solution import NonFiniteStateError, Solution
from ..solve.stepper import Prepared, Stepper
from .predictions import as_score

__all__ = ["HamiltonianSolution", "hamiltonian"]


@checked
@dataclass(frozen=True, repr=False)
class HamiltonianSolution(Solution):
    """Where chains are, and how they got there.

    ``t`` and ``saved_at`` count proposals; ``nfe`` counts evaluations of the score.

    Attributes:
        acceptance: mean probability with which each chain's proposals are accepted, ``(n,)``; all
            ones for the unadjusted chain.
    """

    acceptance: Tensor | None = None

    __repr__ = summary


@checked
@torch.no_grad()
def hamiltonian(
    score: Any,
    x: DataLike,
    *,
    step_size: float,
    steps: int,
    leapfrog: int = 10,
    metropolis: bool = True,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    save_at: Sequence[int] | None = None,
    hooks: Sequence[Hook] = (),
    max_nfe: int | None = None,
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
        hooks: called after each step, as for :func:`sample`, to look at the states or to end the
            chain; one that returns others is refused, since the chain remembers their energy and
            score.
        max_nfe: most evaluations for a row; more steps than that are refused.
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
    x = as_rows("x", x)
    check_finite_rows(x, "x")
    steps = positive_integer("steps", steps)
    leapfrog = positive_integer("leapfrog", leapfrog)
    step_size = positive_number("step_size", step_size)
    if log_prob is not None and not metropolis:
        raise ValueError("log_prob is for metropolis=True; leave it out, or ask for metropolis")
    density = log_prob if log_prob is not None else getattr(score, "log_prob", None)
    if metropolis and not callable(density):
        raise ValueError(
            "metropolis=True needs the log-density: give log_prob=, or a law that has one for the"
            " score; from a score alone only metropolis=False is possible"
        )
    density = density if metropolis else None
    solution, (chain,) = march(
        HamiltonianSteps(as_score(score), density, step_size, leapfrog, draw_key(generator)),
        x.detach(),
        torch.arange(steps + 1, dtype=torch.float64),
        saved=step_numbers(save_at, steps),
        hooks=hooks,
        max_nfe=max_nfe,
        progress=progress,
    )
    done = len(solution.t) - 1
    acceptance = chain.accepted / done if metropolis else torch.ones_like(chain.accepted)
    solution = HamiltonianSolution(**vars(solution), acceptance=acceptance)
    if solution.first_bad_step is not None:
        raise NonFiniteStateError(
            f"states stopped being finite at step {solution.first_bad_step} of {done} with"
            f" step_size = {step_size:g}: it must be below twice the smallest scale of p; take a"
            " smaller one, or metropolis=True",
            solution,
        )
    return solution


@dataclass(frozen=True, eq=False)
class Chain:
    """What a chain remembers.

    Attributes:
        force: scores of the current states, ``(n, *)``.
        energy: minus their log-density, ``(n,)``; zeros where it is not known.
        accepted: sum of the probabilities with which proposals were accepted, ``(n,)``.
    """

    force: Tensor
    energy: Tensor
    accepted: Tensor


class HamiltonianSteps(Stepper):
    """Proposals by leapfrog steps, and their acceptance.

    Args:
        score: ``∇ log p``.
        density: ``log p``; None for proposals that are always taken.
        step_size: h.
        leapfrog: L.
        key: of momenta and acceptances.
    """

    name, whole, remembers = "hamiltonian", True, True

    def __init__(
        self,
        score: Callable[[Tensor], Tensor],
        density: Callable[[Tensor], Tensor] | None,
        step_size: float,
        leapfrog: int,
        key: int,
    ) -> None:
        self.score, self.density = score, density
        self.step_size, self.leapfrog, self.key = step_size, leapfrog, key

    def prepare(self, times: Tensor, like: Tensor) -> Prepared:
        return Prepared(calls=self.leapfrog, before=1)

    def memory(self, prepared: Prepared, x: Tensor, rows: Any) -> Chain:
        nothing = x.new_zeros(len(x))
        energy = nothing if self.density is None else -self.density(x)
        if not bool(torch.isfinite(energy).all()):
            raise ValueError(
                f"the log-density is not finite at {int((~energy.isfinite()).sum())} of {len(x)}"
                " starting states; a chain must start where the density is positive"
            )
        return Chain(self.score(x), energy, nothing)

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: Chain, rows: Any, draws: Any
    ) -> tuple[Tensor, Chain]:
        own, h = stream(self.key, step, device=x.device), self.step_size
        r = torch.randn(x.shape, generator=own, dtype=x.dtype, device=x.device)
        u = torch.rand(len(x), generator=own, dtype=x.dtype, device=x.device)
        kinetic = 0.5 * sum_events(r.square())
        new, force = x, memory.force
        for _ in range(self.leapfrog):
            r = torch.add(r, force, alpha=0.5 * h)
            new = torch.add(new, r, alpha=h)
            force = self.score(new)
            r = torch.add(r, force, alpha=0.5 * h)
        if self.density is None:
            return new, replace(memory, force=force)
        energy = -self.density(new)
        gain = memory.energy + kinetic - energy - 0.5 * sum_events(r.square())
        chance = gain.clamp(max=0).exp().nan_to_num(0.0)
        taken = u < chance
        wide = expand_time(taken, x)
        return torch.where(wide, new, x), Chain(
            torch.where(wide, force, memory.force),
            torch.where(taken, energy, memory.energy),
            memory.accepted + chance,
        )
