r"""Unbalanced entropic transport: marginals may be left, at a price; what is left over is told.

.. math:: \min_{\pi \ge 0} \sum_{ij} \pi_{ij} |x_i - y_j|^2
          + \varepsilon\, \mathrm{KL}(\pi \,|\, p \otimes q)
          + \rho\, \mathrm{KL}(\pi 1 \,|\, p) + \rho\, \mathrm{KL}(\pi^\top 1 \,|\, q),

with :math:`\mathrm{KL}(a | b) = \sum a \log(a/b) - a + b` of masses (Chizat et al. 2018). With the
potentials f and g, :math:`\pi_{ij} = p_i q_j e^{(f_i + g_j - c_{ij})/\varepsilon}`, the solution is
the fixed point of Sinkhorn's steps damped by :math:`\lambda = \rho / (\rho + \varepsilon)`,
:math:`f = \lambda T g`, T the soft c-transform. Each step is a contraction by λ, so that a sweep of
two shortens the error by λ². The dual

.. math:: -\rho \sum_i p_i (e^{-f_i/\rho} - 1) - \rho \sum_j q_j (e^{-g_j/\rho} - 1)
          - \varepsilon \sum_{ij} (\pi_{ij} - p_i q_j)

is a lower bound of the minimum for any f and g, as the cost of their plan is an upper one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.checks import positive_integer, positive_number
from .._core.reprs import summary
from .._core.signatures import checked
from .blocks import soft_transform
from .entropic import ConvergenceWarning, check_points, least_epsilon

__all__ = ["UnbalancedPlan", "unbalanced_plan"]


@checked
@dataclass(frozen=True, eq=False)
class UnbalancedPlan:
    """An unbalanced entropic plan by its potentials, and the masses that it moves.

    Attributes:
        value: the dual value, a lower bound of the minimum, in squared units of the points.
        upper: the cost of this plan, an upper bound.
        epsilon: ε.
        penalty: ρ.
        violation: how far the sums over rows are from ``q exp(-g/ρ)``, which they are at the
            solution; an L1 norm.
        converged: whether that is within the tolerance asked for.
        steps: sweeps.
        x_potential: f, ``(N,)``.
        y_potential: g, ``(M,)``.
        x_mass: what the plan takes of each x, ``(N,)``, of p.
        y_mass: what it brings to each y, ``(M,)``, of q.

    Example:
        >>> x = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
        >>> y = torch.tensor([[0.0], [30.0]], dtype=torch.float64)  # one stays, and one is too far
        >>> half = torch.full((2,), 0.5, dtype=torch.float64)
        >>> plan = unbalanced_plan(x, y, half, half, epsilon=0.1, penalty=1.0)
        >>> [round(float(m), 1) for m in plan.x_mass]
        [0.5, 0.0]
    """

    value: float
    upper: float
    epsilon: float
    penalty: float
    violation: float
    converged: bool
    steps: int
    x_potential: Tensor
    y_potential: Tensor
    x_mass: Tensor
    y_mass: Tensor

    __repr__ = summary

    @property
    def gap(self) -> float:
        """How far the minimum can be from the value, ``upper - value``."""
        return self.upper - self.value

    @property
    def mass(self) -> float:
        """The mass that is moved; 1 would be all."""
        return float(self.x_mass.sum())


@checked
def unbalanced_plan(
    x: Tensor,
    y: Tensor,
    p: Tensor,
    q: Tensor,
    *,
    epsilon: float,
    penalty: float,
    tolerance: float = 1e-3,
    max_steps: int = 2_000,
) -> UnbalancedPlan:
    """Return the unbalanced entropic plan between weighted points.

    Args:
        x: points ``(N, D)``, float64, about the origin.
        y: points ``(M, D)``, on the same device.
        p: positive weights ``(N,)`` of sum 1, float64.
        q: positive weights ``(M,)`` of sum 1.
        epsilon: ε > 0, in squared units of the points.
        penalty: ρ > 0, likewise: a pair that costs more than some 2ρ is rather left.
        tolerance: of the marginals, an L1 norm.
        max_steps: bound on the sweeps; some ``ρ/ε log(1/tolerance)`` are needed.

    Warns:
        ConvergenceWarning: if the tolerance was not reached; ``converged`` is then False.

    Raises:
        ValueError: if a number is out of its range, or ε too small for double precision.

    Example:
        >>> x = torch.tensor([[0.0]], dtype=torch.float64)
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> far = unbalanced_plan(x, x + 2, one, one, epsilon=0.1, penalty=1.0, tolerance=1e-6)
        >>> round(far.mass, 4), round(math.exp(-4 / 2.1), 4)  # exp(-c / (2 ρ + ε)), of one pair
        (0.1489, 0.1489)
    """
    epsilon, rho = positive_number("epsilon", epsilon), positive_number("penalty", penalty)
    tolerance = positive_number("tolerance", tolerance)
    max_steps = positive_integer("max_steps", max_steps)
    check_points(x, y, p, q)
    least, _ = least_epsilon(x, y, tolerance)
    if epsilon < least:
        raise ValueError(
            f"epsilon = {epsilon:g} is too small for these points: in double precision marginals"
            f" are known to {tolerance:g} from {least:.2g} on; give at least that"
        )
    damping, g = rho / (rho + epsilon), torch.zeros_like(q)
    violation, steps = math.inf, 0
    while True:
        full = soft_transform(x, y, g, q, epsilon)
        f = damping * full
        back = soft_transform(y, x, f, p, epsilon)
        y_mass = q * ((g - back) / epsilon).exp()  # of the plan of (f, g)
        violation = float((y_mass - q * (-g / rho).exp()).abs().sum())
        if violation <= tolerance or steps >= max_steps or not math.isfinite(violation):
            break
        g, steps = damping * back, steps + 1
    x_mass = p * ((f - full) / epsilon).exp()
    mass = float(x_mass.sum())
    dual = -rho * float(p @ torch.expm1(-f / rho) + q @ torch.expm1(-g / rho))
    dual -= epsilon * (mass - 1)
    upper = float(x_mass @ f + y_mass @ g) - epsilon * (mass - 1)
    upper += rho * (_divergence(x_mass, p) + _divergence(y_mass, q))
    converged = violation <= tolerance
    if not converged:
        warnings.warn(
            f"unbalanced transport at epsilon = {epsilon:g} and penalty = {rho:g} stopped after"
            f" {steps} sweeps with a violation of {violation:.2g}, beyond the tolerance"
            f" {tolerance:g}; give more max_steps (some {rho / epsilon:.0f} a digit), a larger"
            " epsilon or a smaller penalty",
            ConvergenceWarning,
            stacklevel=3,
        )
    return UnbalancedPlan(
        dual, upper, epsilon, rho, violation, converged, steps, f, g, x_mass, y_mass
    )


def _divergence(a: Tensor, b: Tensor) -> float:
    """``Σ a log(a/b) - a + b``."""
    return float((torch.special.xlogy(a, a / b) - a + b).sum())
