r"""The mean velocity between two times, and the derivative of where it leads, by an ODE solver.

With the clock τ in [0, 1] of each row the mean velocity on the way from s to t is itself the
solution of an ODE, in which nothing is divided by t - s:

.. math:: v_{s,t}(x) = y(1), \qquad
          \dot y = b\big(s + \tau (t - s),\; x + (t - s)\, y\big), \quad y(0) = 0 ,

so rows have times of their own, in both directions, and ``v_{t,t} = b(t, x)`` by the same solve.
The derivative of where it leads obeys the *variational equation*, ``J = Id + (t - s) V`` with
``V̇ = ∇b J``, by columns in forward mode; and the logarithm of its determinant, which is positive,
is ``(t - s) ∫ ∇·b dτ`` (Liouville).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .._core.autodiff import Directional, jvp, ordinary, repeat_rows
from .._core.conditions import map_rows
from .._core.precision import widest
from .._core.tensor import expand_time
from .._core.untouched import out_of_inference_mode
from ..fields import Field
from ..samplers.adaptive import over_pieces, worst_row
from ..samplers.budget import Budget
from ..samplers.probability_flow import Piece
from ..solve.solution import NonFiniteStateError, TooManyEvaluationsError
from .derivatives import no_forward_mode
from .teachers import velocity_of

__all__ = ["Beside", "SolveOptions", "mean_velocity"]

Beside = Literal["", "columns", "divergence"]
"""What is solved for beside the mean velocity."""

_WHOLE = [Piece(0.0, 1.0, 0.0, 1.0)]


@dataclass(frozen=True)
class SolveOptions:
    """How it is solved: tolerances, the scheme, margins from the ends of time, a bound of calls."""

    rtol: float
    atol: float
    scheme: str
    margin: tuple[float, float]
    max_nfe: int | None


@dataclass(frozen=True, eq=False)
class _Leg:
    """A part of the way of each row, between two breakpoints; all are ``()`` or ``(B,)``."""

    start: Tensor
    stop: Tensor
    share: Tensor  # of the whole way
    low: Tensor  # the field is evaluated at no earlier time, nor at a later one than high
    high: Tensor

    @property
    def width(self) -> Tensor:
        return self.stop - self.start

    def time(self, tau: Tensor) -> Tensor:
        time = torch.lerp(self.start, self.stop, tau.to(self.start))
        return torch.minimum(torch.maximum(time, self.low), self.high)


@out_of_inference_mode()
def mean_velocity(
    field: Field,
    options: SolveOptions,
    s: Tensor,
    t: Tensor,
    x: Tensor,
    cond: Mapping[str, Any],
    beside: Beside,
    *,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """``v_{s,t}(x)`` ``(B, *)``, and J ``(B, d, d)``, its log-determinant ``(B,)`` or nothing.

    Args:
        field: with a velocity.
        options: of the solve.
        s: times of the states, ``()`` or ``(B,)``.
        t: times to go to, likewise.
        x: states, ``(B, *)``.
        cond: checked conditions.
        beside: what is solved for too.
        chunk: rows of a solve, the columns counted.
    """
    n, d = len(x), x.shape[1:].numel()
    size = max(1, chunk // (d if beside else 1))
    parts = []
    for first in range(0, max(n, 1), size):
        rows = slice(first, first + size)
        times = (u if u.ndim == 0 else u[rows] for u in (s, t))
        own = map_rows(cond, lambda value, rows=rows: value[rows])
        parts.append(_Way(field, options, x[rows], own, beside).solved(*map(widest, times)))
    mean, other = (torch.cat(column).to(x.dtype) for column in zip(*parts, strict=True))
    return mean.view(x.shape), other


class _Way:
    """Rows on their way: the state, J or its log-determinant, and the field that moves them."""

    def __init__(
        self,
        field: Field,
        options: SolveOptions,
        x: Tensor,
        cond: Mapping[str, Any],
        beside: Beside,
    ) -> None:
        self.field, self.options, self.cond, self.beside = field, options, cond, beside
        self.shape, self.d = x.shape, x.shape[1:].numel()
        self.state = widest(ordinary(x)).flatten(1)
        self.log_det = self.state.new_zeros(len(x))
        eye = torch.eye(self.d, dtype=self.state.dtype, device=x.device)
        self.columns = eye.expand(len(x), self.d, self.d)  # [row, column, number]
        if beside:
            self.cond = map_rows(cond, lambda value: repeat_rows(value, self.d))

    def solved(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros_like(self.state)
        for leg in self._legs(s, t) if len(mean) else ():
            y = self._along(leg)
            mean = mean + expand_time(leg.share, y) * y[:, : self.d]
            self.state = self.state + expand_time(leg.width, y) * y[:, : self.d]
            if self.beside == "columns":
                self.columns = self._columns(leg, y)
            elif self.beside:
                self.log_det = self.log_det + leg.width * y[:, self.d]
        return mean, self.columns.mT if self.beside == "columns" else self.log_det

    def _columns(self, leg: _Leg, y: Tensor) -> Tensor:
        change = y[:, self.d :].view(self.columns.shape)
        return self.columns + expand_time(leg.width, change) * change

    def _legs(self, s: Tensor, t: Tensor) -> list[_Leg]:
        """The ways of the rows from breakpoint to breakpoint, each in its own direction."""
        bottom, top = self.options.margin[0], 1 - self.options.margin[1]
        inner = [b for b in sorted(self.field.breakpoints) if bottom < b < top]
        edges, count = s.new_tensor([bottom, *inner, top]), len(inner) + 1
        aside = 2 * torch.finfo(edges.dtype).eps * edges
        aside[0] = aside[-1] = 0.0
        first, last, gap, legs = s.clamp(bottom, top), t.clamp(bottom, top), t - s, []
        for k in range(count):
            place = torch.where(gap >= 0, k, count - 1 - k)
            low, high = edges[place], edges[place + 1]
            a, b = first.clamp(low, high), last.clamp(low, high)
            here = (low <= first) & ((first < high) | (place == count - 1))
            share = torch.where(gap == 0, here.to(s), (b - a) / torch.where(gap == 0, 1.0, gap))
            if count == 1 or bool((share != 0).any()):
                low, high = low + aside[place], high - aside[place + 1]
                legs.append(_Leg(a, b, share, low, high))
        return legs

    def _along(self, leg: _Leg) -> Tensor:
        """The mean velocity on a leg, and what is beside it, ``(B, d + ...)``."""
        how, n = self.options, len(self.state)
        size = {"columns": self.d * self.d, "divergence": 1, "": 0}[self.beside]
        tolerance = min(how.rtol, how.atol)
        budget = Budget(how.max_nfe, how.scheme, self.field.networks, tolerance)

        def slope(tau: Tensor, y: Tensor) -> Tensor:
            return self._slope(leg, tau, y)

        def counted(tau: Tensor, y: Tensor) -> Tensor:
            budget.spend(slope, leg.time(tau.detach()).reshape(-1)[0], tau, y.detach())
            return slope(tau, y)

        given: dict[str, Any] = {"rtol": how.rtol, "atol": how.atol, "norm": worst_row}
        start = self.state.new_zeros(n, self.d + size)
        try:
            y, _ = over_pieces(lambda _: counted, start, _WHOLE, budget, **given)
        except (NonFiniteStateError, TooManyEvaluationsError) as error:
            reached = error.solution.x[:, : self.d]
            states = self.state + expand_time(leg.width, reached) * reached
            error.solution = replace(error.solution, x=states.view(self.shape))
            raise
        except (NotImplementedError, RuntimeError) as error:
            if "setup_context" in str(error):
                raise RuntimeError(
                    "torch.func does not go through a solver; write exact.jacobian(s, t, x), which"
                    " solves for the derivative, or x.requires_grad_() and backward()"
                ) from error
            way = "call exact.jump alone, which takes no derivative"
            raise no_forward_mode(error, "the variational equation", way) from error
        return y

    def _slope(self, leg: _Leg, tau: Tensor, y: Tensor) -> Tensor:
        """The derivative in τ of ``(y, what is beside it)``."""
        d, n = self.d, len(y)
        time = leg.time(tau)
        flat = self.state + expand_time(leg.width, self.state) * y[:, :d]
        z = flat.view(self.shape)
        if not self.beside:
            return velocity_of(self.field, time, z, self.cond).flatten(1)
        velocity = self._velocity(repeat_rows(time, d))
        if self.beside == "divergence":
            value, forms = Directional().forms(velocity, z, None)
            return torch.cat([value.flatten(1), forms.sum(1, keepdim=True)], 1)
        along = self._columns(leg, y).transpose(0, 1).reshape(-1, *self.shape[1:])
        value, change = jvp(velocity, repeat_rows(z, d), along)
        change = change.view(d, n, d).transpose(0, 1)
        return torch.cat([value[:n].flatten(1), change.flatten(1)], 1)

    def _velocity(self, time: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda states: velocity_of(self.field, time, states, self.cond)
