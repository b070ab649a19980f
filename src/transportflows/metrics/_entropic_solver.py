r"""Entropic optimal transport at a small ε: a path of Newton steps on a sparse plan.

The dual of ``min <C, π> + ε KL(π | p ⊗ q)`` over one potential, with the other eliminated by the
soft c-transform :math:`f_i = -\varepsilon \log \sum_j q_j e^{(g_j - c_{ij})/\varepsilon}`, is

.. math:: D(g) = \sum_i p_i f_i(g) + \sum_j q_j g_j, \qquad
          \nabla D = q - \pi^\top 1, \qquad
          -\varepsilon \nabla^2 D = \mathrm{diag}(\pi^\top 1) - \pi^\top \mathrm{diag}(p)^{-1} \pi,

concave, with a graph Laplacian for its Hessian. Sinkhorn's iteration needs of order 1/ε steps for
the smooth modes; Newton's method needs two or three, if it starts within a few ε of the solution.
So ε is halved along a path from the size of the costs, one short Newton solve each, and

- of the plan only the entries with ``c - f - g`` below a threshold of at least 20 ε are held (all
  that is left out sums to ``e^-20``), as the potentials of the last ε tell them;
- at a large ε points within a fraction of ``√ε`` of each other are one point of their total mass
  (Schmitzer, "Stabilized sparse scaling algorithms for entropy regularized transport problems",
  2019, has such scales), so that the plan stays small there too: every scale sees all the mass,
  and a point in the tails stays a point;
- where even so the entries are too many, two Sinkhorn half steps over blocks of the costs, never
  held, move on to the next ε.

A Newton step solves ``(H + λ diag q) δ = ε (q - πᵀ1)`` by conjugate gradients, with λ from the
agreement of the model with D (Levenberg and Marquardt), and two Sinkhorn steps between, which mend
single columns. The last step looks at all pairs, so what is certified is the whole problem.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._samples import block_rows

__all__ = [
    "BYTES_PER_ENTRY",
    "Potentials",
    "rows_and_columns",
    "soft_transform",
    "solve",
    "solve_alone",
    "weighted_rows",
]

BYTES_PER_ENTRY = 120  # of a support: costs, three indices, a permutation, and what a step needs
_KEPT = 20.0  # in units of ε: slack up to which entries of the plan are kept
_CELL = 0.5  # in units of √ε: side of the cells whose points are one
_FACTOR = 0.5  # ε of a stage over that of the one before
_SHORT = 0.1  # a part of the plan cut off from the rest moves by at most ε over this in a step
_NOTHING = -90.0  # exponent of what counts as nothing; the exp of less is several times slower
_ROWS_LOOKED_AT = 256  # to choose a threshold
_STALE = 10  # looks at all pairs without a smaller violation, after which a solve gives up
_ENTRIES_A_ROW = 100  # at least, where there is room: a support too small may hold no plan at all


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


def soft_transform(x: Tensor, y: Tensor, g: Tensor, q: Tensor, epsilon: float) -> Tensor:
    """``-ε log Σ_j q_j exp((g_j - |x_i - y_j|²) / ε)``, ``(N,)``, in blocks of rows."""
    columns = ((g - y.square().sum(1)) / epsilon + q.log()).unsqueeze(0)
    turned, scaled = y.mT.contiguous(), x * (2 / epsilon)
    parts = []
    for rows in torch.split(scaled, block_rows(len(y), x.device)):
        z = torch.addmm(columns, rows, turned)
        top = z.amax(1, keepdim=True)
        parts.append(top[:, 0] + z.sub_(top).clamp_(min=_NOTHING).exp_().sum(1).log_())
    return x.square().sum(1) - epsilon * torch.cat(parts)


def rows_and_columns(
    x: Tensor, y: Tensor, g: Tensor, p: Tensor, q: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The soft c-transform f of g, and the sums over rows of the plan of (f, g), in one pass."""
    columns = ((g - y.square().sum(1)) / epsilon + q.log()).unsqueeze(0)
    turned, scaled = y.mT.contiguous(), x * (2 / epsilon)
    size = block_rows(len(y), x.device)
    parts, total = [], torch.zeros_like(q)
    for rows, mass in zip(torch.split(scaled, size), torch.split(p, size), strict=True):
        z = torch.addmm(columns, rows, turned)
        top = z.amax(1, keepdim=True)
        sums = z.sub_(top).clamp_(min=_NOTHING).exp_().sum(1)
        parts.append(top[:, 0] + sums.log())
        total += (mass / sums) @ z
    return x.square().sum(1) - epsilon * torch.cat(parts), total


