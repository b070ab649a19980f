r"""Feynman-Kac weights along the SDE, as a stepper of the one loop.

For a path of unnormalised densities q_t with ``S = ∇ log q_t``, any transport v and any ε ≥ 0,

.. math:: dX = (v + \varepsilon S)\, dt + \sqrt{2\varepsilon}\, dW, \qquad
          d \log w = (\partial_t \log q + v \cdot S + \nabla \cdot v)\, dt,

the weighted states have the law q_t: ``E[w f(X_t)] = ∫ q_t f / ∫ q_0``. (By the continuity
equation, ``∂t q + ∇·(q v) = q · rate``, and the relaxation leaves q_t where it is. Skreta et al.
2025; Wu et al. 2023 for twisted chains.) ε drops out of the rate. For ``q = Π p_i^{w_i} e^r`` each
p_i obeys ``∂t log p_i = -b_i·s_i - ∇·b_i``, so with ``v = Ā + Σ w_i (b_i - A_i)``, A_i and Ā affine
(:mod:`.closure`) or zero, no divergence of a b_i is left:

.. math:: \mathrm{rate} = v \cdot \sum_i w_i s_i - \sum_i w_i\, b_i \cdot s_i
          + \mathrm{tr}(\nabla \bar A - \sum_i w_i \nabla A_i) + \partial_t r + v \cdot \nabla r .

The noise is additive, so Heun's method on (x, log w) together is of weak order 2. A step is a map
of its start and its noise n, of variance V = 2εh. A *proposal* shifts that noise by ``h δ(t, x)``,
and

.. math:: \Delta \log w = -\frac{|n + h\delta|^2 - |n|^2}{2V}

makes up for it exactly, whatever δ is, so that the order stays. On average that costs ``h|δ|²/4ε``
of log w, so where ε is limited to less than was asked for, a function's δ is lowered with its root.

Where the errors of learned predictions are multiplied too much, they are left out of the rate
(:mod:`.left_out`).

Before a step in which there is noise to part copies, rows are drawn again where the effective size
has fallen below a share of N. No value is read from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.precision import table_device, wide, widest
from .._core.random import stream
from .._core.tensor import sum_events
from ..combination import Combination
from ..fields.base import Field
from ..gaussian_part import ConversionError, GaussianPart
from ..samplers.ends import BOUND
from ..solve.epsilon import EpsilonSchedule
from ..solve.grid import on_their_side
from ..solve.limit import limited, limited_times
from ..solve.noise import NoiseSource
from ..solve.rows import Chunks
from ..solve.stepper import Prepared, Stepper
from .closure import Affine, Law, closure_split
from .cloud import Cloud
from .left_out import Scaling, left_out, scalings
from .target import Target

__all__ = ["WeightedStepper"]

Shift = Callable[[Tensor, Tensor, Mapping[str, Any], float], Tensor]

_LIMIT = 0.25  # the most of h ε/σ̂² in a step, for W = 1: Heun's own


class WeightedStepper(Stepper):
    """Heun steps of (x, log w).

    Args:
        field: the guided field.
        target: its path of densities.
        epsilon: ε.
        start: the weights of the starting states, ``(n,)``, logarithms.
        threshold: share of the effective size below which rows are drawn again.
        closure: laws of the data for the closure split; None for the plain transport.
        most: amplification of predictions beyond which they are left out of the rate.
        shift: δ of the proposal, in the units of the field, of (t, x, cond, share of ε that is left
            by its limit); None for none.
        key: for the uniform numbers of resampling.
    """

    name = "weighted heun"
    whole = True
    remembers = True

    def __init__(
        self,
        field: Field,
        target: Target,
        epsilon: EpsilonSchedule,
        start: Tensor,
        *,
        threshold: float,
        closure: Sequence[Law] | None,
        most: float,
        shift: Shift | None,
        key: int,
    ) -> None:
        self.field, self.target, self.epsilon, self.start = field, target, epsilon, start
        self.threshold, self.closure, self.shift, self.key = threshold, closure, shift, key
        self.most = most

    # ---------------------------------------------------------------------------- the tables

    @torch.no_grad()
    def prepare(self, times: Tensor, like: Tensor) -> _Tables:
        on_device = times.to(table_device(like.device))
        widths = on_device.diff()
        stages = torch.stack([on_device[:-1], on_device[1:]], 1)
        stages = on_their_side(stages, widths, self.field.breakpoints, like.dtype)
        stages, margin = self._off_poles(stages, widths)
        epsilon, shares, stretches = self._strengths(stages, widths)
        flat = stages.reshape(-1)
        tables = [
            (
                self._table(f.field, "velocity", flat, like),
                self._table(f.field, "score", flat, like),
            )
            for f in self.target.factors
        ]
        part, missing = self.field.process.noise_part, 1 - self.target.total
        return _Tables(
            noisy=not self.epsilon.is_zero,
            calls=2,
            limited=stretches,
            margin=margin,
            times=flat.to(like),
            widths=widths.tolist(),
            epsilon=epsilon.reshape(-1).tolist(),
            shares=shares.reshape(-1).tolist(),
            tables=tables,
            affine=self._affine(flat, like),
            scaling=scalings(part, flat, missing),
            left_out=left_out(part, flat, tables, self.most, missing),
        )

    def _off_poles(self, stages: Tensor, widths: Tensor) -> tuple[Tensor, tuple[float, float]]:
        """Stage times, half a step inside at an end where a velocity or a score is infinite."""
        margin = []
        for step, node, inward in ((0, 0, 1.0), (-1, 1, -1.0)):
            t = stages[step : step + 1 or None, node] if step == 0 else stages[-1:, node]
            half = 0.5 * float(widths[step])
            bad = not all(
                bool(factor.field.weights(name, t).within(BOUND).all())
                for factor in self.target.factors
                for name in ("velocity", "score")
            )
            if bad:
                stages[step, node] += inward * half
            margin.append(half if bad else 0.0)
        return stages, (margin[0], margin[1])

    def _strengths(self, stages: Tensor, widths: Tensor) -> tuple[Tensor, Tensor, Any]:
        """ε at the stages, limited to what a step can follow; its share of ε; where it is."""
        if self.epsilon.is_zero:
            return torch.zeros_like(stages), torch.zeros_like(stages), None
        part = self.field.process.noise_part
        part.check("score")
        steepest = max(1.0, sum(abs(factor.power) for factor in self.target.factors))
        schedules = limited([self.epsilon], _LIMIT / steepest, growth=True)
        flat = stages.reshape(-1)
        value, asked = (
            one.bound(part, stages, widths).value(flat, part.scale(flat)).view(stages.shape)
            for one in (schedules[0], self.epsilon)
        )
        shares = torch.where(asked > 0, value / asked, 0.0)
        return value, shares, limited_times(schedules, part, stages, widths)

    def _table(self, field: Field, name: str, t: Tensor, like: Tensor) -> list[Combination]:
        weights = field.weights(name, t).map(wide)
        if not bool(weights.finite().all()):
            bad = t[~weights.finite()]
            raise ConversionError(
                f"the {name} of this {type(field).__name__} is singular at t = {float(bad[0]):g};"
                " learn it itself, or beside the other: FieldPair(velocity=..., noise=...)"
            )
        return weights.tabulated(len(t), 1, like)

    def _affine(self, t: Tensor, like: Tensor) -> Affine | None:
        if self.closure is None:
            return None
        part = self.field.process.noise_part
        if not isinstance(part, GaussianPart):
            raise ConversionError(
                "the closure split needs a process of whose x_t all but x1 is Gaussian, and this is"
                f" none ({part.owner}); leave closure= out"
            )
        powers = [factor.power for factor in self.target.factors]
        split = closure_split(
            part, self.closure, powers, t, self.field.transform, tuple(like.shape[1:])
        )
        if split is None:
            return None
        return Affine(*(table.to(like) for table in vars(split).values()))

    def memory(self, prepared: Any, x: Tensor, rows: Any) -> Cloud:
        split = "plain" if prepared.affine is None else "closure"
        return replace(Cloud.new(widest(self.start)), split=split)

    def draw(
        self, prepared: Any, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        return (noise.increment(step, t0, t1, area=False)[0],)

    # ------------------------------------------------------------------------------ the steps

    def step(
        self,
        prepared: _Tables,
        step: int,
        x: Tensor,
        memory: Cloud,
        rows: Chunks,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, Cloud]:
        h, place = prepared.widths[step], 2 * step
        strength = prepared.epsilon[place] + prepared.epsilon[place + 1]  # 2ε, by the trapezoid
        n: Tensor | None = None
        logs = 0.0
        if strength > 0:
            u = torch.rand((), generator=stream(self.key, step, device=x.device), device=x.device)
            x, memory = memory.resampled(x, self.threshold, u)
            n = draws[0] * strength**0.5
            if self.shift is not None:
                n, logs = self._proposed(prepared, place, x, n, strength * h, rows)
        first, early = rows.map(partial(self._slopes, prepared, place), x)
        guess = torch.add(x, first, alpha=h)
        guess = guess if n is None else guess + n
        second, late = rows.map(partial(self._slopes, prepared, place + 1), guess)
        x = torch.add(x, first + second, alpha=0.5 * h)
        x = x if n is None else x + n
        rate = 0.5 * h * (early + late)
        return x, memory.weighed(rate.to(memory.log_weights) + logs)

    def _proposed(
        self, prepared: _Tables, place: int, x: Tensor, n: Tensor, variance: float, rows: Chunks
    ) -> tuple[Tensor, Any]:
        """The noise shifted by ``h δ``, and what the weights make up for."""
        t, h = prepared.times[place], prepared.widths[place // 2]
        assert self.shift is not None
        shift = self.shift
        share = prepared.shares[place]
        moved: Tensor = rows.map(lambda y, **cond: h * shift(t, y, cond, share), x)
        new = n + moved
        lost = -(sum_events(new.square() - n.square())) / (2 * variance)
        return new, widest(lost)

    def _slopes(
        self, prepared: _Tables, place: int, x: Tensor, **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """``v + ε S`` and the rate of log w of a chunk."""
        t, mean = prepared.times[place], self.field.process.noise_part.base_mean
        mean = None if mean is None else mean.to(x)
        v, score, inner = torch.zeros_like(x), torch.zeros_like(x), x.new_zeros(len(x))
        for factor, (of_b, of_s) in zip(self.target.factors, prepared.tables, strict=True):
            velocity, slope = of_b[place], of_s[place]
            both = zip(velocity.needed, slope.needed, strict=True)
            given = factor.field.predict(t, x, factor.cond(cond, x), [a or b for a, b in both])
            b, s = velocity.of(x, mean, given), slope.of(x, mean, given)
            v, score = v + factor.power * b, score + factor.power * s
            inner = inner + factor.power * sum_events(b * s)
        affine, scaling = prepared.affine, prepared.scaling[place]
        if affine is not None:
            v = v + (x.flatten(1) @ affine.matrix[place].mT + affine.shift[place]).view_as(x)
            growth: Any = affine.trace[place]
        else:
            growth = scaling.rate * x[0].numel()
            v = torch.add(v, x, alpha=scaling.rate)
            v = v if mean is None else torch.add(v, mean, alpha=scaling.of_mean)
        if not prepared.left_out[place]:
            rate = sum_events(v * score) - inner + growth
        else:
            growth = growth if affine is None else affine.rate[place]
            rate = torch.zeros_like(inner) + growth
        epsilon = prepared.epsilon[place]
        for reward in self.target.rewards:
            rate = rate + reward.rate(t, x, v, cond)
            if epsilon > 0:
                score = score + reward.gradient(t, x, cond)
        return (torch.add(v, score, alpha=epsilon) if epsilon > 0 else v), rate


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tables(Prepared):
    """Of a grid; stages two a step."""

    times: Tensor
    widths: list[float]
    epsilon: list[float]
    shares: list[float]
    tables: list[tuple[list[Combination], list[Combination]]]
    affine: Affine | None = field(default=None)
    scaling: list[Scaling]
    left_out: list[bool]
