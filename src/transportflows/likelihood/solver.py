"""The solve behind a log-density: a state and the integral of the divergence, moved together.

The state is widened by K numbers, the running integrals of ``∇·b``: one for the exact divergence,
one for each probe of Hutchinson's estimate. The wide state obeys an ODE of its own, and any solver
of ODEs serves for it. It is that of the probability flow in its clock
(:mod:`transportflows.samplers.probability_flow`), since ``∇·(b φ') = φ' ∇·b``.

(A little longer than other files: what torchdiffeq's adjoint differentiates is to be one module.)
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._core.autodiff import PROBE_LAWS, draw_probes, ordinary, repeat_rows
from .._core.checks import choice, names
from .._core.conditions import map_rows
from .._core.random import draw_key, stream
from ..fields.base import Field
from ..samplers.adaptive import ADAPTIVE, check_tolerances, midpoint, over_pieces
from ..samplers.budget import Budget
from ..samplers.integrate import integrate
from ..samplers.probability_flow import Piece, ProbabilityFlow, Stage
from ..samplers.schemes import ELSEWHERE, SCHEMES
from ..samplers.starts import evaluating
from ..solve.grid import as_margin, time_grid
from ..solve.hooks import Hook, Moment, SolveHook, check_hook
from ..solve.rows import default_chunk
from ..solve.solution import NonFiniteStateError, Solution, TooManyEvaluationsError
from .divergence import Divergence
from .quadrature import Quadrature

__all__ = [
    "Solver",
    "check_field",
    "check_options",
    "over_probes",
    "recording",
]

DIVERGENCES = ("exact", "hutchinson")

_NATS = 10.0
"""Nats of a log-density that count as much as a unit of the states, root mean square over the rows.

