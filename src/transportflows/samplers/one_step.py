"""One-step schemes along a dynamics, as a stepper of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..solve.grid import on_their_side
from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Prepared, Stepper
from .dynamics import Drift, Dynamics
from .schemes import EULER, Scheme, get_scheme

__all__ = ["OneStep"]


class OneStep(Stepper):
    """A one-step scheme along a dynamics.

    Args:
        dynamics: gives the drift and ε.
        scheme: name or :class:`Scheme`.

    Raises:
        ValueError: for an unknown scheme, or an ε for a deterministic one.
    """

    def __init__(self, dynamics: Dynamics, scheme: str | Scheme) -> None:
        self.dynamics = dynamics
        self.scheme = get_scheme(scheme, noisy=not dynamics.ode)
        self.name, self.groups = self.scheme.name, dynamics.groups

    def prepare(self, times: Tensor, like: Tensor) -> _Tables:
        starts, widths = times[:-1], times.diff()
        nodes = torch.tensor(self.scheme.nodes, dtype=torch.float64)
        stages = starts[:, None] + widths[:, None] * nodes
        if self.scheme.nodes[-1] == 1.0:
            stages[:, -1] = times[1:]  # exactly: a stage must not fall past the end of time
        stages = on_their_side(stages, widths, self.dynamics.breakpoints, like.dtype)
        drift = self.dynamics.prepare(stages, widths, like)
        strength = None
        if drift.epsilon is not None:
            get_scheme(self.scheme, noisy=True)
            strength = _Strength(drift.epsilon, self.scheme, like)
        return _Tables(
            noisy=strength is not None,
            calls=self.scheme.nfe,
            limited=drift.window,
            margin=drift.margin,
            drift=drift,
            strength=strength,
            widths=widths.tolist(),
        )

    def draw(
        self, prepared: _Tables, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        dw, area = noise.increment(step, t0, t1, area=self.scheme.area)
        return (dw,) if area is None else (dw, area)

    def step(
        self,
        prepared: _Tables,
        step: int,
        x: Tensor,
        memory: Any,
        rows: Rows,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, Any]:
        n = area = None
        if prepared.strength is not None:
            n, area = prepared.strength.scale(step, draws, rows)
        drift = partial(prepared.drift.at, step, rows)
        # A step that lands on a pole has one slope, that of its regular side.
        scheme = EULER if step == prepared.drift.landing else self.scheme
        return scheme.step(drift, x, prepared.widths[step], n, area), memory


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tables(Prepared):
    drift: Drift
    strength: _Strength | None
    widths: list[float]


class _Strength:
    """How strong the noise of each step is, for each group: ``g = √(2ε)`` over the grid.

    The variance of a step is that of the scheme's own quadrature, ``h Σ_k w_k g_k²``. A scheme that
    takes areas also gets what a g that varies over the step does to the path to first order:
    ``∫ g dW = ḡ ΔW - (g_end - g_start) H + ...``, with ḡ lowered so that the variance stays.
    Without this, its strong order is 1.5 for a constant ε only.
    """

    def __init__(self, epsilon: Tensor, scheme: Scheme, like: Tensor) -> None:
        quadrature = torch.tensor(scheme.quadrature, dtype=torch.float64)
        square = 2 * torch.einsum("skg,k->sg", epsilon, quadrature)
        self.tilt: list[Any] | None = None
        if scheme.area:
            g = (2 * epsilon).sqrt()
            tilt = g[:, 0] - g[:, -1]
            varies = bool((tilt.abs() > 1e-12 * g.amax()).any())
            self.area = self._ready(square.sqrt(), like)
            if varies:
                square = (square - tilt.square() / 12).clamp(min=0)
                self.tilt = self._ready(tilt, like)
        self.amplitude = self._ready(square.sqrt(), like)

    @staticmethod
    def _ready(table: Tensor, like: Tensor) -> list[Any]:
        """A number a step where there is one group, else a tensor on the device."""
        return table[:, 0].tolist() if table.shape[1] == 1 else list(table.to(like).unbind(0))

    def scale(
        self, step: int, draws: tuple[Tensor, ...], rows: Rows
    ) -> tuple[Tensor, Tensor | None]:
        """The noise of a chunk and its area, both scaled."""
        n = draws[0] * _spread(self.amplitude[step], rows)
        if len(draws) == 1:
            return n, None
        area = draws[1]
        if self.tilt is not None:
            n = n + area * _spread(self.tilt[step], rows)
        return n, area * _spread(self.area[step], rows)


def _spread(value: float | Tensor, rows: Rows) -> float | Tensor:
    return rows.spread(value) if isinstance(value, Tensor) else value
