"""Steppers: what moves the states over a step of the grid.

The loop (:mod:`~transportflows.samplers.integrate`) knows grids, noise, chunks and saves; a
:class:`Stepper` knows how a chunk of rows gets from one time to the next. :class:`OneStep` is a
:class:`Scheme` applied to a :class:`Dynamics`. A multistep method keeps what it predicted at
earlier times in the *memory* of the chunk. A stepper may hold another one: what acts on the states
after each step is one that calls the other's step first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Stepper
from .dynamics import Dynamics, FunctionDynamics
from .schemes import Scheme, get_scheme

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
        noisy = not getattr(dynamics, "ode", False) and not (
            isinstance(dynamics, FunctionDynamics) and dynamics.epsilon.is_zero
        )
        self.dynamics = dynamics
        self.scheme = get_scheme(scheme, noisy=noisy)
        self.name, self.groups = self.scheme.name, dynamics.groups

    def tabulate(self, times: Tensor, like: Tensor) -> bool:
        dynamics, scheme = self.dynamics, self.scheme
        starts, widths = times[:-1], times.diff()
        nodes = torch.tensor(scheme.nodes, dtype=torch.float64)
        stages = starts[:, None] + widths[:, None] * nodes
        if scheme.nodes[-1] == 1.0:
            stages[:, -1] = times[1:]  # exactly: a stage must not fall past the end of time
        table = dynamics.tabulate(stages, widths, like)
        self.strength = None
        if table is not None:
            get_scheme(scheme, noisy=True)
            self.strength = _Strength(table, scheme, like)
        self.widths = widths.tolist()
        self.window, self.margin = dynamics.window, dynamics.margin
        self.nfe = scheme.nfe * len(self.widths)
        return table is not None

    def draw(self, step: int, t0: float, t1: float, noise: NoiseSource) -> tuple[Tensor, ...]:
        dw, area = noise.increment(step, t0, t1, area=self.scheme.area)
        return (dw,) if area is None else (dw, area)

    def step(
        self, step: int, x: Tensor, rows: Rows, draws: tuple[Tensor, ...], memory: Any
    ) -> Tensor:
        n = area = None
        if self.strength is not None:
            n, area = self.strength.scale(step, draws, rows)
        drift = _bind(self.dynamics, step, rows)
        return self.scheme.step(drift, x, self.widths[step], n, area)


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


def _bind(dynamics: Dynamics, step: int, rows: Rows) -> Callable[[int, Tensor], Tensor]:
    return lambda node, x: dynamics.drift(step, node, x, rows)
