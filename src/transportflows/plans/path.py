r"""Entropic optimal transport at a small ε: a path of decreasing ε, a short Newton solve at each.

Sinkhorn's iteration needs of order 1/ε steps for the smooth modes of the potentials. Newton's
method (:mod:`transportflows.plans.newton`) needs two or three, if it starts within a few ε of the
solution. So ε is halved along a path that starts at the size of the costs, and

- of the plan only its support is held, the entries that are not negligible at the potentials of
  the last ε (:mod:`transportflows.plans.support`; all that is left out sums to ``e^-20``);
- at a large ε, points within a fraction of ``√ε`` of each other are merged into one point of their
  total mass (Schmitzer, "Stabilized sparse scaling algorithms for entropy regularized transport
  problems", 2019, has such scales), so that the support stays small there too: every scale sees
  all the mass, and a point in the tails stays a point;
- where there are too many dimensions for that, it begins with every fourth of the points
  (potentials at a large ε are smooth, and a part of the points tells them), and
  goes on to all of them where their support is small enough for a Newton step to be cheap;
- where even so the support is too large for memory, two Sinkhorn half steps over blocks of the
  costs, never held, lead on to the next ε.

The last step looks at all pairs, so what is certified is the whole problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import rows_and_columns, soft_transform
from .newton import newton_stage
from .support import Support, choose_support, entries_a_row

__all__ = ["Potentials", "solve", "solve_alone"]

_CELLS = 8  # dimensions up to which points share cells
_CELL = 0.5  # in units of √ε: side of the cells whose points are merged
_FACTOR = 0.5  # ε of a stage over that of the one before
_PARTS = 4  # of the points in many dimensions, of which one is enough for a large ε
_FEWEST = 500  # points of a part, at least
_DENSE = 300.0  # entries a row, more of which are not held on the way where there are no cells
_EARLY = 16.0  # times as many: then come all points, and some sweeps before the first Newton step
_EVEN = 4.0  # times the mean weight, up to which a part of the points is like all of them
_FEW = 400_000  # entries that are held in any case
_STALE = 10  # looks at all pairs without a smaller violation, after which a solve gives up


@dataclass
class Potentials:
    """Where a solve ended: potentials of all points, exact in x, and what is left in y.

    Attributes:
        f: ``(N,)``, the soft c-transform of ``g`` over all pairs, so rows of the plan sum to p.
        g: ``(M,)``.
        columns: sums of the plan over rows, ``(M,)``; q at the solution.
        steps: Newton steps and Sinkhorn sweeps of all stages.
    """

    f: Tensor
    g: Tensor
    columns: Tensor
    steps: int


def solve(
    x: Tensor,
    y: Tensor,
    p: Tensor,
    q: Tensor,
    epsilon: float,
    *,
    tolerance: float,
    entries: int,
    max_steps: int,
) -> Potentials:
    """Solve to a marginal violation of ``tolerance`` (L1), or as far as ``max_steps`` go.

    Args:
        x: points ``(N, D)``, float64, about the origin.
        y: points ``(M, D)``.
        p: positive weights of x.
        q: positive weights of y.
        epsilon: ε.
        tolerance: of ``|πᵀ1 - q|₁``.
        entries: how many entries of a plan may be held.
        max_steps: bound on Newton steps and Sinkhorn sweeps together.
    """
    start = float(p @ x.square().sum(1) + q @ y.square().sum(1))
    count = max(0, math.ceil(math.log(max(start / epsilon, 1.0), 1 / _FACTOR)))
    previous: tuple[Tensor, Tensor, Tensor] | None = None
    support: Support | None = None
    many = x.shape[1] > _CELLS
    even = max(float(w.max()) * len(w) for w in (p, q)) < _EVEN
    transform = _coarse if many else soft_transform
    every = _PARTS if many and even else 1
    while every > 1 and min(len(x), len(y)) < every * _FEWEST:
        every //= 4
    xs = ys = x
    f = g = qy = q  # set in the first stage
    steps = 0
    for eps in [epsilon * _FACTOR**-k for k in range(count, -1, -1)]:
        last = eps == epsilon
        if every > 1 and previous is not None:  # entries of all points are as many times more
            room = _EARLY * _DENSE / entries_a_row(xs, ys, f, g, eps)
            every = 1 if last or room >= every else every // 4 if room >= every / 4 else every
        px, xs = _points(x, p, eps, every, last)
        qy, ys = _points(y, q, eps, every, last)
        if previous is None:
            g = torch.zeros_like(qy)
        elif len(g) != len(qy) or len(previous[0]) != len(xs):
            g, support = transform(ys, previous[0], previous[2], previous[1], 2 * eps), None
        if support is None or not support.serves(f, g, eps):
            f = transform(xs, ys, g, qy, eps)
            most = min(entries, int(max(_FEW, _DENSE * max(len(xs), len(ys))))) if many else entries
            support = choose_support(xs, ys, f, g, px, qy, eps, entries if last else most)
        if support is None:
            g = transform(ys, xs, f, px, eps)
            steps += 1
        else:
            goal = 0.5 * tolerance if last else max(tolerance, 1e-3)
            f, g, support, used = newton_stage(
                support, xs, ys, f, g, eps, goal, entries, max_steps - steps
            )
            steps += used
        previous = (xs, px, f)
    return _finish(x, y, p, q, g, epsilon, tolerance, entries, max_steps, steps)


def solve_alone(
    x: Tensor, p: Tensor, epsilon: float, *, tolerance: float, max_steps: int
) -> Potentials:
    """Solve between a sample and itself, where both potentials are one.

    ``f <- (f + T f) / 2``, T the soft c-transform, is a contraction that needs a few passes at each
    ε (Feydy et al. 2019, section 3.1). Newton's method would be slow here: where points are far
    apart beside √ε the plan is nearly diagonal, and the Hessian nearly 0.
    """
    f = torch.zeros_like(p)
    start = 2 * float(p @ x.square().sum(1))
    count = max(0, math.ceil(math.log(max(start / epsilon, 1.0), 1 / _FACTOR)))
    steps = 0
    for k in range(count, 0, -1):
        f = 0.5 * (f + soft_transform(x, x, f, p, epsilon * _FACTOR**-k))
        steps += 1
    while True:
        new, columns = rows_and_columns(x, x, f, p, p, epsilon)
        violation = float((columns - p).abs().sum())
        if violation <= tolerance or steps >= max_steps or not math.isfinite(violation):
            return Potentials(new, f, columns, steps)
        f = 0.5 * (f + new)
        steps += 1


def _finish(
    x: Tensor,
    y: Tensor,
    p: Tensor,
    q: Tensor,
    g: Tensor,
    epsilon: float,
    tolerance: float,
    entries: int,
    max_steps: int,
    steps: int,
) -> Potentials:
    """Solve on until the violation over *all* pairs is within the tolerance, or stops falling.

    Up to here only entries on a support were seen.
    """
    least, stale = math.inf, 0
    while True:
        f, columns = rows_and_columns(x, y, g, p, q, epsilon)
        violation = float((columns - q).abs().sum())
        least, stale = (violation, 0) if violation < 0.99 * least else (least, stale + 1)
        done = violation <= tolerance or not math.isfinite(violation)
        if done or steps >= max_steps or stale >= _STALE:
            return Potentials(f, g, columns, steps)
        support = choose_support(x, y, f, g, p, q, epsilon, entries)
        used = 0
        if support is not None:
            goal, left = 0.5 * tolerance, max_steps - steps
            _, g, _, used = newton_stage(support, x, y, f, g, epsilon, goal, entries, left)
        if used == 0:  # nothing is left to do on the entries that are held, and yet too much in all
            g = g + epsilon * (q / columns.clamp(min=1e-300)).log()
        steps += max(used, 1)


def _coarse(x: Tensor, y: Tensor, g: Tensor, q: Tensor, epsilon: float) -> Tensor:
    """The soft c-transform on the way, in single precision where that leaves exponents to 1e-3."""
    largest = 2 * float(x.square().sum(1).max() + y.square().sum(1).max())
    if largest > 1e-3 * epsilon / torch.finfo(torch.float32).eps:
        return soft_transform(x, y, g, q, epsilon)
    x, y, g, q = (each.float() for each in (x, y, g, q))
    return soft_transform(x, y, g, q, epsilon).double()


def _points(
    x: Tensor, weights: Tensor, epsilon: float, every: int, last: bool
) -> tuple[Tensor, Tensor]:
    """Total weights and points of a stage: all of them in the last one."""
    if last:
        return weights, x
    if every > 1:
        part = weights[::every]
        return part / part.sum(), x[::every]
    return _cells(x, weights, _CELL * math.sqrt(epsilon))


def _cells(x: Tensor, weights: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Merge points that share a cell of a cubic grid: total weights, and centres of mass.

    The points themselves are returned where few share one.
    """
    if x.shape[1] > _CELLS:  # cells of so many sides hold one point each
        return weights, x
    places = torch.floor((x - x.amin(0)) / side).long()
    _, label = torch.unique(places, dim=0, return_inverse=True)
    count = int(label.max()) + 1
    if count > 0.7 * len(x):
        return weights, x
    mass = torch.zeros(count, dtype=x.dtype, device=x.device).index_add_(0, label, weights)
    centres = torch.zeros(count, x.shape[1], dtype=x.dtype, device=x.device)
    centres.index_add_(0, label, weights.unsqueeze(1) * x)
    return mass, centres / mass.unsqueeze(1)