The divergence of a network with kinks (ReLU) jumps, in one row or another at all times, and what a
jump costs falls only as the step: with the worst row held to 1e-6 nats such a solve does not end.
"""


class Solver(nn.Module):
    """State and integrals of the divergence, ``(n, D + K)``, along the ODE of a field.

    It is a module, since torchdiffeq's adjoint method looks for the parameters in one.
    """

    def __init__(
        self,
        field: Field,
        like: Tensor,
        divergence: str,
        probes: int,
        probe_law: str,
        scheme: str,
        steps: int,
        rtol: float,
        atol: float,
        margin: float | tuple[float, float] | None,
        max_nfe: int | None = None,
    ) -> None:
        super().__init__()
        check_options(divergence, probes, probe_law, scheme, rtol, atol)
        self.field = field
        self.shape = like.shape[1:]
        self.exact = divergence == "exact"
        self.count = 0 if self.exact else int(probes)
        self.probe_law, self.scheme, self.steps = probe_law, scheme, steps
        self.rtol, self.atol = rtol, atol
        tolerance = min(rtol, atol)
        self.flow = ProbabilityFlow(
            field,
            margin=as_margin(margin),
            tolerance=tolerance if scheme in ADAPTIVE else None,
            dtype=like.dtype,
        )
        self.max_nfe = max_nfe
        self.budget = Budget(max_nfe, scheme, field.networks, tolerance)
        self.refuses = True
        self.nfe = 0

    def configure(
        self,
        cond: Mapping[str, Any] | None,
        chunk: int | None,
        gradients: bool,
        adjoint: bool,
        generator: torch.Generator | None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        """What goes with the states, and how the result is to be differentiated."""
        if hooks and self.scheme in ADAPTIVE:
            raise ValueError(
                f"the adaptive scheme {self.scheme!r} has no steps of its own to act after; use a"
                " fixed-step one, such as scheme='rk4', with hooks"
            )
        self.hooks = [self._looking(hook) for hook in hooks]
        self.given, self.chunk = cond, chunk
        self.gradients, self.adjoint = gradients, adjoint
        self.divergence = Divergence(self.field, graph=gradients)
        self.generator = generator

    def solve(self, x: Tensor, start: float, stop: float) -> tuple[Tensor, Tensor]:
        """States at ``stop`` and integrals of the divergence from ``start``, ``(n, K)``."""
        n, d = len(x), self.shape.numel()
        given = self.field.check_conditions(self.given, n, device=x.device)
        self.cond = {name: ordinary(value) for name, value in given.items()}
        # The adjoint method differentiates in the state and in a module's parameters only.
        if any(isinstance(c, Tensor) and c.requires_grad for c in self.cond.values()):
            self.adjoint = False
        if self.chunk is None:
            self.chunk = default_chunk(self.field.networks, x)
        if self.chunk < 1:
            raise ValueError(f"chunk must be positive, got {self.chunk}")
        self.probes = None if self.exact else self._draw(x)
        columns = 1 if self.exact else self.count
        state = torch.cat([ordinary(x).flatten(1), x.new_zeros(n, columns)], 1)
        if self.scheme in ADAPTIVE:
            end = self._adaptive(state, start, stop)
        else:
            end = self._in_steps(state, start, stop)
        return end[:, :d].reshape(x.shape), end[:, d:]

    def _looking(self, hook: Hook) -> Hook:
        """A hook that is shown the states without the integrals, in the units of the data."""
        check_hook(hook)
        if isinstance(hook, SolveHook):
            raise ValueError(
                f"{type(hook).__name__} changes the states, and hooks of a log-density may look at"
                " them only: the density of changed ones is not known; use it with sample"
            )

        def look(moment: Moment) -> None:
            x = moment.x[:, : self.shape.numel()].reshape(-1, *self.shape)
            transform = self.field.transform
            x = x if transform is None else transform.invert(x)
            t = float(self.flow.clock.time(torch.tensor(moment.t, dtype=torch.float64)))
            seen = replace(moment, t=t, x=x, cond=self.cond)
            if seen.shown_to(hook) is not None or seen.stopped:
                raise ValueError(
                    "a hook of a log-density may look at the states only: the density of states"
                    " that it changed, or left before the end, is not known; let it return None,"
                    " and do not stop"
                )

        return look

    def _adaptive(self, state: Tensor, start: float, stop: float) -> Tensor:
        d = self.shape.numel()

        # The states' tolerances hold row by row, those of the integrals over all rows.
        def of_rows(error: Tensor) -> Tensor:
            rows = error.detach().reshape(-1, state.shape[1])  # the first step depends on it
            size = rows[:, :d].square().mean(1).sqrt()
            return torch.maximum(size.max(), rows[:, d:].square().mean().sqrt() / _NATS)

        try:
            end, _ = over_pieces(
                lambda piece: _Along(self, piece), state, self.flow.pieces(start, stop),
                self.budget, rtol=self.rtol, atol=self.atol, norm=of_rows,
                adjoint=self.gradients and self.adjoint,
            )  # fmt: skip
        except (NonFiniteStateError, TooManyEvaluationsError) as error:
            error.solution = self._of_states(error.solution)
            raise
        self.budget.spent = 0  # the adjoint solve has as many again
        times = torch.tensor([start, stop], dtype=torch.float64)
        bad = None if bool(end.isfinite().all()) else 0
        self._check_finite(Solution(end, times, self.nfe, self.scheme, first_bad_step=bad))
        return end

    def _in_steps(self, state: Tensor, start: float, stop: float) -> Tensor:
        """By a fixed-step scheme, in the clock; the stretch at a pole is a step of its own."""
        clock = self.flow.clock
        kinks = [clock.of(b) for b in self.field.breakpoints]
        grid = time_grid(
            self.steps, start=clock.of(start), stop=clock.of(stop), breakpoints=kinks
        ).tolist()
        pieces = self.flow.pieces(start, stop)
        long = [piece for piece in pieces if not piece.short]
        first, last = long[0].start, long[-1].stop
        inner = [u for u in grid if min(first, last) < u < max(first, last)]
        low, high = min(p.low for p in long), max(p.high for p in long)
        whole = replace(long[0], low=low, high=high)

        def stages(u: Tensor, like: Tensor) -> list[Stage]:
            return self.flow.stages(whole, u, like)

        end = state
        if pieces[0].short:
            end = midpoint(_Along(self, pieces[0]), end, pieces[0].start, first)
        solution = integrate(
            Quadrature(stages, self.slope, kinks),
            end,
            [first, *inner, last],
            scheme=self.scheme,
            hooks=self.hooks,
            max_nfe=self.max_nfe,
        )
        self._check_finite(replace(solution, t=clock.time(solution.t)))
        end = solution.x
        if pieces[-1].short:
            end = midpoint(_Along(self, pieces[-1]), end, last, pieces[-1].stop)
        return end

    def _check_finite(self, solution: Solution) -> None:
        step = solution.first_bad_step
        if step is None or not self.refuses:
            return
        bad = int((~solution.x.isfinite()).any(1).sum())
        raise NonFiniteStateError(
            f"states or integrals of the divergence stopped being finite at step {step} of"
            f" {len(solution.t) - 1} (t = {float(solution.t[step]):.4g} to"
            f" {float(solution.t[step + 1]):.4g}); at the end {bad} of {len(solution.x)} rows are"
            " not. Take more steps, or look at the field there: a network with NaN weights or"
            " without a finite derivative; the states are in error.solution",
            self._of_states(solution),
        )

    def _of_states(self, solution: Solution) -> Solution:
        """The solution without the integrals, in the shape of the states."""
        states = solution.x[:, : self.shape.numel()]
        return replace(solution, x=states.detach().reshape(-1, *self.shape))

    def slope(self, stage: Stage, state: Tensor, *, integrals: bool = True) -> Tensor:
        """Derivatives in u of the states and of the integrals; of the states alone, and zeros."""
        self.nfe += 1
        d, n = self.shape.numel(), len(state)
        chunk = self.chunk or n
        size, k = chunk, 1 if self.probes is None else len(self.probes)
        if integrals:
            few = slice(0, n, -(-n // 8))  # rows all over the batch, whose conditions differ
            some = state[few, :d].reshape(-1, *self.shape).detach()
            kind = tuple(sorted(self.cond)), stage.weights.needed
            directions = d if self.probes is None else k
            size = self.divergence.rows(
                self._velocity(stage, few), some, stage.time, kind, chunk, directions,
                bool(self.cond),
            )  # fmt: skip
        parts = []
        for begin in range(0, n, size):
            rows = slice(begin, begin + size) if n > size else slice(None)
            x = state[rows, :d].reshape(-1, *self.shape)
            velocity = self._velocity(stage, rows)
            if integrals:
                along = None if self.probes is None else self.probes[:, rows]
                found = self.divergence.forms(velocity, x, along, size)
                if found is None:  # some rows showed that another mode is needed
                    self.nfe -= 1
                    return self.slope(stage, state)
                value, forms = found
            else:
                value, forms = velocity(x, 1), x.new_zeros(len(x), k)
            parts.append(torch.cat([value.flatten(1), forms], 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _velocity(self, stage: Stage, rows: slice) -> Callable[[Tensor, int], Tensor]:
        """The velocity of some rows, repeated, with their conditions."""
        cond = self.cond
        if cond and rows != slice(None):
            cond = map_rows(cond, lambda value: value[rows])

        def velocity(z: Tensor, copies: int) -> Tensor:
            wide = map_rows(cond, lambda value: repeat_rows(value, copies)) if cond else cond
            return self.flow.at(stage, z, wide)

        return velocity

    def _draw(self, x: Tensor) -> Tensor:
        generator = stream(draw_key(self.generator), device=x.device)
        shape = (self.count, *x.shape)
        return draw_probes(
            self.probe_law, shape, generator=generator, dtype=x.dtype, device=x.device
        )


class _Along(nn.Module):
    """The right-hand side of the ODE on a piece of the flow; it counts its evaluations."""

    def __init__(self, solver: Solver, piece: Piece) -> None:
        super().__init__()
        self.solver, self.piece = solver, piece

    def forward(self, u: Tensor, state: Tensor) -> Tensor:
        solver = self.solver
        if solver.scheme in ADAPTIVE:
            time = solver.flow.clock.time(u.detach())
            solver.budget.spend(self._slope, time, u.detach(), state.detach())
        return self._slope(u, state)

    def _slope(self, u: Tensor, state: Tensor) -> Tensor:
        return self.solver.slope(self.solver.flow.stages(self.piece, u[None], state)[0], state)


@contextmanager
def recording(field: Field, gradients: bool) -> Iterator[None]:
    """Keep a graph of what is computed; or keep none, with the networks in evaluation mode."""
    if gradients:
        yield
        return
    with torch.inference_mode(False), torch.no_grad(), evaluating(field):
        yield


def over_probes(integrals: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """The mean over the probes, and its standard error."""
    n, k = integrals.shape
    mean = integrals.mean(1)
    if exact:
        return mean, integrals.new_zeros(n)
    if k == 1:
        return mean, integrals.new_full((n,), math.nan)
    return mean, integrals.detach().std(1) / math.sqrt(k)


def check_field(field: Any) -> None:
    """Refuse what is no field."""
    if not isinstance(field, Field):
        raise TypeError(
            "a likelihood is that of a Field such as Velocity(net, process), got"
            f" {type(field).__name__}; the order is (field, x)"
        )


def check_options(
    divergence: str, probes: int, probe_law: str, scheme: str, rtol: float, atol: float
) -> None:
    """Refuse options that are unknown or out of their range."""
    if divergence not in DIVERGENCES:
        raise ValueError(f"unknown divergence {divergence!r}; known: {names(DIVERGENCES)}")
    whole = isinstance(probes, numbers.Integral) and not isinstance(probes, bool)
    if not whole or probes < 1:
        raise ValueError(
            f"probes must be an integer of at least 1, got {probes!r}; two give a standard error"
        )
    if probe_law not in PROBE_LAWS:
        raise ValueError(f"unknown probe_law {probe_law!r}; known: {names(PROBE_LAWS)}")
    options = [*SCHEMES, *ADAPTIVE]
    known = {name: ours for name, ours in ELSEWHERE.items() if ours.strip("'") in options}
    choice("scheme", scheme, options, known)
    check_tolerances(rtol, atol)
