"""Adaptive ODE solvers, by torchdiffeq, with an error norm that does not couple the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import ordinary
from .._core.precision import as_wide, widest_dtype
from .._core.untouched import out_of_inference_mode
from ..fields.base import Field
from ..solve.rows import Chunks
from ..solve.solution import NonFiniteStateError, Solution
from .budget import Budget
from .probability_flow import Piece, ProbabilityFlow

__all__ = [
    "ADAPTIVE",
    "check_tolerances",
    "midpoint",
    "over_pieces",
    "solve_adaptively",
    "worst_row",
]

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun", "fehlberg2")
"""Adaptive schemes, by their names in torchdiffeq."""

Slope = Callable[[Tensor, Tensor], Tensor]


def worst_row(error: Tensor) -> Tensor:
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


def over_pieces(
    slope: Callable[[Piece], Slope],
    x: Tensor,
    pieces: Sequence[Piece],
    budget: Budget,
    *,
    rtol: float,
    atol: float,
    norm: Callable[[Tensor], Tensor],
    saved: Sequence[float] = (),
    adjoint: bool = False,
) -> tuple[Tensor, dict[float, Tensor]]:
    """Integrate ``dX/du`` over the pieces of a probability flow, adaptively.

    Steps end at the ends of pieces and at saved times: left alone a solver steps past them and
    interpolates there, by a polynomial that the tolerance does not control.

    Args:
        slope: of a piece the function ``(u, x)``, which counts itself in the budget; for the
            adjoint method a module.
        x: states.
        pieces: in the order of the solve.
        budget: of evaluations, with the name of the scheme.
        rtol: relative tolerance.
        atol: absolute tolerance.
        norm: of an error, in units of the tolerance.
        saved: u at which to keep the states.
        adjoint: differentiate by the adjoint method.

    Returns:
        The states at the end, and those at ``saved``.

    Raises:
        TooManyEvaluationsError: if the budget is spent.
        NonFiniteStateError: if a step shrinks to nothing.
    """
    from torchdiffeq import odeint, odeint_adjoint

    kept = {u: x for u in saved if u == pieces[0].start}
    for piece in pieces:
        low, high = min(piece.start, piece.stop), max(piece.start, piece.stop)
        inner = {u for u in saved if low < u < high}
        stops = sorted({low, high, *inner}, reverse=piece.start > piece.stop)
        function = slope(piece)
        if piece.short:
            states = [x]
            for a, b in pairwise(stops):
                states.append(midpoint(function, states[-1], a, b))
        else:
            grid = torch.tensor(stops, dtype=widest_dtype(x.device), device=x.device)
            how: dict[str, Any] = {"method": budget.scheme, "rtol": rtol, "atol": atol}
            if adjoint:  # solved in -u where u falls; torchdiffeq leaves its options in u
                sign = 1.0 if piece.start < piece.stop else -1.0
                how["adjoint_options"] = {"step_t": sign * grid, "dtype": grid.dtype}
            method = odeint_adjoint if adjoint else odeint
            options = {"norm": norm, "step_t": grid, "dtype": grid.dtype}
            try:
                states = list(method(function, x, grid, options=options, **how))
            except AssertionError as error:
                raise _stuck(error, budget) from error
        kept.update((u, y) for u, y in zip(stops, states, strict=True) if u in saved)
        x = states[-1]
    return x, kept


def midpoint(slope: Slope, x: Tensor, start: float, stop: float) -> Tensor:
    """A step that looks at its middle only, of order 2: both slopes are of that time."""
    h = stop - start
    middle = torch.tensor(start + 0.5 * h, dtype=torch.float64)
    return x + h * slope(middle, x + 0.5 * h * slope(middle, x))


def _stuck(error: AssertionError, budget: Budget) -> Exception:
    """What to raise for an AssertionError of a solve."""
    if not str(error).startswith(("underflow in dt", "non-finite values")) or not budget.latest:
        return error  # not torchdiffeq's word for a step that shrank to nothing: the network's own
    t, x = budget.latest
    bad = int((~x.isfinite()).flatten(1).any(1).sum())
    return NonFiniteStateError(
        f"{budget.scheme} cannot pass t = {float(t):.6g}: its step shrank to nothing ({error}),"
        f" with {bad} of {len(x)} rows not finite. Look at the field there, or use a fixed-step"
        " scheme; the states are in error.solution",
        Solution(x, torch.tensor([float(t)]), budget.spent, budget.scheme, first_bad_step=0),
    )


@out_of_inference_mode()
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
    """The probability flow of a field, in chunks of rows.

    Args:
        field: with a velocity.
        x: starting states ``(n, *)``.
        ends: first and last time, float64 ``(2,)``.
        scheme: one of :data:`ADAPTIVE`.
        margin: from the ends of time; None for what the field needs.
        save_at: times of the trajectory, in any order; a step ends at each.
        rtol: relative tolerance of each row, above 0.
        atol: absolute tolerance of each row, above 0.
        cond: conditions.
        chunk: rows in a call.
        max_nfe: most evaluations of the velocity.

    Raises:
        TooManyEvaluationsError: if it is not done by then; it carries where it had come to.
    """
    check_tolerances(rtol, atol)
    x = ordinary(x)
    start, stop = ends.tolist()
    saved = as_wide(() if save_at is None else save_at)
    wanted: list[float] = saved.reshape(-1).tolist()
    low, high = min(start, stop), max(start, stop)
    outside = [s for s in wanted if not low <= s <= high]
    if outside:
        raise ValueError(f"cannot save at {outside}: the solve spans [{low:g}, {high:g}]")
    tolerance = min(rtol, atol)
    flow = ProbabilityFlow(field, margin=margin, tolerance=tolerance, dtype=x.dtype)
    budget = Budget(max_nfe, scheme, field.networks, tolerance)
    chunks = Chunks(x, chunk, cond)

    def along(piece: Piece) -> Slope:
        def velocity(u: Tensor, state: Tensor) -> Tensor:
            stage = flow.stages(piece, u[None], state)[0]
            parts = [flow.at(stage, state[pick], r.cond) for pick, r in chunks.parts]
            # A copy of one too: a network may give a buffer, which its next call overwrites.
            return torch.cat(parts)[: len(state)]

        def counted(u: Tensor, state: Tensor) -> Tensor:
            budget.spend(velocity, flow.clock.time(u), u, state)
            return velocity(u, state)

        return counted

    places = {s: flow.clock.of(s) for s in wanted}
    end, kept = over_pieces(
        along, x, flow.pieces(start, stop), budget,
        rtol=rtol, atol=atol, norm=worst_row, saved=list(places.values()),
    )  # fmt: skip
    times = sorted({start, stop, *wanted}, reverse=stop < start)
    path = [kept[places[s]] for s in wanted]
    bad = not bool(torch.isfinite(end).all())
    return Solution(
        x=end,
        t=torch.tensor(times, dtype=torch.float64),
        nfe=budget.spent,
        scheme=scheme,
        trajectory=torch.stack(path) if path else None,
        saved_at=torch.tensor(wanted, dtype=torch.float64) if path else None,
        margin=flow.kept(start, stop),
        first_bad_step=len(times) - 2 if bad else None,
    )
