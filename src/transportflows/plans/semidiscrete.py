r"""Semidiscrete optimal transport: from a law that can be drawn from to weighted points.

.. math:: D(g) = E_x\big[\min_j (|x - y_j|^2 - g_j)\big] + \sum_j q_j g_j, \qquad
          \partial_j D = q_j - m_j,

is concave, and at its maximum the mass :math:`m_j` of the cell where j is the minimiser is
:math:`q_j`: sending each x to the minimiser is then the optimal map. With ε > 0 the minimum is
soft, :math:`-\varepsilon \log \sum_j q_j e^{(g_j - |x - y_j|^2)/\varepsilon}`, and x goes to j with
probability :math:`q_j e^{(g_j - |x - y_j|^2)/\varepsilon}` over their sum.

The ascent is stochastic (Genevay, Cuturi, Peyré & Bach 2016): it begins at the potentials of an
entropic plan from a first pool of draws, which has the smooth modes, and then takes steps
:math:`g_j \mathrel{+}= \gamma (q_j - m_j) / h_j` on fresh draws, h the diagonal of minus the
Hessian: for hard cells the mass that changes hands when a potential rises by δ, over δ, seen at the
two least costs of each draw. The iterates of the second half of a stage are averaged (Polyak &
Juditsky 1992), and each stage has twice the draws of the one before.

**The certificate** is measured on draws that the ascent did not see. With the masses of two halves,
a and b, :math:`\sum_j (a_j - q_j)(b_j - q_j)/q_j` has the expectation
:math:`\chi^2 = \sum_j (m_j - q_j)^2/q_j`, without the floor that a sum of absolute differences has,
and :math:`\sum_j |m_j - q_j| \le \chi`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.checks import check_finite_rows, number, positive_integer, returned
from .._core.reprs import summary
from .._core.samples import block_rows
from .._core.signatures import checked
from .entropic import ConvergenceWarning, check_points, entropic_plan, least_epsilon

__all__ = ["SemidiscretePlan", "cells", "semidiscrete_plan"]

_LEAST, _MOST = 1024, 1 << 14  # draws of a step: four a point between these
_FIRST = 32  # steps of the first stage
_GAIN = 0.5  # of a step, over Newton's with the diagonal of the Hessian
_FLOOR = 0.05  # of that diagonal, for cells that no draw met
_WARM = 0.01  # ε of the first potentials at most, over the size of the costs


@checked
@dataclass(frozen=True, eq=False)
class SemidiscretePlan:
    r"""A plan from a law to points, by the potentials of the points.

    Attributes:
        value: the dual value, a lower bound of the minimum but for its error, in squared units.
        value_error: standard error of it.
        epsilon: ε; 0 for the optimal map.
        violation: :math:`\chi`, which the L1 distance of the cells' masses from the weights is at
            most, estimated on fresh draws.
        violation_error: how much larger it may be, two standard errors of its square.
        converged: whether ``violation + violation_error`` is within the tolerance.
        draws: of the law that the ascent has used.
        y_potential: g, float64, ``(M,)``.

    Source: Genevay, Cuturi, Peyré and Bach (2016).
    """

    value: float
    value_error: float
    epsilon: float
    violation: float
    violation_error: float
    converged: bool
    draws: int
    y_potential: Tensor

    __repr__ = summary


@checked
def cells(
    x: Tensor,
    y: Tensor,
    g: Tensor,
    q: Tensor,
    epsilon: float = 0.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The point that each x goes to, ``(N,)``: its cell, or at ε > 0 a draw of the soft plan.

    Args:
        x: states ``(N, D)``.
        y: points ``(M, D)``.
        g: their potentials.
        q: their weights.
        epsilon: ε.
        generator: source of randomness, at ε > 0.
    """
    epsilon = number("epsilon", epsilon, "0 or positive", least=0)
    check_points(y, x, g, None)
    check_points(y, x, q, None)
    offset, parts = _offset(y, g, q, epsilon), []
    for rows in torch.split(x, block_rows(len(y), x.device)):
        z = torch.addmm(offset, rows, y.mT, alpha=2)
        if epsilon > 0:  # the largest of z/ε + Gumbel noise
            u = torch.rand(z.shape, generator=generator, dtype=z.dtype, device=z.device)
            z.div_(epsilon).sub_(u.clamp_(min=1e-300).log_().neg_().clamp_(min=1e-300).log_())
        parts.append(z.argmax(1))
    return torch.cat(parts)


