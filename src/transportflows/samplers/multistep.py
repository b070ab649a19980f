r"""Steps that are linear in the state and in predictions made so far.

.. math:: x_{i+1} = A_i x_i + M_i m + \sum_j V_{ij} f_{i-j} + n_i z_i

is all that DDIM, ancestral sampling, exponential integrators, Adams-Bashforth methods and their
correctors do; they differ in the numbers, which are tabulated before the loop. f is the prediction
of a *form* (data, noise, or their difference, the velocity of a linear path), made at
``(t_i, x_i)`` by one network call, and kept in the memory of the chunk.

A corrector costs no call and no more than one term: with the value at t_i known, what the last step
added is changed by a combination of predictions, and both steps are one. So the state between two
steps is the predicted one, and what changes it there (a Langevin step) is not undone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._core.precision import table_device, wide
from .._core.signatures import checked
from ..combination import Combination
from ..fields.base import Field
from ..gaussian_part import ConversionError
from ..solve.epsilon import EpsilonSchedule
from ..solve.grid import on_their_side
from ..solve.limit import limited, limited_times
from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Prepared, Stepper

__all__ = ["LinearStepper", "Multistep", "Table"]

_POLE = 1e4


@checked
class Multistep(ABC):
    """A scheme of its own for one-sided processes: linear in the state and in predictions.

    Attributes:
        name: shown in :class:`Solution`.
        order: order for ε = 0.
    """

    name: str
    order: float

    @property
    def limit(self) -> float:
        """The most of ``|h| ε/σ̂²`` in a step, to which ε is limited; the laws of x_t stay."""
        return 1.0 if self.remembers else 0.05

    @property
    def remembers(self) -> bool:
        """Whether predictions of earlier steps go into later ones."""
        return self.order > 1

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:  # noqa: B027
        """Refuse what the scheme cannot do with these ε.

        Raises:
            ValueError: says why, and what to write instead.
        """

    @abstractmethod
    def tabulate(self, field: Field, schedules: Sequence[EpsilonSchedule], times: Tensor) -> Table:
        """The numbers of all steps of a grid, float64 ``(steps + 1,)``."""


@checked
@dataclass
class Table:
    """The numbers of a solve, by step; of shape ``(G,)``, one for each ε.

    Attributes:
        forms: what is predicted.
        state: ``A_i``.
        weights: ``V_i``, ``(J, G)``, that of the newest prediction first.
        noise: ``n_i``; None if no step takes noise.
        fixes: at a step of another form than the one before it, what corrects that one, ``(J, G)``,
            in its form; otherwise corrections are in ``V_i``.
    """

    forms: list[str]
    state: list[Tensor]
    weights: list[Tensor]
    noise: list[Tensor] | None = None
    fixes: dict[int, Tensor] = field(default_factory=dict)

    def counts(self) -> dict[str, list[int]]:
        """How many predictions of each form are needed at each step, the newest among them.

        They are needed for the step or for later ones; one entry of 0 more stands for the end.
        """
        found: dict[str, list[int]] = {}
        for form in dict.fromkeys(self.forms):
            counts = [0]
            for i in reversed(range(len(self.forms))):
                own = len(self.weights[i]) if self.forms[i] == form else 0
                if i in self.fixes and self.forms[i - 1] == form:
                    own = max(own, len(self.fixes[i]))
                counts.append(max(own, counts[-1] - 1))
            found[form] = counts[::-1]
        return found


class LinearStepper(Stepper):
    """The stepper of a :class:`Multistep` scheme along a field.

    Args:
        field: any field of a one-sided process.
        schedules: one ε for each group of rows.
        scheme: the scheme.
        margin: the field is evaluated no nearer than this to t = 0 and to t = 1; None for what
            the weights of the prediction need: half a step, at a pole where the solve starts.

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
    ) -> None:
        scheme.check(schedules)
        field.process.part  # noqa: B018 (it refuses a process that has none)
        self.field, self.scheme = field, scheme
        self.schedules = limited(schedules, scheme.limit)
        self.groups, self.name = len(self.schedules), scheme.name
        self.remembers = scheme.remembers
        self.given_margin = margin

    @torch.no_grad()
    def prepare(self, times: Tensor, like: Tensor) -> _Steps:
        part = self.field.process.part
        on_device = times.to(table_device(like.device))
        table = self.scheme.tabulate(self.field, self.schedules, on_device)
        mean = None if part.base_mean is None else part.base_mean.to(like)
        offset = None
        if mean is not None:
            alpha = part.path.alpha(on_device)
            offset = [alpha[i + 1] - a * alpha[i] for i, a in enumerate(table.state)]
        noise = None
        if table.noise is not None:
            root = times.diff().abs().sqrt().tolist()  # of the variance of the increments
            noise = [n / r for n, r in zip(table.noise, root, strict=True)]
        # The predictions in memory count as outputs, newest first, and so does the noise.
        moves = [
            Combination(
                a,
                None if offset is None else offset[i],
                (*table.weights[i], *(() if noise is None else (noise[i],))),
            ).tabulated(1, self.groups, like)[0]
            for i, a in enumerate(table.state)
        ]
        fixes = {
            i: Combination(torch.ones_like(table.state[i]), None, tuple(fix)).tabulated(
                1, self.groups, like
            )[0]
            for i, fix in table.fixes.items()
        }
        counts = table.counts()
        nodes, margin, predictors = self._predictors(times, like, counts)
        starts, widths = on_device[:-1], on_device.diff()
        stages = torch.stack([starts, starts + 0.5 * widths, on_device[1:]], 1)
        return _Steps(
            noisy=noise is not None,
            limited=limited_times(self.schedules, part, stages, widths),
            margin=margin,
            forms=table.forms,
            counts=counts,
            seen=[len(weights) for weights in table.weights],
            moves=moves,
            fixes=fixes,
            predictors=predictors,
            nodes=nodes.to(like),
            mean=mean,
        )

    def _predictors(
        self, times: Tensor, like: Tensor, counts: dict[str, list[int]]
    ) -> tuple[Tensor, tuple[float, float], dict[str, list[Combination]]]:
        """Times off a pole at the start, how far, and how each form is made of the outputs."""
        kinks = self.field.process.interpolant.breakpoints
        nodes = on_their_side(times[:-1, None], times.diff(), kinks, like.dtype)[:, 0].clone()
        low, high = self.given_margin or (0.0, 0.0)
        if self.given_margin is None:
            first = [self._form(form, nodes[:1].to(table_device(like.device))) for form in _made_at(0, counts)]
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
        if form != "velocity":
            return self.field.weights(form, t)
        return self.field.weights("noise", t) - self.field.weights("data", t)

    def memory(self, prepared: _Steps, x: Tensor, rows: Any) -> dict[str, list[Tensor]]:
        return {form: [] for form in prepared.counts}

    def draw(
        self, prepared: _Steps, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        return (noise.increment(step, t0, t1, area=False)[0],)

    def step(
        self,
        prepared: _Steps,
        step: int,
        x: Tensor,
        memory: dict[str, list[Tensor]],
        rows: Rows,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        makers = {form: prepared.predictors[form][step] for form in _made_at(step, prepared.counts)}
        needed = tuple(map(any, zip(*(maker.needed for maker in makers.values()), strict=True)))
        outputs = self.field.predict(prepared.nodes[step], x, rows.cond, needed)
        memory = dict(memory)
        for form, maker in makers.items():
            made = maker.of(x, prepared.mean, outputs)
            # What a network gives may be its own buffer, and is kept for later steps.
            own = made.clone() if any(made is f for f in outputs) else made
            memory[form] = [own, *memory[form]]
        spread = None if self.groups == 1 else rows
        form = prepared.forms[step]
        if step in prepared.fixes:
            fix, before = prepared.fixes[step], memory[prepared.forms[step - 1]]
            x = fix.of(x, None, before[: len(fix.outputs)], spread)
        seen = memory[form][: prepared.seen[step]]
        moved = prepared.moves[step].of(x, prepared.mean, (*seen, *draws), spread)
        kept = {
            form: memory[form][: max(counts[step + 1] - 1, 0)]
            for form, counts in prepared.counts.items()
        }
        return moved, kept


@dataclass(frozen=True, eq=False, kw_only=True)
class _Steps(Prepared):
    """Tables of a multistep solve, by step.

    Attributes:
        forms: what is predicted.
        counts: how many predictions of each form are needed.
        seen: how many go into the step.
        moves: the step, of x, the mean, the predictions (newest first) and the noise.
        fixes: corrections of the step before, where it was of another form.
        predictors: how each form is made of the network's outputs.
        nodes: times at which the network is called.
        mean: m, or None.
    """

    forms: list[str]
    counts: dict[str, list[int]]
    seen: list[int]
    moves: list[Combination]
    fixes: dict[int, Combination]
    predictors: dict[str, list[Combination]]
    nodes: Tensor
    mean: Tensor | None


def _made_at(step: int, counts: dict[str, list[int]]) -> list[str]:
    """The forms that are predicted at a step."""
    return [form for form, wanted in counts.items() if wanted[step] > 0]