def weighted_rows(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, p: Tensor, q: Tensor, epsilon: float
) -> Tensor:
    """Sums over columns of the plan of (f, g), ``(N,)``; q may be other weights than g's."""
    columns = ((g - y.square().sum(1)) / epsilon).unsqueeze(0)
    turned, scaled = y.mT.contiguous(), x * (2 / epsilon)
    offset = (f - x.square().sum(1)) / epsilon + p.log()
    size = block_rows(len(y), x.device)
    parts = []
    for rows, shift in zip(torch.split(scaled, size), torch.split(offset, size), strict=True):
        z = torch.addmm(columns, rows, turned).add_(shift.unsqueeze(1))
        parts.append(z.clamp_(min=_NOTHING).exp_() @ q)
    return torch.cat(parts)


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
    support: _Support | None = None
    f = g = q  # set in the first stage
    steps = 0
    for eps in [epsilon * _FACTOR**-k for k in range(count, -1, -1)]:
        last = eps == epsilon
        px, xs = (p, x) if last else _cells(x, p, _CELL * math.sqrt(eps))
        qy, ys = (q, y) if last else _cells(y, q, _CELL * math.sqrt(eps))
        if previous is None:
            g = torch.zeros_like(qy)
        elif len(g) != len(qy) or len(previous[0]) != len(xs):
            g, support = soft_transform(ys, previous[0], previous[2], previous[1], 2 * eps), None
        if support is None or not support.serves(f, g, eps):
            f = soft_transform(xs, ys, g, qy, eps)
            support = _choose_support(xs, ys, f, g, px, qy, eps, entries)
        if support is None:
            g = soft_transform(ys, xs, f, px, eps)
            steps += 1
        else:
            goal = 0.5 * tolerance if last else max(tolerance, 1e-3)
            f, g, support, used = _stage(
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


def _stage(
    support: _Support,
    x: Tensor,
    y: Tensor,
    f: Tensor,
    g: Tensor,
    epsilon: float,
    goal: float,
    entries: int,
    max_steps: int,
) -> tuple[Tensor, Tensor, _Support, int]:
    """Newton steps at one ε; with more entries where a support turns out to hold no plan."""
    steps, wanted = 0, len(support.rows)
    for _ in range(6):
        f, g, violation, used = _newton(support, g, epsilon, goal, min(20, max_steps - steps))
        steps += used
        stayed = support.serves(f, g, epsilon, _KEPT / 2)
        if (violation <= goal and stayed) or steps >= max_steps:
            break
        wanted = wanted if not stayed else 4 * wanted
        f = soft_transform(x, y, g, support.q, epsilon)
        again = _choose_support(x, y, f, g, support.p, support.q, epsilon, entries, wanted)
        if again is None:
            break
        support = again
    return f, g, support, steps


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
    """Look at all pairs, and go on until the violation there is small enough, or stops falling."""
    least, stale = math.inf, 0
    while True:
        f, columns = rows_and_columns(x, y, g, p, q, epsilon)
        violation = float((columns - q).abs().sum())
        least, stale = (violation, 0) if violation < 0.99 * least else (least, stale + 1)
        done = violation <= tolerance or not math.isfinite(violation)
        if done or steps >= max_steps or stale >= _STALE:
            return Potentials(f, g, columns, steps)
        support = _choose_support(x, y, f, g, p, q, epsilon, entries)
        used = 0
        if support is not None:
            goal, left = 0.5 * tolerance, max_steps - steps
            _, g, _, used = _stage(support, x, y, f, g, epsilon, goal, entries, left)
        if used == 0:  # nothing is left to do on the entries that are held, and yet too much in all
            g = g + epsilon * (q / columns.clamp(min=1e-300)).log()
        steps += max(used, 1)


def _cells(x: Tensor, weights: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Weights and centres of mass of the points that share a cell; the points, if few do."""
    if x.shape[1] > 8:  # cells of so many sides hold one point each
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


# ------------------------------------------------------------------------------ sparse plans


class _Support:
    """The entries of a plan that are held, by rows and by columns, with their costs."""

    def __init__(
        self, rows: Tensor, columns: Tensor, x: Tensor, y: Tensor, p: Tensor, q: Tensor
    ) -> None:
        self.rows, self.columns = rows, columns
        self.cost = torch.empty(len(rows), dtype=x.dtype, device=x.device)
        for i in range(0, len(rows), 1 << 20):
            part = slice(i, i + (1 << 20))
            self.cost[part] = (x[rows[part]] - y[columns[part]]).square().sum(1)
        at = torch.arange(len(x) + 1, device=x.device)
        self.row_ends = torch.searchsorted(rows, at)
        self.order = torch.argsort(columns, stable=True)
        at = torch.arange(len(y) + 1, device=x.device)
        self.column_ends = torch.searchsorted(columns[self.order], at)
        self.rows_by_column = rows[self.order]
        self.p, self.q, self.log_q = p, q, q.log()
        self.threshold, self.f, self.g = 0.0, p, q

    def chosen_at(self, f: Tensor, g: Tensor, threshold: float) -> _Support:
        """Remember for which potentials it holds all entries of a slack below the threshold."""
        self.f, self.g, self.threshold = f, g, threshold
        return self

    def serves(self, f: Tensor, g: Tensor, epsilon: float, kept: float = _KEPT) -> bool:
        """Whether it surely holds all that matters at these potentials."""
        if len(f) != len(self.f) or len(g) != len(self.g):
            return False
        spare = self.threshold - float((f - self.f).max() + (g - self.g).max())
        wasteful = len(self.rows) > 2 * _ENTRIES_A_ROW * max(len(f), len(g))
        return spare >= kept * epsilon and not (wasteful and spare > 2 * _KEPT * epsilon)

    def plan(self, g: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The soft c-transform f of g over the support, and the entries of the plan."""
        z = (g / epsilon + self.log_q)[self.columns].sub_(self.cost, alpha=1 / epsilon)
        top = torch.segment_reduce(z, "max", offsets=self.row_ends)
        e = z.sub_(top[self.rows]).exp_()
        total = torch.segment_reduce(e, "sum", offsets=self.row_ends)
        f = -epsilon * (top + total.log())
        return f, e.mul_((self.p / total)[self.rows])

    def column_sums(self, plan: Tensor) -> Tensor:
        return torch.zeros_like(self.q).index_add_(0, self.columns, plan)

    def laplacian(self, plan: Tensor) -> Callable[[Tensor], Tensor]:
        """``v -> πᵀ diag(p)⁻¹ π v``."""
        shape = len(self.p), len(self.q)
        by_row = _sparse(self.row_ends, self.columns, plan, shape)
        by_column = _sparse(self.column_ends, self.rows_by_column, plan[self.order], shape[::-1])
        return lambda v: by_column @ ((by_row @ v) / self.p)


def _sparse(ends: Tensor, places: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(ends, places, values, shape, check_invariants=False)


def _choose_support(
    x: Tensor,
    y: Tensor,
    f: Tensor,
    g: Tensor,
    p: Tensor,
    q: Tensor,
    epsilon: float,
    entries: int,
    wanted: int = 0,
) -> _Support | None:
    """The entries of slack below 20 ε, or more where there is room; None where they are too many.

    How many there are is told from some rows.
    """
    n, m = len(x), len(y)
    some = torch.arange(0, n, max(1, n // _ROWS_LOOKED_AT), device=x.device)
    slack = torch.cdist(x[some], y, compute_mode="donot_use_mm_for_euclid_dist").square_()
    slack = slack.sub_(f[some].unsqueeze(1)).sub_(g).flatten()
    least = _KEPT * epsilon
    expected = float((slack < least).sum()) * n / len(some)
    if 1.2 * expected > entries:
        return None
    room = min(entries / 1.2, max(wanted, _ENTRIES_A_ROW * max(n, m))) / (n * m)
    rank = min(max(1, int(room * slack.numel())), slack.numel())
    threshold = max(least, float(slack.kthvalue(rank).values))
    rows, columns = _below(x, y, f, g, threshold)
    if len(rows) > 1.5 * entries:
        return None
    return _Support(rows, columns, x, y, p, q).chosen_at(f, g, threshold)


def _below(x: Tensor, y: Tensor, f: Tensor, g: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Pairs of slack ``c - f - g`` below the threshold, sorted by rows."""
    columns = (g - y.square().sum(1)).unsqueeze(0)
    turned, offset = y.mT.contiguous(), f - x.square().sum(1) + threshold
    size, found_rows, found_columns, first = block_rows(len(y), x.device), [], [], 0
    for rows, shift in zip(torch.split(2 * x, size), torch.split(offset, size), strict=True):
        z = torch.addmm(columns, rows, turned)
        pairs = (z > -shift.unsqueeze(1)).nonzero()
        found_rows.append(pairs[:, 0] + first)
        found_columns.append(pairs[:, 1])
        first += len(rows)
    return torch.cat(found_rows), torch.cat(found_columns)


def _newton(
    support: _Support, g: Tensor, epsilon: float, goal: float, max_steps: int
) -> tuple[Tensor, Tensor, float, int]:
    """Newton steps on D until ``|πᵀ1 - q|₁`` is below ``goal``; f, g, what is left, how many."""
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
        if k % 4 == 3 and not float(new) > aim:  # the device is waited for once in four
            break
        direction = conditioned + (new / square) * direction
        square = new
    return solution