@checked
def semidiscrete_plan(
    draw: Callable[[int], Tensor],
    y: Tensor,
    q: Tensor,
    *,
    epsilon: float = 0.0,
    tolerance: float = 0.05,
    max_draws: int = 4_000_000,
) -> SemidiscretePlan:
    """Return the semidiscrete plan from a law to weighted points, its masses measured.

    Args:
        draw: ``draw(n)`` gives n fresh rows of the law, ``(n, D)``, float64.
        y: points ``(M, D)``, float64, about the origin.
        q: positive weights ``(M,)`` of sum 1.
        epsilon: ε ≥ 0, in squared units of the points.
        tolerance: of the masses of the cells, an L1 norm. Some ``M / tolerance²`` draws are needed,
            each compared with M points.
        max_draws: bound on the draws of the ascent.

    Warns:
        ConvergenceWarning: if the tolerance was not reached; ``converged`` is then False.

    Raises:
        ValueError: if a number is out of its range, or ε too small for double precision.

    Example:
        >>> two = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> random = torch.Generator().manual_seed(0)
        >>> uniform = lambda n: 2 * torch.rand(n, 1, generator=random, dtype=torch.float64) - 1
        >>> plan = semidiscrete_plan(uniform, two, torch.tensor([0.25, 0.75]).double())
        >>> g = plan.y_potential  # the boundary is at -1/2, where -4 x = g_2 - g_1
        >>> plan.converged, round(float(g[1] - g[0]))
        (True, 2)
    """
    epsilon = number("epsilon", epsilon, "0 or positive", least=0)
    what = "at least 1e-5 and below 2, an L1 norm"
    tolerance = number("tolerance", tolerance, what, least=1e-5, below=2)
    max_draws = positive_integer("max_draws", max_draws)
    check_points(y, y, q, q)
    count = min(max(2_000, 2 * len(y)), 10_000)
    first = returned("draw(n)", draw(count), (count, y.shape[1]), like=y)
    check_finite_rows(first, "draw(n)")
    least, _ = least_epsilon(first, y, tolerance)
    if 0 < epsilon < least:
        raise ValueError(
            f"epsilon = {epsilon:g} is too small for these points: in double precision marginals"
            f" are known to {tolerance:g} from {least:.2g} on; give at least that, or 0"
        )
    g, used = _first_potentials(first, y, q, epsilon), len(first)
    for stage in range(64):
        found = _measured(draw, y, g, q, epsilon, tolerance)
        if found.converged or used >= max_draws:
            break
        g, more = _stage(draw, y, g, q, epsilon, _FIRST << stage)
        used += more
    if not found.converged:
        warnings.warn(
            f"semidiscrete transport stopped after {used:,} draws with masses"
            f" {found.violation:.2g} (+ {found.violation_error:.2g}) off, beyond the tolerance"
            f" {tolerance:g}; the result is marked converged=False. Give more max_draws (some"
            f" {int(4 * len(y) / tolerance**2):,}), or a larger tolerance or epsilon",
            ConvergenceWarning,
            stacklevel=3,
        )
    return SemidiscretePlan(
        value=found.value,
        value_error=found.value_error,
        epsilon=epsilon,
        violation=found.violation,
        violation_error=found.violation_error,
        converged=found.converged,
        draws=used,
        y_potential=g - q @ g,
    )


@dataclass(frozen=True)
class _Measured:
    value: float
    value_error: float
    violation: float
    violation_error: float
    converged: bool


def _offset(y: Tensor, g: Tensor, q: Tensor, epsilon: float) -> Tensor:
    """What of ``g_j - |x - y_j|²`` hangs on j alone, and ε log q_j."""
    offset = g - y.square().sum(1)
    return (offset + epsilon * q.log() if epsilon > 0 else offset).to(y.dtype).unsqueeze(0)


def _first_potentials(x: Tensor, y: Tensor, q: Tensor, epsilon: float) -> Tensor:
    """The potentials of an entropic plan from a pool of draws."""
    p = torch.full((len(x),), 1 / len(x), dtype=torch.float64, device=x.device)
    size = float(p @ x.square().sum(1) + q @ y.square().sum(1))
    if size == 0:
        return torch.zeros_like(q)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is only where the ascent begins
        plan = entropic_plan(x, y, p, q, epsilon=max(epsilon, _WARM * size), tolerance=1e-2)
    return plan.y_potential


