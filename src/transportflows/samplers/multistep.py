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

from ..conversions import ConversionError, Weights
from ..fields.base import Field
from ..solve.epsilon import EpsilonSchedule
from ..solve.noise import NoiseSource
from ..solve.rows import Coefficient, Rows, accumulate, is_zero
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
        if not field.process.one_sided:
            raise ConversionError(_two_sided(field, scheme))
        self.field, self.schedules, self.scheme = field, list(schedules), scheme
        self.groups, self.name = len(self.schedules), scheme.name
        self.given_margin = margin

    @torch.no_grad()
    def tabulate(self, times: Tensor, like: Tensor) -> bool:
        field, process = self.field, self.field.process
        on_device = times.to(like.device)
        table = self.scheme.tabulate(field, self.schedules, on_device)
        self.forms = table.forms
        self.state = [self._ready(a, like) for a in table.state]
        self.weights = [[self._ready(w, like) for w in step] for step in table.weights]
        self.fixes = {i: [self._ready(w, like) for w in step] for i, step in table.fixes.items()}
        self.counts = table.counts()
        self.mean = None if process.base_mean is None else process.base_mean.to(like)
        if self.mean is not None:
            alpha = process.affine.alpha(on_device)
            self.offset = [
                self._ready(alpha[i + 1] - a * alpha[i], like) for i, a in enumerate(table.state)
            ]
        self.noise = None
        if table.noise is not None:
            root = times.diff().abs().sqrt().tolist()  # of the variance of the increments
            self.noise = [self._ready(n / r, like) for n, r in zip(table.noise, root, strict=True)]
        self.times, predictors = self._predictors(times, like)
        self.nodes = self.times.to(like)
        self.predictors = predictors
        self.nfe = len(times) - 1
        return self.noise is not None

    def _ready(self, value: Tensor, like: Tensor) -> Coefficient:
        return float(value) if value.numel() == 1 else value.to(like)

    def _predictors(
        self, times: Tensor, like: Tensor
    ) -> tuple[Tensor, dict[str, list[_Combination]]]:
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
        made: dict[str, list[_Combination]] = {}
        for form, counts in self.counts.items():
            weights = self._form(form, nodes.to(like.device))
            finite = torch.stack([torch.isfinite(w) for w in weights.tensors()]).all(0).cpu()
            bad = ~finite & torch.tensor([count > 0 for count in counts[:-1]])
            if bool(bad.any()):
                raise ConversionError(
                    f"the {form} of this {type(self.field).__name__} is singular at"
                    f" t = {float(nodes[bad][0]):g} for"
                    f" {type(self.field.process.interpolant).__name__}; keep the grid away from"
                    " there (margin=1e-3), or take another prediction="
                )
            made[form] = _combinations(weights, len(nodes))
        return nodes, made

    def _made_at(self, step: int) -> list[str]:
        return [form for form, counts in self.counts.items() if counts[step] > 0]

    def _form(self, form: str, t: Tensor) -> Weights:
        if form != "velocity":
            return self.field.weights(form, t)
        noise, data = self.field.weights("noise", t), self.field.weights("data", t)
        return Weights(
            _minus(noise.x, data.x),
            _minus(noise.mean, data.mean),
            tuple(_minus(a, b) for a, b in zip(noise.outputs, data.outputs, strict=True)),
        )

    def memory(self) -> dict[str, list[Tensor]]:
        return {form: [] for form in self.counts}

    def draw(self, step: int, t0: float, t1: float, noise: NoiseSource) -> tuple[Tensor, ...]:
        return (noise.increment(step, t0, t1, area=False)[0],)

    def step(
        self, step: int, x: Tensor, rows: Rows, draws: tuple[Tensor, ...], memory: Any
    ) -> Tensor:
        makers = {form: self.predictors[form][step] for form in self._made_at(step)}
        needed = tuple(map(any, zip(*(maker.needed for maker in makers.values()), strict=True)))
        outputs = self.field.predict(self.nodes[step], x, needed=needed, **rows.cond)
        for form, maker in makers.items():
            memory[form].insert(0, maker.of(x, self.mean, outputs))
        if step in self.fixes:
            x = _sum(x.clone(), self.fixes[step], memory[self.forms[step - 1]], rows)
        moved = _times(self.state[step], x, rows)
        if self.mean is not None:
            moved = accumulate(moved, self.offset[step], self.mean, rows)
        moved = _sum(moved, self.weights[step], memory[self.forms[step]], rows)
        if self.noise is not None:
            moved = _sum(moved, [self.noise[step]], draws, rows)
        for form, counts in self.counts.items():
            del memory[form][max(counts[step + 1] - 1, 0) :]
        return moved


