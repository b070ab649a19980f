"""The steppers of flow maps: what a jump does to a chunk of rows, and noise on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._core.precision import table_device
from ..combination import Combination
from ..solve.epsilon import EpsilonSchedule
from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Prepared, Stepper

__all__ = ["Jumping", "Renoising"]

_ENDS = 1e-9
_MOST = 0.05  # of ρ in a step


@dataclass(frozen=True, eq=False, kw_only=True)
class _Table(Prepared):
    """Times of the grid, and what each step needs at the time where noise enters."""

    times: Tensor
    forward: bool = True
    last: bool = True
    inside_times: Sequence[Sequence[Tensor]] = ()
    noise_of: Sequence[Combination] = ()
    decay: Sequence[Any] = ()
    strength: Sequence[Any] = ()


class _MapStepper(Stepper):
    """What both have: times as tensors, and states inside of steps."""

    def __init__(self, field: Any, saved: Sequence[float]) -> None:
        self.field, self.saved = field, saved

    def _inside(self, times: Tensor, like: Tensor) -> dict[str, Any]:
        grid = times.tolist()
        found: dict[int, list[float]] = {}
        for time in self.saved:
            if any(abs(time - own) < _ENDS for own in grid):
                continue
            step = next(
                k for k in range(len(grid) - 1) if (time - grid[k]) * (time - grid[k + 1]) < 0
            )
            if self.field.to_data:
                raise ValueError(
                    "this FlowMap was trained for t = 1 only (to_data=True), so that no state is"
                    f" known at t = {time:g}, between the times of the grid; put what is saved into"
                    " the grid, t=[0, ..., 1]"
                )
            found.setdefault(step, []).append(time)
        ahead = [
            [torch.tensor(time, dtype=torch.float64, device=like.device).to(like) for time in
             found.get(k, ())]
            for k in range(len(grid) - 1)
        ]  # fmt: skip
        return {"inside": found, "inside_times": ahead}

    def draw(
        self, prepared: _Table, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        increment, _ = noise.increment(step, t0, t1, area=False)
        return (increment / math.sqrt(abs(t1 - t0)),)

    def inside(self, memory: Any) -> Sequence[Tensor]:
        return memory or ()

    def _jump(self, s: Tensor, t: Tensor, x: Tensor, rows: Rows) -> Tensor:
        v, _ = self.field.between(s, t, x, rows.cond)
        moved: Tensor = x + (t - s) * v
        return moved


class Jumping(_MapStepper):
    """Jumps from time to time, with a relaxation where ε > 0."""

    name = "jumps"

    def __init__(
        self, field: Any, schedules: Sequence[EpsilonSchedule], saved: Sequence[float]
    ) -> None:
        super().__init__(field, saved)
        self.schedules, self.groups = schedules, len(schedules)
        self.noisy = any(not schedule.is_zero for schedule in schedules)

    def prepare(self, times: Tensor, like: Tensor) -> _Table:
        if self.field.to_data and len(times) > 2:
            raise ValueError(
                f"this FlowMap was trained for t = 1 only (to_data=True), and {len(times) - 1}"
                " jumps would end elsewhere; write steps=1, or scheme=tpf.maps.Renoise()"
            )
        if self.field.to_data and float(times[-1]) != 1:
            raise ValueError(
                "this FlowMap was trained for t = 1 only (to_data=True), and the grid ends at"
                f" t = {float(times[-1]):g}; train one with other times, maps.Pairs()"
            )
        self.field.check_leaving(times[:-1], times[1:])
        forward = bool(times[1] > times[0])
        made = _Table(times=times.to(like), forward=forward, **self._inside(times, like))
        if not self.noisy:
            return made
        return self._with_noise(made, times, like)

    @torch.no_grad()
    def _with_noise(self, made: _Table, times: Tensor, like: Tensor) -> _Table:
        times = times.to(table_device(like.device))
        part, widths = self.field.process.noise_part, times.diff()
        at = times[:-1] if made.forward else times[1:]
        scale = part.scale(at)
        rates = []
        for schedule in self.schedules:
            own = schedule.bound(part, at[:, None], widths)
            rates.append(own.value(at, scale) * widths.abs() / scale.square())
        wanted = torch.stack(rates, 1)
        rho = wanted.clamp(max=_MOST)
        over = (wanted > _MOST).any(1)
        decay = -torch.expm1(-rho) * scale[:, None]
        strength = (-torch.expm1(-2 * rho)).clamp(min=0).sqrt() * scale[:, None]
        weights = self.field.weights("noise", at)
        if not bool(torch.isfinite(decay).all() & weights.finite().all()):
            raise ValueError(
                "the noise of a FlowMap cannot be told at a time of this grid, so that epsilon > 0"
                " has nothing to relax to; start later, t=(1e-3, 1.0), or use epsilon=0"
            )
        one = self.groups == 1
        return replace(
            made,
            noisy=True,
            calls=2,
            limited=_stretches(over.tolist(), times.tolist()),
            noise_of=weights.tabulated(len(at), 1, like),
            decay=decay[:, 0].tolist() if one else list(decay.to(like).unbind(0)),
            strength=strength[:, 0].tolist() if one else list(strength.to(like).unbind(0)),
        )

    def step(
        self,
        prepared: _Table,
        step: int,
        x: Tensor,
        memory: Any,
        rows: Rows,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, Any]:
        s, t = prepared.times[step], prepared.times[step + 1]
        if draws and prepared.forward:
            x = self._relaxed(prepared, step, s, x, rows, draws[0])
        between = [self._jump(s, time, x, rows) for time in prepared.inside_times[step]]
        x = self._jump(s, t, x, rows)
        if draws and not prepared.forward:
            x = self._relaxed(prepared, step, t, x, rows, draws[0])
        return x, between

    def _relaxed(
        self, prepared: _Table, step: int, t: Tensor, x: Tensor, rows: Rows, z: Tensor
    ) -> Tensor:
        mean = self.field.process.noise_part.base_mean
        eta = prepared.noise_of[step].of(
            x, None if mean is None else mean.to(x), self.field.predict(t, x, rows.cond)
        )
        decay, strength = prepared.decay[step], prepared.strength[step]
        if isinstance(decay, Tensor):
            decay, strength = rows.spread(decay), rows.spread(strength)
        moved: Tensor = x - decay * eta + strength * z
        return moved


def _stretches(over: list[bool], times: list[float]) -> tuple[tuple[float, float], ...] | None:
    """The stretches of time of the steps that are marked, in order of time."""
    found: list[tuple[float, float]] = []
    for k in sorted(range(len(over)), key=lambda k: times[k]):
        low, high = sorted(times[k : k + 2])
        if over[k] and found and abs(found[-1][1] - low) < _ENDS:
            found[-1] = (found[-1][0], high)
        elif over[k]:
            found.append((low, high))
    return tuple(found) or None


class Renoising(_MapStepper):
    """Jumps to t = 1, and back by the noise of the process."""

    name = "renoise"

    def prepare(self, times: Tensor, like: Tensor) -> _Table:
        if bool(times[0] > times[1]):
            raise ValueError(
                "Renoise goes to the data at each step, so it cannot run backward in time; write"
                " scheme=tpf.maps.Jumps(), with a map that was trained in both directions"
            )
        self.field.check_leaving(times[:-1], torch.ones_like(times[1:]))
        part, at = self.field.process.part, times[1:].to(table_device(like.device))
        beta, scale = part.path.beta(at), part.scale(at)
        mean = part.path.alpha(at) if part.base_mean is not None else None
        table = Combination(beta, mean, ()).tabulated(len(at), 1, like)
        return _Table(
            times=times.to(like),
            last=float(times[-1]) == 1,
            noisy=len(times) > 2 or float(times[-1]) != 1,
            noise_of=table,
            strength=scale.tolist(),
            **self._inside(times, like),
        )

    def step(
        self,
        prepared: _Table,
        step: int,
        x: Tensor,
        memory: Any,
        rows: Rows,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, Any]:
        s, one = prepared.times[step], torch.ones_like(prepared.times[step])
        between = [self._jump(s, time, x, rows) for time in prepared.inside_times[step]]
        end = self._jump(s, one, x, rows)
        if step == len(prepared.times) - 2 and prepared.last:
            return end, between
        mean = self.field.process.noise_part.base_mean
        back = prepared.noise_of[step].of(end, None if mean is None else mean.to(end), ())
        return back + prepared.strength[step] * draws[0], between