def _masses(
    x: Tensor, y: Tensor, g: Tensor, q: Tensor, epsilon: float, curvature: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Masses of the cells, the least (soft) cost of each draw, and minus the Hessian's diagonal."""
    offset, least, n = _offset(y, g, q, epsilon), [], len(x)
    mass, bend = torch.zeros_like(q), torch.zeros_like(q) if curvature else None
    firsts, seconds, slacks = [], [], []
    for rows in torch.split(x, block_rows(len(y), x.device)):
        z = torch.addmm(offset, rows, y.mT, alpha=2)
        square = rows.square().sum(1)
        if epsilon > 0:
            top = z.amax(1, keepdim=True)
            e = z.sub_(top).div_(epsilon).clamp_(min=-90).exp_()
            total = e.sum(1, keepdim=True)
            least.append(square - top[:, 0] - epsilon * total[:, 0].log())
            share = e.div_(total)
            mass += share.sum(0)
            if bend is not None:
                bend += (share - share.square()).sum(0) / epsilon
        elif bend is None:
            top, where = z.max(1)
            least.append(square - top)
            firsts.append(where)
        else:
            best = z.topk(min(2, len(y)), dim=1)
            least.append(square - best.values[:, 0])
            firsts.append(best.indices[:, 0])
            seconds.append(best.indices[:, -1])
            slacks.append(best.values[:, 0] - best.values[:, -1])
    if firsts:
        mass = torch.bincount(torch.cat(firsts), minlength=len(y)).to(q)
    if bend is not None:
        reach = epsilon
        if slacks:
            slack = torch.cat(slacks)
            rank = max(1, len(slack) // 4)
            reach = max(float(slack.kthvalue(rank).values), 1e-12 * float(slack.max()), 1e-300)
            near = slack <= reach
            for side in (torch.cat(firsts), torch.cat(seconds)):
                bend += torch.bincount(side[near], minlength=len(y)).to(q) / (2 * reach)
        bend = torch.maximum(bend, n * _FLOOR * q / reach)
    return mass / n, torch.cat(least), None if bend is None else bend / n


def potential_at(x: Tensor, y: Tensor, g: Tensor, q: Tensor, epsilon: float) -> Tensor:
    """The potential of states x, the (soft) least of ``|x - y_j|² - g_j``, ``(N,)``."""
    return _masses(x, y, g, q, epsilon)[1]


def _stage(
    draw: Callable[[int], Tensor], y: Tensor, g: Tensor, q: Tensor, epsilon: float, steps: int
) -> tuple[Tensor, int]:
    """Ascend for some steps; the mean of the iterates of their second half."""
    batch = min(max(_LEAST, 4 * len(y)), _MOST)
    sight = 4 * batch  # draws that tell the Hessian
    _, _, bend = _masses(draw(sight), y, g, q, epsilon, curvature=True)
    assert bend is not None
    mean, kept = torch.zeros_like(g), 0
    gain = min(_GAIN, 0.2 * batch / len(y))  # or the noise of a step leaves what is linear
    for k in range(steps):
        mass, _, _ = _masses(draw(batch), y, g, q, epsilon)
        g = g + gain / math.sqrt(1 + k / 16) * (q - mass) / bend
        if 2 * k >= steps - 1:
            mean, kept = mean + g, kept + 1
    return mean / kept, sight + steps * batch


def _measured(
    draw: Callable[[int], Tensor], y: Tensor, g: Tensor, q: Tensor, epsilon: float, tolerance: float
) -> _Measured:
    """The certificate, on fresh draws: as many as tell half of the tolerance."""
    n = max(4_096, int(8 * math.sqrt(len(y)) / tolerance**2))
    first, least, _ = _masses(draw(n), y, g, q, epsilon)
    second, more, _ = _masses(draw(n), y, g, q, epsilon)
    square = float(((first - q) * (second - q) / q).sum())
    error = math.sqrt(len(y)) / n + 2 * math.sqrt(max(square, 0.0) / n)
    found = math.sqrt(max(square, 0.0))
    most = math.sqrt(max(square, 0.0) + 2 * error)
    least = torch.cat([least, more])
    value = float(least.mean() + q @ g)
    spread = float(least.std()) / math.sqrt(len(least))
    return _Measured(value, spread, found, most - found, most <= tolerance)
