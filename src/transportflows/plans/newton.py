r"""Newton's method for the dual of entropic transport, at one ε, on the support of the plan.

The dual over one potential g, with the other eliminated by the soft c-transform
:math:`f_i = -\varepsilon \log \sum_j q_j e^{(g_j - c_{ij})/\varepsilon}`, is

.. math:: D(g) = \sum_i p_i f_i(g) + \sum_j q_j g_j, \qquad
          \nabla D = q - \pi^\top 1, \qquad
          -\varepsilon \nabla^2 D = \mathrm{diag}(\pi^\top 1) - \pi^\top \mathrm{diag}(p)^{-1} \pi,

a concave function whose Hessian is a graph Laplacian. With :math:`H = -\varepsilon \nabla^2 D` a
step solves :math:`(H + \lambda\,\mathrm{diag}(q))\, \delta = q - \pi^\top 1` by conjugate
gradients and moves g by :math:`\varepsilon \delta`. The damping λ follows how well the quadratic
model agreed with D in the step before (Levenberg and Marquardt). Two Sinkhorn steps between Newton
steps repair single columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .blocks import soft_transform
from .support import KEPT, Support, choose_support

__all__ = ["newton_stage"]

_SHORT = 0.1  # a part of the plan cut off from the rest moves by at most ε over this in a step


def newton_stage(
    support: Support,
    x: Tensor,
    y: Tensor,
    f: Tensor,
    g: Tensor,
    epsilon: float,
    goal: float,
    entries: int,
    max_steps: int,
) -> tuple[Tensor, Tensor, Support, int]:
    """Solve at one ε; returns f, g, the support used at the end, and the number of Newton steps.

    If the steps stall, because no plan with the right marginals lives on the support, or the
    potentials have moved beyond what it was chosen for, a new support is chosen (a larger one in
    the first case), up to six times.
    """
    steps, wanted = 0, len(support.rows)
    for _ in range(6):
        f, g, violation, used = _newton(support, g, epsilon, goal, min(20, max_steps - steps))
        steps += used
        stayed = support.serves(f, g, epsilon, KEPT / 2)
        if (violation <= goal and stayed) or steps >= max_steps:
            break
        wanted = wanted if not stayed else 4 * wanted
        f = soft_transform(x, y, g, support.q, epsilon)
        again = choose_support(x, y, f, g, support.p, support.q, epsilon, entries, wanted)
        if again is None:
            break
        support = again
    return f, g, support, steps


def _newton(
    support: Support, g: Tensor, epsilon: float, goal: float, max_steps: int
) -> tuple[Tensor, Tensor, float, int]:
    """Newton steps until ``|πᵀ1 - q|₁`` is below ``goal``; returns f, g, that norm and a count.

    A step is taken if D gains more than a twentieth of what the quadratic model promised, and is
    tried again with more damping otherwise.
    """
    damping, violation, q = 1e-2, math.inf, support.q
    f, plan = support.plan(g, epsilon)
    for step in range(max_steps):
        for _ in range(2):
            columns = support.column_sums(plan)
            violation = float((q - columns).abs().sum())
            if violation <= goal:
                return f, g, violation, step
            g = g + epsilon * (q / columns.clamp(min=1e-300)).log().clamp(-30, 30)
            f, plan = support.plan(g, epsilon)
        columns = support.column_sums(plan)
        left = q - columns
        violation = float(left.abs().sum())
        if violation <= goal or not math.isfinite(violation):
            return f, g, violation, step
        value, coupled = float(support.p @ f + q @ g), support.laplacian(plan)
        for _ in range(6):
            diagonal = columns + damping * q + _SHORT * left.abs()
            move = _conjugate_gradients(coupled, diagonal, left, min(0.1, violation))
            tried = g + epsilon * move
            f_tried, plan_tried = support.plan(tried, epsilon)
            expected = 0.5 * epsilon * float(left @ move)
            gain = float(support.p @ f_tried + q @ tried) - value
            agreement = gain / expected if expected > 0 else 0.0
            if agreement > 0.05:
                g, f, plan = tried, f_tried, plan_tried
                if agreement > 0.7:
                    damping = max(damping / 5, 1e-9)
                elif agreement < 0.3:
                    damping *= 2
                break
            damping = min(8 * damping, 1e3)
    return f, g, float((q - support.column_sums(plan)).abs().sum()), max_steps


def _conjugate_gradients(
    coupled: Callable[[Tensor], Tensor], diagonal: Tensor, right: Tensor, reach: float
) -> Tensor:
    """Solve ``(diag(diagonal) - coupled) v = right``, to ``reach`` of the residual."""
    solution, residual = torch.zeros_like(right), right.clone()
    conditioned = residual / diagonal
    direction, square = conditioned.clone(), residual @ conditioned
    aim = reach**2 * float(square)
    for k in range(300):
        image = diagonal * direction - coupled(direction)
        length = square / (direction @ image)
        solution += length * direction
        residual -= length * image
        conditioned = residual / diagonal
        new = residual @ conditioned
        if (
            k % 4 == 3 and not float(new) > aim
        ):  # reading a number waits for the device: once in four
            break
        direction = conditioned + (new / square) * direction
        square = new
    return solution
