r"""Sampling by the jumps of a flow map: a call a step, with noise on the way if it is wanted.

*Jumps* go from time to time of a grid, ``x_t = X_{s,t}(x_s)``, forward or backward. With ε > 0 each
is joined to a relaxation at the noisier of its two times, which leaves the law of x_t as it is:
with the data d fixed, ``dx = ε s dt + √(2ε) dW`` is an Ornstein-Uhlenbeck process, so that over a
step of width h

.. math:: x \leftarrow x - (1 - e^{-\rho})\, \hat\sigma \hat\eta
          + \sqrt{1 - e^{-2\rho}}\, \hat\sigma z,
          \qquad \rho = \frac{\varepsilon |h|}{\hat\sigma^2},

a splitting of order 1 of the SDE of :func:`transportflows.sample`, with η̂ of the tangent (one more
call). For data of variance V - σ̂² it loses ``(1 - e^{-ρ})² (σ̂²/V)(1 - σ̂²/V)`` of V in a step; so
ρ is limited to .05, where the noise is too small for more, and ``Solution.limited`` tells it.

*Renoise* goes to t = 1 each time, and comes back to the next time by the process, ``α m + β X_{s,1}
+ σ̂ z`` (Song et al. 2023, "Consistency models", algorithm 1): the way of a map that was trained for
t = 1 alone. Where X_{s,1} is exact the law of x_t is only that of fresh noise on data: the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._core.precision import table_device
from .._core.signatures import checked
from ..combination import Combination
from ..samplers.stepper_scheme import StepperScheme
from ..solve.epsilon import EpsilonSchedule
from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Prepared, Stepper

__all__ = ["Jumps", "Renoise"]

_ENDS = 1e-9
_MOST = 0.05  # of ρ in a step


@checked
class Jumps(StepperScheme):
    """Steps ``X_{s,t}`` from time to time of the grid; the default for a :class:`FlowMap`.

    Takes ε ≥ 0 where the velocity gives the noise (one-sided, or a Gaussian base that is
    independent of the data), forward and backward.
    """

    name = "jumps"

    def stepper(
        self, field: Any, schedules: Sequence[EpsilonSchedule], saved: Sequence[float]
    ) -> Stepper:
        return _Jumping(_as_map(field, self.name), schedules, saved)


@checked
class Renoise(StepperScheme):
    """To t = 1 each time, and back to the next time by fresh noise; forward in time only.

    Needs a process with a Gaussian part, and takes no ε: how much is drawn anew is decided by the
    grid.
    """

    name = "renoise"

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:
        if any(not schedule.is_zero for schedule in schedules):
            raise ValueError(
                "Renoise makes its own noise, and takes no epsilon; leave it out, or write"
                " scheme=tpf.maps.Jumps() for jumps with an epsilon"
            )

    def stepper(
        self, field: Any, schedules: Sequence[EpsilonSchedule], saved: Sequence[float]
    ) -> Stepper:
        return _Renoising(_as_map(field, self.name), saved)


def _as_map(field: Any, name: str) -> Any:
    if not callable(getattr(field, "between", None)):
        raise TypeError(
            f"{name} are steps of a FlowMap, and this is a {type(field).__name__}; write"
            " scheme='heun', or make a map of it: maps.distill(field, data, ...)"
        )
    return field


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
            found.setdefault(step, []).append(time)
        ahead = [
            [torch.tensor(time, dtype=torch.float64, device=like.device).to(like) for time in
             found.get(k, ())]
            for k in range(len(grid) - 1)
        ]  # fmt: skip
        return {"inside": found, "inside_times": ahead}

    def inside(self, memory: Any) -> Sequence[Tensor]:
        return memory or ()

    def _check_poles(self, times: Tensor) -> None:
        """Refuse a grid that leaves a time at which the prediction of the map has a pole."""
        weight = self.field.weight(times[:-1], times[1:])
        if weight is not None and not bool(torch.isfinite(weight).all()):
            bad = float(times[:-1][~torch.isfinite(weight)][0])
            raise ValueError(
                f"a map that predicts {self.field.prediction} does not leave t = {bad:g}, where it"
                f" has a pole; start beside it, such as t=({abs(bad - 0.02):g}, {1 - bad:g}) with"
                " states of that time, or train FlowMap(..., prediction='velocity')"
            )

    def _jump(self, s: Tensor, t: Tensor, x: Tensor, rows: Rows) -> Tensor:
        v, _ = self.field.between(s, t, x, rows.cond)
        moved: Tensor = x + (t - s) * v
        return moved


class _Jumping(_MapStepper):
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
        self._check_poles(times)
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

    def draw(
        self, prepared: _Table, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        return (_normal(step, t0, t1, noise),)

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


class _Renoising(_MapStepper):
    name = "renoise"

    def prepare(self, times: Tensor, like: Tensor) -> _Table:
        if bool(times[0] > times[1]):
            raise ValueError(
                "Renoise goes to the data at each step, so it cannot run backward in time; write"
                " scheme=tpf.maps.Jumps(), with a map that was trained in both directions"
            )
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

    def draw(
        self, prepared: _Table, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        return (_normal(step, t0, t1, noise),)

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


def _normal(step: int, t0: float, t1: float, noise: NoiseSource) -> Tensor:
    """Standard normals of a step, off whatever source."""
    increment, _ = noise.increment(step, t0, t1, area=False)
    return increment / math.sqrt(abs(t1 - t0))
