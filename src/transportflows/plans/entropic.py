r"""Entropic optimal transport plans between points, with a certificate.

.. math:: \min_{\pi \in \Pi(p, q)} \sum_{ij} \pi_{ij} |x_i - y_j|^2
          + \varepsilon \sum_{ij} \pi_{ij} \log \frac{\pi_{ij}}{p_i q_j}

over the couplings :math:`\pi` of the weights p of x and q of y. :mod:`transportflows.plans.path`
solves it. What is returned is certified: with f the soft c-transform of g over all pairs,
:math:`\sum p_i f_i + \sum q_j g_j` is a lower bound of the minimum whatever g is. The plan of
(f, g) has the right sums over columns, and, made feasible by scaling its columns down and adding a
product of what is missing (Altschuler, Weed and Rigollet 2017), it gives an upper bound.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.reprs import summary
from .._core.samples import block_rows
from .._core.signatures import checked
from .blocks import weighted_rows
from .path import Potentials, solve, solve_alone
from .support import BYTES_PER_ENTRY

__all__ = ["ConvergenceWarning", "EntropicPlan", "entropic_plan", "entropic_self_plan"]


class ConvergenceWarning(UserWarning):
    """A solve stopped before it reached its tolerance; its result says how far it is."""


@checked
@dataclass(frozen=True, eq=False)
class EntropicPlan:
    r"""An entropic plan by its potentials, with bounds on its cost.

    Attributes:
        value: :math:`W_{2,\varepsilon}`, the dual value, in squared units of the data. Its error is
            of second order in that of the potentials, far below ``gap``.
        epsilon: ε.
        upper: the cost, entropy included, of a plan with exactly the given marginals: the minimum
            lies between ``value`` and this.
        violation: :math:`|\pi^\top 1 - q|_1` of the plan over all pairs; its sums over columns are
            p exactly.
        converged: whether ``violation`` is within the tolerance asked for.
        steps: Newton steps and Sinkhorn sweeps, all stages together.
        x_potential: f, float64, ``(N,)``; of the points of positive weight only.
        y_potential: g, ``(M,)``, likewise. The plan is
            :math:`\pi_{ij} = p_i q_j e^{(f_i + g_j - |x_i - y_j|^2) / \varepsilon}`.

    Source: Cuturi (2013); the bounds are those of Altschuler, Weed and Rigollet (2017).

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> half = torch.full((2,), 0.5, dtype=torch.float64)
        >>> plan = entropic_plan(x, x, half, half, epsilon=4.0, tolerance=1e-9)
        >>> f, g, cost = plan.x_potential, plan.y_potential, (x - x.T).square()
        >>> 0.25 * ((f[:, None] + g - cost) / plan.epsilon).exp()  # 1 to 1/e in each row
        tensor([[0.3655, 0.1345],
                [0.1345, 0.3655]], dtype=torch.float64)
    """

    value: float
    epsilon: float
    upper: float
    violation: float
    converged: bool
    steps: int
    x_potential: Tensor
    y_potential: Tensor

    __repr__ = summary

    @property
    def gap(self) -> float:
        """How far the minimum can be from the value, the duality gap ``upper - value``."""
        return self.upper - self.value


@checked
def entropic_plan(
    x: Tensor,
    y: Tensor,
    p: Tensor,
    q: Tensor,
    *,
    epsilon: float,
    tolerance: float = 1e-3,
    memory: float = 1.5e9,
    max_steps: int = 500,
) -> EntropicPlan:
    """Return the entropic plan between weighted points, certified.

    Args:
        x: points ``(N, D)``, float64, about the origin: differences of large coordinates lose
            digits.
        y: points ``(M, D)``, on the same device.
        p: positive weights ``(N,)`` of sum 1, float64.
        q: positive weights ``(M,)`` of sum 1.
        epsilon: ε > 0, in squared units of the points.
        tolerance: of the marginal violation, an L1 norm of probabilities, so of at most 2.
        memory: bytes that entries of the plan and blocks of costs may take.
        max_steps: bound on Newton steps and Sinkhorn sweeps together.

    Warns:
        ConvergenceWarning: if the tolerance was not reached; ``converged`` is then False.

    Raises:
        ValueError: if ε is not positive or too small for double precision, ``tolerance`` or
            ``max_steps`` is out of range, or ``memory`` is too small.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> half = torch.full((2,), 0.5, dtype=torch.float64)
        >>> plan = entropic_plan(x, x, half, half, epsilon=0.1)
        >>> round(plan.value / 0.1, 6), plan.converged  # log 2
        (0.693147, True)
    """
    _check_options(epsilon, tolerance, max_steps)
    check_points(x, y, p, q)
    _check_resolution(epsilon, tolerance, x, y)
    entries = _entries(x, y, memory)
    found = solve(x, y, p, q, epsilon, tolerance=tolerance, entries=entries, max_steps=max_steps)
    return _certified(x, y, p, q, found, epsilon, tolerance)


@checked
def entropic_self_plan(
    x: Tensor,
    p: Tensor,
    *,
    epsilon: float,
    tolerance: float = 1e-3,
    max_steps: int = 500,
) -> EntropicPlan:
    """Return the entropic plan between weighted points and themselves: both potentials are one.

    Args:
        x: points ``(N, D)``, as in :func:`entropic_plan`.
        p: positive weights ``(N,)`` of sum 1.
        epsilon: ε > 0, in squared units of the points.
        tolerance: of the marginal violation.
        max_steps: bound on Sinkhorn sweeps.

    Warns:
        ConvergenceWarning: if the tolerance was not reached.

    Raises:
        ValueError: as :func:`entropic_plan`.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> half = torch.full((2,), 0.5, dtype=torch.float64)
        >>> plan = entropic_self_plan(x, half, epsilon=0.1)
        >>> round(plan.value / 0.1, 6)  # log 2: each point stays
        0.693147
    """
    _check_options(epsilon, tolerance, max_steps)
    check_points(x, x, p, p)
    _check_resolution(epsilon, tolerance, x, x)
    found = solve_alone(x, p, epsilon, tolerance=tolerance, max_steps=max_steps)
    return _certified(x, x, p, p, found, epsilon, tolerance)


def _certified(
    x: Tensor,
    y: Tensor,
    p: Tensor,
    q: Tensor,
    found: Potentials,
    epsilon: float,
    tolerance: float,
) -> EntropicPlan:
    """Bound the minimum from both sides, and warn where the tolerance was not reached."""
    violation = float((found.columns - q).abs().sum())
    value = float(p @ found.f + q @ found.g)
    upper = _feasible_cost(x, y, p, q, found, epsilon)
    consistent = upper >= value - 1e-9 * (abs(value) + epsilon)  # or rounding has taken over
    converged = math.isfinite(value) and violation <= tolerance and consistent
    if not converged:
        warnings.warn(
            f"entropic transport at epsilon = {epsilon:g} stopped after {found.steps} steps with a"
            f" marginal violation of {violation:.2g}, beyond the tolerance {tolerance:g}; the"
            " result is marked converged=False. Give more max_steps or memory, or a larger"
            " epsilon",
            ConvergenceWarning,
            stacklevel=4,  # where the metric was called
        )
    return EntropicPlan(
        value=value,
        epsilon=epsilon,
        upper=upper,
        violation=violation,
        converged=converged,
        steps=found.steps,
        x_potential=found.f,
        y_potential=found.g,
    )


def check_points(x: Tensor, y: Tensor, p: Tensor, q: Tensor | None) -> None:
    """Refuse points of other dimensions, and weights or potentials that are not one a point."""
    points = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]
    if not points or p.shape != x.shape[:1] or (q is not None and q.shape != y.shape[:1]):
        weights = [tuple(each.shape) for each in (p, q) if each is not None]
        raise ValueError(
            "points are (N, D) and (M, D), their weights and potentials (N,) and (M,), got points"
            f" {tuple(x.shape)} and {tuple(y.shape)}, and {' and '.join(map(str, weights))}"
        )


def _check_options(epsilon: float, tolerance: float, max_steps: int) -> None:
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(
            f"epsilon must be positive and finite, got {epsilon}; for epsilon = 0 use an exact"
            " plan, as metrics.wasserstein2 does"
        )
    if not 0 < tolerance < 2:
        raise ValueError(
            f"tolerance must lie in (0, 2), an L1 norm, got {tolerance}; 1e-3 is usual"
        )
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")


def _check_resolution(epsilon: float, tolerance: float, x: Tensor, y: Tensor) -> None:
    """Refuse an ε at which rounding alone violates the marginals: exponents are |x - y|² / ε."""
    least, square = least_epsilon(x, y, tolerance)
    if epsilon < least:
        raise ValueError(
            f"epsilon = {epsilon:g} is too small for points {math.sqrt(square):.3g} from their"
            f" mean: in double precision marginals are known to {tolerance:g} from {least:.2g} on;"
            " give at least that, a larger tolerance, or wasserstein2, which has no epsilon"
        )


def least_epsilon(x: Tensor, y: Tensor, tolerance: float) -> tuple[float, float]:
    """The least ε at which double precision has marginals to a tolerance, and the largest |x|²."""
    square = max(float(x.square().sum(1).max()), float(y.square().sum(1).max()))
    return 16 * torch.finfo(torch.float64).eps * square / tolerance, square


def _entries(x: Tensor, y: Tensor, memory: float) -> int:
    """How many entries of the plan fit beside what is needed anyway."""
    n, m = len(x), len(y)
    blocks = 3 * 8 * max(block_rows(m, x.device) * m, block_rows(n, x.device) * n)
    blocks = min(blocks, 3 * 8 * n * m)
    own = 8 * (n + m) * (2 * x.shape[1] + 20) + blocks
    if memory < own + BYTES_PER_ENTRY * (n + m):
        raise ValueError(
            f"memory = {memory:.3g} bytes is too small for {n:,} and {m:,} points of"
            f" {x.shape[1]} numbers; {own + BYTES_PER_ENTRY * (n + m):.3g} would do, and"
            f" {own + BYTES_PER_ENTRY * 200 * max(n, m):.3g} is better. Or give fewer points, as"
            " x[torch.randperm(len(x))[:5_000]]"
        )
    return int(min(memory - own, 1e15) / BYTES_PER_ENTRY)


def _feasible_cost(
    x: Tensor, y: Tensor, p: Tensor, q: Tensor, found: Potentials, epsilon: float
) -> float:
    """Cost, entropy included, of the plan made feasible: an upper bound of the minimum.

    Its columns are scaled down to at most q, which leaves a part of mass τ; what is missing from
    rows and columns, u and v of mass s = 1 - τ, comes back as ``u vᵀ / s``. The entropy of the sum
    is at most the mean of the entropies, since KL is convex.
    """
    f, g, columns = found.f, found.g, found.columns
    if not math.isfinite(float(columns.sum())):
        return math.inf
    scale = (q / columns.clamp(min=1e-300)).clamp(max=1.0)
    kept_columns = columns * scale
    kept_rows = weighted_rows(x, y, f, g, p, q * scale, epsilon)
    kept_rows = torch.minimum(kept_rows, p)
    mass = float(kept_columns.sum())
    log_scale = scale.clamp(min=1e-300).log()
    cost = float(kept_rows @ f + kept_columns @ (g + epsilon * log_scale))
    cost -= epsilon * mass * math.log(mass) if mass > 0 else 0.0
    u, v = (p - kept_rows).clamp(min=0), (q - kept_columns).clamp(min=0)
    s = min(float(u.sum()), float(v.sum()))
    if s <= 1e-14:
        return cost
    u, v = u / u.sum(), v / v.sum()
    moved = float(u @ x.square().sum(1) + v @ y.square().sum(1) - 2 * (u @ x) @ (v @ y))
    entropy = float(torch.special.xlogy(u, u / p).sum() + torch.special.xlogy(v, v / q).sum())
    return cost + s * (moved + epsilon * entropy)
