"""A bound on the evaluations of an adaptive solve, and why one was reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..solve.solution import Solution, TooManyEvaluationsError

__all__ = ["MOST", "Budget"]

MOST = 5_000
"""Evaluations that an adaptive solve may take by default; a smooth one takes hundreds."""

_KINKED = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
    nn.Hardshrink, nn.Softshrink, nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip


class Budget:
    """Counts evaluations, and ends a solve that takes too many.

    Args:
        most: evaluations of a pass; :data:`MOST` if None.
        scheme: name of the scheme.
        networks: what the field calls.
        tolerance: the smaller of the two.

    Attributes:
        spent: evaluations so far.
        latest: time and state of the last one.
    """

    def __init__(
        self, most: int | None, scheme: str, networks: Sequence[Any], tolerance: float
    ) -> None:
        self.most = MOST if most is None else most
        self.scheme, self.networks, self.tolerance = scheme, networks, tolerance
        self.spent = 0
        self.latest: tuple[Tensor, Tensor] | None = None

    def spend(
        self, slope: Callable[[Tensor, Tensor], Tensor], time: Tensor, u: Tensor, x: Tensor
    ) -> None:
        """Count the evaluation of ``slope(u, x)``, at time t.

        Raises:
            TooManyEvaluationsError: if it is one too many; with the state in the place of x.
        """
        if self.spent >= self.most:
            t = float(time)
            raise TooManyEvaluationsError(
                f"{self.scheme} is at t = {t:.6g} after max_nfe = {self.most} evaluations, with"
                f" steps too small to go on. {self._why(slope, u, x)} Or take larger rtol and atol,"
                " or a larger max_nfe. The states are in error.solution",
                Solution(x=x, t=torch.tensor([t]), nfe=self.spent, scheme=self.scheme),
            )
        self.spent += 1
        self.latest = time, x

    @torch.no_grad()
    def _why(self, slope: Callable[[Tensor, Tensor], Tensor], u: Tensor, x: Tensor) -> str:
        """The cause, as far as it can be measured, and the cure."""
        first, second = slope(u, x), slope(u, x)
        if not torch.equal(first, second):
            gap = float((first - second).abs().max())
            return (
                f"The network gives other numbers, by up to {gap:.2g}, each time it is called with"
                " the same state: dropout, or noise of its own. Take that out of its evaluation"
                " mode, or use a fixed-step scheme such as 'rk4'."
            )
        modules = [m for net in self.networks if isinstance(net, nn.Module) for m in net.modules()]
        dtypes = {p.dtype for m in modules for p in m.parameters(recurse=False)} | {x.dtype}
        rounding, dtype = max(
            ((torch.finfo(d).eps, d) for d in dtypes if d.is_floating_point), key=lambda p: p[0]
        )
        if rounding > self.tolerance:
            cure = "write field.float()" if rounding > 1e-6 else "start from float64 states"
            return (
                f"The tolerance of {self.tolerance:g} is below the rounding of {dtype},"
                f" {rounding:.1g}, in which the field is evaluated: {cure}, or use a fixed-step"
                " scheme such as 'rk4'."
            )
        kinked = sorted({type(m).__name__ for m in modules if isinstance(m, _KINKED)})
        if kinked:
            return (
                f"The network has kinks ({', '.join(kinked)}), where no step is small enough for a"
                " small tolerance, and its divergence jumps there: use a smooth activation such as"
                " SiLU, or a fixed-step scheme such as 'rk4'."
            )
        return (
            "A field with kinks or jumps, or one that is stiff"
            f" (|dX/du| is up to {self._largest(first):.2g} there), needs so small steps: look at"
            " it there, or use a fixed-step scheme such as 'rk4'."
        )

    @staticmethod
    def _largest(slope: Tensor) -> float:
        found = float(slope.abs().max())
        return found if math.isfinite(found) else math.inf