class _Combination:
    """``x · state + mean · m + Σ_k outputs[k] · f_k`` at one time, with numbers."""

    def __init__(
        self, state: float | None, mean: float | None, outputs: Sequence[float | None]
    ) -> None:
        self.state, self.mean, self.outputs = state, mean, outputs
        self.needed = tuple(w is not None and w != 0.0 for w in outputs)

    def of(self, x: Tensor, mean: Tensor | None, predictions: Sequence[Tensor | None]) -> Tensor:
        """Make it; always a new tensor."""
        out: Tensor | None = None
        for weight, prediction in zip(self.outputs, predictions, strict=True):
            if weight is None or weight == 0.0 or prediction is None:
                continue
            if out is None:
                out = prediction.clone() if weight == 1.0 else prediction * weight
            else:
                out = torch.add(out, prediction, alpha=weight)
        if self.state is not None and self.state != 0.0:
            out = x * self.state if out is None else _add(out, x, self.state)
        if mean is not None and self.mean is not None and self.mean != 0.0:
            out = torch.zeros_like(x) if out is None else out
            out = torch.add(out, mean, alpha=self.mean)
        return torch.zeros_like(x) if out is None else out


def _combinations(weights: Weights, count: int) -> list[_Combination]:
    def numbers(w: Tensor | None) -> Sequence[float | None]:
        return [None] * count if w is None else w.double().tolist()

    state, mean = numbers(weights.x), numbers(weights.mean)
    outputs = [numbers(w) for w in weights.outputs]
    return [
        _Combination(a, b, row)
        for a, b, row in zip(state, mean, zip(*outputs, strict=True), strict=True)
    ]


def _minus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if b is None:
        return a
    return -b if a is None else a - b


def _add(out: Tensor, value: Tensor, weight: float) -> Tensor:
    """``out + weight value``; into out, which is the caller's own, where no gradient flows."""
    if torch.is_grad_enabled():
        return torch.add(out, value, alpha=weight)
    return out.add_(value, alpha=weight)


def _times(weight: Coefficient, x: Tensor, rows: Rows) -> Tensor:
    return x * (weight if isinstance(weight, float) else rows.spread(weight))


def _sum(
    out: Tensor, weights: Sequence[Coefficient], terms: Sequence[Tensor], rows: Rows
) -> Tensor:
    for weight, term in zip(weights, terms, strict=False):
        if is_zero(weight):
            continue
        if isinstance(weight, float):
            out = _add(out, term, weight)
        elif torch.is_grad_enabled():
            out = torch.addcmul(out, rows.spread(weight), term)
        else:
            out.addcmul_(rows.spread(weight), term)
    return out


def _two_sided(field: Field, scheme: Multistep) -> str:
    process = field.process
    return (
        f"{scheme.name} moves between data and noise, and this process has no Gaussian part beside"
        f" x1: it is {type(process.interpolant).__name__} with base {type(process.base).__name__}"
        f" and coupling {type(process.coupling).__name__}. Use scheme='heun' or 'rk4' (with"
        " epsilon > 0 it needs a field that tells the score, such as FieldPair(velocity=...,"
        " noise=...)), or a process with an independent isotropic Gaussian base"
    )
