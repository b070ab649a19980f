"""Adaptive ODE solvers, by torchdiffeq, with an error norm that does not couple the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..fields.base import Field
from ..solve.rows import Chunks
from ..solve.solution import NonFiniteStateError, Solution, TooManyEvaluationsError
from .dynamics import regular_margin

__all__ = [
    "ADAPTIVE",
    "check_tolerances",
    "integrate_adaptive",
    "solve_adaptively",
    "step_ends",
    "stuck",
]

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2")
"""Adaptive schemes, by their names in torchdiffeq."""


def _worst_row(error: Tensor) -> Tensor:
    """The largest root mean square over the rows.

    With torchdiffeq's default, one norm over the batch, a sample's error would depend on the
    others'.
    """
    return error.flatten(1).square().mean(1).sqrt().max()


def check_tolerances(rtol: float, atol: float) -> None:
    """Refuse tolerances that no step can meet, or that every step meets.

    Raises:
        ValueError: if either is not a finite number above 0.
    """
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < float(value) < math.inf:
            raise ValueError(
                f"{name} must be finite and above 0, got {value}; write {name}=1e-6, or about"
                " 1e-10 for as much as float64 gives"
            )


def step_ends(times: Tensor, breakpoints: Sequence[float]) -> dict[str, Tensor]:
    """Options of torchdiffeq's adaptive solvers, so that steps end at times and at breakpoints.

    Left alone they step past a time and interpolate there, by a polynomial that the tolerance does
    not control.
    """
    low, high = float(times.min()), float(times.max())
    inside = [b for b in breakpoints if low < b < high]
    ends = [s for s in times.tolist() if s not in inside]  # torchdiffeq wants no time in both
    options = {"step_t": torch.tensor(ends, dtype=torch.float64, device=times.device)}
    if inside:
        options["jump_t"] = torch.tensor(inside, dtype=torch.float64, device=times.device)
    return options


def stuck(
    error: AssertionError, scheme: str, t: Tensor, state: Tensor, solution: Solution
) -> Exception:
    """What to raise for an AssertionError of a solve whose last evaluation was at (t, state)."""
    if not str(error).startswith(("underflow in dt", "non-finite values")):
        return error  # not torchdiffeq's word for a step that shrank to nothing: the network's own
    bad = int((~state.isfinite()).flatten(1).any(1).sum())
    return NonFiniteStateError(
        f"{scheme} cannot pass t = {float(t):.6g}: its step shrank to nothing ({error}), with"
        f" {bad} of {len(state)} rows not finite. Look at the field there, or use a fixed-step"
        " scheme; the states are in error.solution",
        solution,
    )


def integrate_adaptive(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    ends: Tensor,
    *,
    scheme: str,
    rtol: float,
    atol: float,
    breakpoints: Sequence[float] = (),
    save_at: Sequence[float] | Tensor | None = None,
    max_nfe: int | None = None,
) -> Solution:
    """Integrate ``dX/dt = b(t, X)`` adaptively from ``start`` to ``stop``.

    Args:
        velocity: ``b(t, x)``, t of shape ``()``.
        x: starting states ``(n, *)``.
        ends: first and last time, float64 ``(2,)``.
        scheme: one of :data:`ADAPTIVE`.
        rtol: relative tolerance of each row, above 0.
        atol: absolute tolerance of each row, above 0.
        breakpoints: times at which the velocity is not smooth; a step ends there.
        save_at: times of the trajectory, in any order; a step ends at each.
        max_nfe: most evaluations of the velocity; None for no bound.

    Raises:
        TooManyEvaluationsError: if it is not done by then; it carries where it had come to.
    """
    from torchdiffeq import odeint

    start, stop = ends.tolist()
    check_tolerances(rtol, atol)

    calls, latest = 0, (torch.tensor(start), x)

    def counted(t: Tensor, y: Tensor) -> Tensor:
        nonlocal calls, latest
        if calls == max_nfe:
            raise TooManyEvaluationsError(
                f"{scheme} is at t = {float(t):.6g} after max_nfe = {max_nfe} evaluations. A"
                " network with kinks (ReLU), with noise in it (dropout) or of half precision cannot"
                " meet a small tolerance; take larger rtol and atol, a fixed-step scheme such as"
                " 'rk4', or a larger max_nfe. The states are in error.solution",
                Solution(x=y, t=grid.cpu(), nfe=calls, scheme=scheme, first_bad_step=None),
            )
        calls += 1
        latest = (t, y)
        return velocity(t.to(x), y)

    wanted = (
        []
        if save_at is None
        else torch.as_tensor(save_at, dtype=torch.float64).reshape(-1).tolist()
    )
    low, high = min(start, stop), max(start, stop)
    outside = [s for s in wanted if not low <= s <= high]
    if outside:
        raise ValueError(f"cannot save at {outside}: the solve spans [{low:g}, {high:g}]")
    times = sorted({start, stop, *wanted}, reverse=stop < start)
    grid = torch.tensor(times, dtype=torch.float64, device=x.device)
    options = {"norm": _worst_row, **step_ends(grid, breakpoints)}
    try:
        states = odeint(counted, x, grid, method=scheme, rtol=rtol, atol=atol, options=options)
    except AssertionError as error:
        t, y = latest
        reached = Solution(x=y, t=grid.cpu(), nfe=calls, scheme=scheme, first_bad_step=0)
        raise stuck(error, scheme, t, y, reached) from error
    saved = [times.index(s) for s in wanted]
    bad = not bool(torch.isfinite(states[-1]).all())
    return Solution(
        x=states[-1],
        t=grid.cpu(),
        nfe=calls,
        scheme=scheme,
        trajectory=states[saved] if saved else None,
        saved_at=grid.cpu()[saved] if saved else None,
        first_bad_step=len(times) - 2 if bad else None,
    )


def solve_adaptively(
    field: Field,
    x: Tensor,
    ends: Tensor,
    scheme: str,
    margin: tuple[float, float] | None,
    save_at: Sequence[float] | Tensor | None,
    rtol: float,
    atol: float,
    *,
    cond: Mapping[str, Any],
    chunk: int,
    max_nfe: int | None,
) -> Solution:
    """The probability flow of a field, by :func:`integrate_adaptive`, in chunks of rows."""
    low, high = regular_margin(field, margin)
    chunks = Chunks(x, chunk, cond)

    def velocity(t: Tensor, state: Tensor) -> Tensor:
        t = t.clamp(low, 1 - high)
        parts = [field.velocity(t, state[pick], rows.cond) for pick, rows in chunks.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)[: len(state)]

    return integrate_adaptive(
        velocity,
        x,
        ends,
        scheme=scheme,
        rtol=rtol,
        atol=atol,
        breakpoints=field.process.interpolant.breakpoints,
        save_at=save_at,
        max_nfe=max_nfe,
    )
