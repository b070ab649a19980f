"""States and integrals along a fixed-step scheme, whose stages are known before the first step.

An integral is a quadrature over the nodes of a step: at one that has no weight in it, such as the
first of the midpoint rule, the divergence is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..samplers.dynamics import Drift, Dynamics
from ..samplers.probability_flow import Stage
from ..samplers.schemes import Scheme
from ..solve.rows import Rows

__all__ = ["Quadrature"]

Slope = Callable[..., Tensor]
Stages = Callable[[Tensor, Tensor], list[Stage]]


class Quadrature(Dynamics):
    """An ODE of states, widened by integrals.

    Args:
        stages: what is to be evaluated at each of some times, for states of a kind.
        slope: ``slope(stage, state, integrals=...)``, with the integrals' slopes or zeros.
        breakpoints: times at which it is not smooth.
    """

    ode = True

    def __init__(self, stages: Stages, slope: Slope, breakpoints: Sequence[float]) -> None:
        self.stages, self.slope, self.breakpoints = stages, slope, breakpoints

    def prepare(self, times: Tensor, widths: Tensor, like: Tensor, scheme: Scheme) -> Drift:
        stages = self.stages(times.flatten().to(like), like)
        return _Tabulated(self.slope, stages, scheme.quadrature)


class _Tabulated(Drift):
    def __init__(self, slope: Slope, stages: Sequence[Stage], quadrature: Sequence[float]) -> None:
        self.slope, self.stages, self.quadrature = slope, stages, quadrature
        self.made = []

    def at(self, step: int, rows: Rows, node: int, x: Tensor) -> Tensor:
        stage = self.stages[step * len(self.quadrature) + node]
        return self.slope(stage, x, integrals=self.quadrature[node] != 0)
