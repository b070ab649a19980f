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

from ..combination import Combination
from ..fields.base import Field
from ..gaussian_part import ConversionError
from ..solve.epsilon import EpsilonSchedule
from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Stepper

__all__ = ["LinearStepper", "Multistep", "Table"]

_POLE = 1e4


class Multistep(ABC):
    """A scheme of its own for one-sided processes: linear in the state and in predictions.

    Attributes:
        name: shown in :class:`Solution`.
        order: order for ε = 0.
    """

    name: str
    order: float

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:  # noqa: B027
        """Refuse what the scheme cannot do with these ε.

        Raises:
            ValueError: says why, and what to write instead.
        """

    @abstractmethod
    def tabulate(self, field: Field, schedules: Sequence[EpsilonSchedule], times: Tensor) -> Table:
        """The numbers of all steps of a grid, float64 ``(steps + 1,)``."""


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
        self.field, self.schedules, self.scheme = field, list(schedules), scheme
        self.groups, self.name = len(self.schedules), scheme.name
        self.given_margin = margin

    @torch.no_grad()
    def tabulate(self, times: Tensor, like: Tensor) -> bool:
        part = self.field.process.part
        on_device = times.to(like.device)
        table = self.scheme.tabulate(self.field, self.schedules, on_device)
        self.forms, self.counts = table.forms, table.counts()
        self.mean = None if part.base_mean is None else part.base_mean.to(like)
        offset = None
        if self.mean is not None:
            alpha = part.path.alpha(on_device)
            offset = [alpha[i + 1] - a * alpha[i] for i, a in enumerate(table.state)]
        noise = None
        if table.noise is not None:
            root = times.diff().abs().sqrt().tolist()  # of the variance of the increments
            noise = [n / r for n, r in zip(table.noise, root, strict=True)]
        # The predictions in memory count as outputs, newest first, and so does the noise.
        self.moves = [
            Combination(
                table.state[i],
                None if offset is None else offset[i],
                (*table.weights[i], *(() if noise is None else (noise[i],))),
            ).tabulated(1, self.groups, like)[0]
            for i in range(len(table.state))
        ]
        self.fixes = {
            i: Combination(torch.ones_like(table.state[i]), None, tuple(fix)).tabulated(
                1, self.groups, like
            )[0]
            for i, fix in table.fixes.items()
        }
        self.seen = [len(weights) for weights in table.weights]
        self.times, self.predictors = self._predictors(times, like)
        self.nodes = self.times.to(like)
        self.nfe = len(times) - 1
        return noise is not None

    def _predictors(
        self, times: Tensor, like: Tensor
    ) -> tuple[Tensor, dict[str, list[Combination]]]:
        """How each form is made of the network's outputs; times moved off a pole at the start."""
        nodes = times[:-1].clone()
        low, high = self.given_margin or (0.0, 0.0)
        if self.given_margin is None:
            first = [self._form(form, nodes[:1].to(like.device)) for form in self._made_at(0)]
            sizes = torch.cat([w.abs().reshape(-1) for f in first for w in f.tensors()])
            if not bool((sizes <= _POLE).all()):  # NaN is not <=
                half = 0.5 * float((times[1] - times[0]).abs())
                low, high = (half, 0.0) if float(times[0]) < 0.5 else (0.0, half)
        self.margin = (low, high)
        nodes = nodes.clamp(low, 1 - high)
        made: dict[str, list[Combination]] = {}
        for form, counts in self.counts.items():
            weights = self._form(form, nodes.to(like.device))
            bad = ~weights.finite().cpu() & torch.tensor([count > 0 for count in counts[:-1]])
            if bool(bad.any()):
                raise ConversionError(
                    f"the {form} of this {type(self.field).__name__} is singular at"
                    f" t = {float(nodes[bad][0]):g} for"
                    f" {type(self.field.process.interpolant).__name__}; keep the grid away from"
                    " there (margin=1e-3), or take another prediction="
                )
            made[form] = weights.map(lambda w: w.double()).tabulated(len(nodes), 1, like)
        return nodes, made

    def _made_at(self, step: int) -> list[str]:
        return [form for form, counts in self.counts.items() if counts[step] > 0]

    def _form(self, form: str, t: Tensor) -> Combination:
        if form != "velocity":
            return self.field.weights(form, t)
        return self.field.weights("noise", t) - self.field.weights("data", t)

    def memory(self) -> dict[str, list[Tensor]]:
        return {form: [] for form in self.counts}

    def draw(self, step: int, t0: float, t1: float, noise: NoiseSource) -> tuple[Tensor, ...]:
        return (noise.increment(step, t0, t1, area=False)[0],)

    def step(
        self, step: int, x: Tensor, rows: Rows, draws: tuple[Tensor, ...], memory: Any
    ) -> Tensor:
        makers = {form: self.predictors[form][step] for form in self._made_at(step)}
        needed = tuple(map(any, zip(*(maker.needed for maker in makers.values()), strict=True)))
        outputs = self.field.predict(self.nodes[step], x, rows.cond, needed)
        for form, maker in makers.items():
            made = maker.of(x, self.mean, outputs)
            # What a network gives may be its own buffer, and is kept for later steps.
            memory[form].insert(0, made.clone() if any(made is f for f in outputs) else made)
        spread = None if self.groups == 1 else rows
        if step in self.fixes:
            fix, before = self.fixes[step], memory[self.forms[step - 1]]
            x = fix.of(x, None, before[: len(fix.outputs)], spread)
        seen = memory[self.forms[step]][: self.seen[step]]
        moved = self.moves[step].of(x, self.mean, (*seen, *draws), spread)
        for form, counts in self.counts.items():
            del memory[form][max(counts[step + 1] - 1, 0) :]
        return moved
