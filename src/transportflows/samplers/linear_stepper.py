r"""The stepper of multistep schemes: linear in the state and in predictions made so far.

The numbers of a :class:`Multistep` scheme are tabulated before the loop. A prediction is made at
``(t_i, x_i)`` by one network call, and kept in the memory of the chunk.

A corrector costs no call and no more than one term: with the value at t_i known, what the last step
added is changed by a combination of predictions, and both steps are one. So the state between two
steps is the predicted one, and what changes it there (a Langevin step) is not undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._core.precision import table_device, wide
from ..combination import Combination
from ..conversions import conversion
from ..fields.base import Field
from ..gaussian_part import ConversionError
from ..solve.epsilon import EpsilonSchedule
from ..solve.grid import on_their_side
from ..solve.limit import limited, limited_times
from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Prepared, Stepper
from .kept import kept
from .multistep import Multistep
from .multistep_table import Row, bridge, counts_of, inside_steps

__all__ = ["LinearStepper"]

_POLE = 1e4
_HISTORY = 8  # steps, of which no scheme looks further back
_BRIDGE = 5  # the path of the normals of times inside steps


class LinearStepper(Stepper):
    """The stepper of a :class:`Multistep` scheme along a field.

    Args:
        field: any field of a one-sided process.
        schedules: one ε for each group of rows.
        scheme: the scheme.
        margin: the field is evaluated no nearer than this to t = 0 and to t = 1; None for what
            the weights of the prediction need: half a step, at a pole where the solve starts.
        saved: times at which states are wanted. Those inside a step are made of the predictions
            that the step is made of, at no call, and share its noise as a Brownian bridge does; so
            the steps do not depend on them.

    Raises:
        ConversionError: if the process is two-sided.
        ValueError: if the scheme refuses the ε.
    """

    def __init__(
        self,
        field: Field,
        schedules: Sequence[EpsilonSchedule],
        scheme: Multistep,
        *,
        margin: tuple[float, float] | None = None,
        saved: Sequence[float] = (),
    ) -> None:
        scheme.check(schedules)
        field.process.part  # noqa: B018 (it refuses a process that has none)
        if field.power != 1:
            raise ConversionError(
                f"the scheme {scheme.name!r} solves the linear part of x_t = β x1 + σ̂ ẑ exactly,"
                f" and this {type(field).__name__} is of a product of densities, which is of no"
                " such process; use scheme='heun' or 'rk4'"
            )
        self.field, self.scheme = field, scheme
        self.schedules = limited(schedules, scheme.limit)
        self.groups, self.name = len(self.schedules), scheme.name
        self.remembers = scheme.remembers
        self.given_margin, self.saved = margin, saved

    @torch.no_grad()
    def prepare(self, times: Tensor, like: Tensor) -> _Steps:
        others = (self.given_margin, tuple(self.saved))
        told = (self.field, self.schedules, self.scheme, times, like, others)
        steps = kept(*told, make=lambda: self._tabulated(times, like))
        return replace(steps, nodes=steps.nodes.clone())  # a network may write into them

    def _tabulated(self, times: Tensor, like: Tensor) -> _Steps:
        part = self.field.process.part
        on_device = times.to(table_device(like.device))
        rows = self.scheme.tabulate(self.field, self.schedules, on_device).rows()
        inside = inside_steps(times.tolist(), self.saved)
        ways = [[row] for row in rows]
        for step, own in inside.items():
            ways[step] += [self._way_to(on_device, step, time) for time in own]
        mean = None if part.base_mean is None else part.base_mean.to(like)
        moves = []
        for i, (row, *others) in enumerate(ways):
            stops = on_device.new_tensor([*inside.get(i, ()), float(times[i + 1])]).roll(1)
            offset: list[Tensor | None] = [None] * len(stops)
            if mean is not None:
                alpha, start = part.path.alpha(stops), part.path.alpha(on_device[i])
                offset = [a - each.state * start for a, each in zip(alpha, ways[i], strict=True)]
            h = float((times[i + 1] - times[i]).abs())
            shared = bridge(row, others, h)
            moves.append(
                [self._move(*way, like) for way in zip(ways[i], offset, shared, strict=True)]
            )
        counts = counts_of(ways)
        nodes, margin, predictors = self._predictors(times, like, counts)
        starts, widths = on_device[:-1], on_device.diff()
        stages = torch.stack([starts, starts + 0.5 * widths, on_device[1:]], 1)
        return _Steps(
            noisy=rows[0].noise is not None,
            limited=limited_times(self.schedules, part, stages, widths),
            margin=margin,
            inside=inside,
            counts=counts,
            moves=moves,
            predictors=predictors,
            nodes=nodes.to(like),
            mean=mean,
        )

    def _way_to(self, times: Tensor, step: int, time: float) -> Row:
        """To a time inside a step: the last step of the grid that ends there."""
        known = times[max(0, step - _HISTORY) : step + 1]
        grid = torch.cat([known, known.new_tensor([time])])
        return self.scheme.tabulate(self.field, self.schedules, grid).rows()[-1]

    def _move(
        self, row: Row, offset: Tensor | None, noise: tuple[Tensor, ...], like: Tensor
    ) -> _Move:
        # The predictions in memory count as outputs, newest first, and so does the noise.
        def ready(weights: Combination) -> Combination:
            return weights.tabulated(1, self.groups, like)[0]

        fix = None
        if row.fix is not None:
            fix = ready(Combination(torch.ones_like(row.state), None, tuple(row.fix)))
        total = ready(Combination(row.state, offset, (*row.weights, *noise)))
        return _Move(row.form, len(row.weights), total, fix, row.before)

    def _predictors(
        self, times: Tensor, like: Tensor, counts: dict[str, list[int]]
    ) -> tuple[Tensor, tuple[float, float], dict[str, list[Combination]]]:
        """Times off a pole at the start, how far, and how each form is made of the outputs."""
        kinks = self.field.breakpoints
        nodes = on_their_side(times[:-1, None], times.diff(), kinks, like.dtype)[:, 0].clone()
        low, high = self.given_margin or (0.0, 0.0)
        if self.given_margin is None:
            first = [
                self._form(form, nodes[:1].to(table_device(like.device)))
                for form in _made_at(0, counts)
            ]
            sizes = torch.cat([w.abs().reshape(-1) for f in first for w in f.tensors()])
            if not bool((sizes <= _POLE).all()):  # NaN is not <=
                half = 0.5 * float((times[1] - times[0]).abs())
                low, high = (half, 0.0) if float(times[0]) < 0.5 else (0.0, half)
        nodes = nodes.clamp(low, 1 - high)
        made: dict[str, list[Combination]] = {}
        for form, wanted in counts.items():
            weights = self._form(form, nodes.to(table_device(like.device)))
            bad = ~weights.finite().cpu() & torch.tensor([count > 0 for count in wanted[:-1]])
            if bool(bad.any()):
                raise ConversionError(
                    f"the {form} of this {type(self.field).__name__} is singular at"
                    f" t = {float(nodes[bad][0]):g} for"
                    f" {type(self.field.process.interpolant).__name__}; keep the grid away from"
                    " there (margin=1e-3), or take another prediction="
                )
            made[form] = weights.map(wide).tabulated(len(nodes), 1, like)
        return nodes, (low, high), made

    def _form(self, form: str, t: Tensor) -> Combination:
        """A form from one output, the velocity of a pair: so ``x' = β d + σ̂ η̂`` holds of all."""
        if form == "velocity":
            return self._form("noise", t) - self._form("data", t)
        outputs = self.field.outputs
        source = next((o for o in outputs if o in ("velocity", "mean_velocity")), None)
        if source is None or len(outputs) == 1:
            return self.field.weights(form, t)
        one = conversion(self.field.process.part, (source,), form, t)
        own = tuple(one.outputs[0] if o == source else None for o in outputs)
        return Combination(one.x, one.mean, own)

    def memory(self, prepared: _Steps, x: Tensor, rows: Any) -> _Memory:
        return _Memory({form: [] for form in prepared.counts}, [])

    def draw(
        self, prepared: _Steps, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        extra = range(len(prepared.inside.get(step, ())))
        increment = noise.increment(step, t0, t1, area=False)[0]
        return (increment, *(noise.normal(_BRIDGE, step, k) for k in extra))

    def step(
        self,
        prepared: _Steps,
        step: int,
        x: Tensor,
        memory: _Memory,
        rows: Rows,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, _Memory]:
        makers = {form: prepared.predictors[form][step] for form in _made_at(step, prepared.counts)}
        needed = tuple(map(any, zip(*(maker.needed for maker in makers.values()), strict=True)))
        outputs = self.field.predict(prepared.nodes[step], x, rows.cond, needed)
        known = dict(memory.known)
        for form, maker in makers.items():
            made = maker.of(x, prepared.mean, outputs)
            # What a network gives may be its own buffer, and is kept for later steps.
            own = made.clone() if any(made is f for f in outputs) else made
            known[form] = [own, *known[form]]
        spread = None if self.groups == 1 else rows
        states = []
        for move in prepared.moves[step]:
            state = x
            if move.fix is not None and move.before is not None:
                state = move.fix.of(x, None, known[move.before][: len(move.fix.outputs)], spread)
            seen, count = known[move.form][: move.seen], len(move.total.outputs) - move.seen
            states.append(move.total.of(state, prepared.mean, (*seen, *draws[:count]), spread))
        kept = {
            form: known[form][: max(counts[step + 1] - 1, 0)]
            for form, counts in prepared.counts.items()
        }
        return states[0], _Memory(kept, states[1:])

    def inside(self, memory: _Memory) -> list[Tensor]:
        return memory.inside


@dataclass(frozen=True, eq=False)
class _Memory:
    """Predictions by form, the newest first, and the states inside the last step."""

    known: dict[str, list[Tensor]]
    inside: list[Tensor]


@dataclass(frozen=True, eq=False)
class _Move:
    """One way from a time of the grid.

    Attributes:
        form: what is predicted.
        seen: how many predictions go into it.
        total: the way, of x, the mean, the predictions (newest first) and the noise.
        fix: the correction of the step before, where it was of another form.
        before: that form.
    """

    form: str
    seen: int
    total: Combination
    fix: Combination | None
    before: str | None


@dataclass(frozen=True, eq=False, kw_only=True)
class _Steps(Prepared):
    """Tables of a multistep solve, by step.

    Attributes:
        counts: how many predictions of each form are needed.
        moves: the ways from each time: the step, and those to times inside it.
        predictors: how each form is made of the network's outputs.
        nodes: times at which the network is called.
        mean: m, or None.
    """

    counts: dict[str, list[int]]
    moves: list[list[_Move]]
    predictors: dict[str, list[Combination]]
    nodes: Tensor
    mean: Tensor | None


def _made_at(step: int, counts: dict[str, list[int]]) -> list[str]:
    """The forms that are predicted at a step."""
    return [form for form, wanted in counts.items() if wanted[step] > 0]
