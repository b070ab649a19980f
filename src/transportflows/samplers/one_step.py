"""One-step schemes along a dynamics, as a stepper of the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from .ends import extrapolation
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
        drift = self.dynamics.prepare(stages, widths, like, self.scheme)
        strength = None
        if drift.epsilon is not None:
            get_scheme(self.scheme, noisy=True)
            if not drift.made:
                drift.made.append(_Strength(drift, widths, self.scheme, like))
            strength = drift.made[0]
        return _Tables(
            noisy=strength is not None,
            calls=self.scheme.nfe,
            limited=drift.limited,
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
        drift: Callable[[int, Tensor], Tensor] = partial(prepared.drift.at, step, rows)
        if prepared.drift.dropped and step == len(prepared.widths) - 1:
            drift = _Extrapolated(drift, self.scheme.nodes, prepared.drift.dropped)
        return self.scheme.step(drift, x, prepared.widths[step], n, area), memory


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tables(Prepared):
    drift: Drift
    strength: _Strength | None
    widths: list[float]


class _Extrapolated:
    """A drift without a value at some nodes, where it is extrapolated from the latest slopes."""

    def __init__(
        self, drift: Callable[[int, Tensor], Tensor], nodes: Sequence[float], dropped: Sequence[int]
    ) -> None:
        self.drift, self.slopes = drift, dict[int, Tensor]()
        self.weights = {k: extrapolation(nodes, dropped, k) for k in dropped}

    def __call__(self, node: int, x: Tensor) -> Tensor:
        if node not in self.weights:
            self.slopes[node] = self.drift(node, x)
            return self.slopes[node]
        parts = (self.slopes[k] * w for k, w in self.weights[node].items())
        return torch.stack(list(parts)).sum(0)


class _Strength:
    """How strong the noise of each step is, for each group: ``g = √(2ε)`` over the grid.

    The variance of a step is that of the scheme's own quadrature, ``h Σ_k w_k g_k²``. A scheme that
    takes areas also gets what a g that varies over the step does to the path to first order:
    ``∫ g dW = ḡ ΔW - (g_end - g_start) H + ...``, with ḡ lowered so that the variance stays.
    Without this, its strong order is 1.5 for a constant ε only.

    Where all of x_t but x1 is Gaussian, its variance is known at the end of a step, and the noise
    is made as strong as that needs (:attr:`Drift.laws`): a change of the size of the scheme's own
    local error, which keeps its orders. So Euler-Maruyama keeps the law where x_t is mostly noise,
    however much of the noise a step renews, and however fast its scale grows.
    """

    def __init__(self, drift: Drift, widths: Tensor, scheme: Scheme, like: Tensor) -> None:
        epsilon = drift.epsilon
        if epsilon is None:
            raise ValueError("a drift without epsilon has no noise")
        quadrature = torch.tensor(scheme.quadrature, dtype=torch.float64)
        square = 2 * torch.einsum("skg,k->sg", epsilon, quadrature)
        tilt, area, varies = torch.zeros_like(square), torch.zeros_like(square), False
        if scheme.area:
            g, area = (2 * epsilon).clamp(min=0).sqrt(), square.sqrt()
            varies = bool(((g[:, 0] - g[:, -1]).abs() > 1e-12 * g.amax()).any())
        if varies:
            tilt = g[:, 0] - g[:, -1]
            square = (square - tilt.square() / 12).clamp(min=0)
        gain = self._gain(drift, widths, scheme, square.sqrt(), tilt, area)
        self.amplitude = self._ready(gain * square.sqrt(), like)
        self.area = self._ready(gain * area, like)
        self.tilt = self._ready(gain * tilt, like) if varies else None

    @staticmethod
    def _gain(
        drift: Drift, widths: Tensor, scheme: Scheme, amplitude: Tensor, tilt: Tensor, area: Tensor
    ) -> Tensor | float:
        """By how much the noise is stronger, so that the laws of the drift keep their variance.

        For ``dX = κ X dt + noise`` the scheme's own step is ``R x + N n + M area``, and ``V_1`` is
        reached from ``V_0`` where the noise has the variance ``V_1 - R² V_0``. Of two laws the
        smaller change is taken, and none where they differ in its sign.
        """
        changes = []
        for rates, variances in drift.laws:
            slopes = rates * widths[:, None, None].to(rates)

            def moved(x: Tensor, *noise: Tensor | None, slopes: Tensor = slopes) -> Tensor:
                return scheme.step(lambda k, y: slopes[:, k] * y, x, 1.0, *noise)

            one = torch.ones_like(amplitude)
            zero, none = torch.zeros_like(one), torch.zeros_like(one) if scheme.area else None
            r = moved(one, None, None)
            n, m = moved(zero, one, none), moved(zero, zero, one) if scheme.area else zero
            of_noise = (n * amplitude).square() + (n * tilt + m * area).square() / 12
            wanted = variances[1:, None] - r.square() * variances[:-1, None]
            changes.append(wanted / (of_noise * widths.abs()[:, None].to(rates)) - 1)
        if not changes:
            return 1.0
        both = torch.stack(changes)
        agree = (both > 0).all(0) | (both < 0).all(0)  # NaN is neither
        change = both.abs().amin(0) * both[0].sign()
        return torch.where(agree & torch.isfinite(change), 1 + change, 1.0).clamp(min=0).sqrt()

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
