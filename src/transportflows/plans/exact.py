r"""Exact optimal transport plans, by linear programming, with a certificate.

.. math:: \min_{\pi \in \Pi(p, q)} \sum_{ij} \pi_{ij}\, d_{ij}^k

over the couplings :math:`\pi` of the weights p and q, for distances d and k = 1 or 2. It is a
linear programme, solved to optimality by POT's network simplex (Bonneel et al. 2011; Flamary et
al. 2021).

The simplex compares costs to about 1e-15, absolutely, and reports success whatever that did: for
data of size 1e-8 POT alone gives more than the double of the optimum. Here the costs are scaled to
at most 1 first, and the plan is checked against Kantorovich's dual:
:math:`\sum_i p_i u_i + \sum_j q_j \min_i (c_{ij} - u_i)` is a lower bound of the optimum for any
:math:`u`, as the cost of the plan is an upper one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._core.checks import integer, positive_integer
from .._core.reprs import summary
from .._core.signatures import checked

__all__ = ["ExactPlan", "best_permutation", "exact_plan"]

_MAX_GAP = 1e-6  # of the optimal cost, relative
_SIMPLEX = 256  # rows from which a permutation is sought by the network simplex
_LEAST = 1e-6  # of the largest score: a typical one below which it would be rounded away
_CERTAIN = 1e-10  # of the typical score, in the mean over rows: the gap of what is certain


@checked
@dataclass(frozen=True, eq=False)
class ExactPlan:
    """An optimal plan, as the pairs that it moves.

    Attributes:
        distance: the Wasserstein distance of order ``power``, in units of the data.
        rows: which point of x, ``(L,)``; at most N + M - 1 pairs, N where N = M and no weights.
        columns: which point of y it goes to, ``(L,)``.
        mass: how much of it, ``(L,)``, of sum 1.
        gap: how far the cost can be above the optimum, relative to it: at most 1e-6.
        x_potential: f of Kantorovich's dual, ``(N,)``, in units of the costs: each y goes with the
            x of least ``cost - f``.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.1], [0.1], [1.1]])
        >>> third = torch.full((3,), 1 / 3, dtype=torch.float64)
        >>> plan = exact_plan(torch.cdist(x, y).double(), third, third)  # each goes to the nearest
        >>> round(plan.distance, 4), plan.permutation()
        (0.1, tensor([2, 0, 1]))
    """

    distance: float
    rows: Tensor
    columns: Tensor
    mass: Tensor
    gap: float = field(default=0.0, repr=False)
    x_potential: Tensor | None = field(default=None, repr=False)

    __repr__ = summary

    def matrix(self) -> Tensor:
        """The plan as a dense matrix ``(N, M)``; every point has positive weight, so is in it."""
        plan = self.mass.new_zeros(int(self.rows.max()) + 1, int(self.columns.max()) + 1)
        plan[self.rows, self.columns] = self.mass
        return plan

    def permutation(self) -> Tensor:
        """Which point of x goes to each of as many points of y, ``(N,)``, each of them once.

        Where the plan splits points, the permutation that moves most of the mass as the plan does.
        """
        if len(self.rows) > int(self.columns.max()) + 1:
            return best_permutation(self.matrix())
        taken = torch.empty_like(self.rows)  # N pairs in which each point occurs are a permutation
        taken[self.columns] = self.rows
        return taken


@checked
def exact_plan(
    distances: Tensor,
    p: Tensor,
    q: Tensor,
    *,
    power: int = 2,
    max_iterations: int = 10_000_000,
) -> ExactPlan:
    r"""Return an optimal plan between points of weights p and q, certified to be one.

    Args:
        distances: between the points, ``(N, M)``, float64, on the CPU; overwritten, since this
            takes 40 bytes for each pair of points as it is.
        p: positive weights ``(N,)`` of sum 1, float64.
        q: positive weights ``(M,)`` of sum 1.
        power: k, 2 for squared distances as costs, 1 for distances.
        max_iterations: bound on the pivots of the network simplex.

    Raises:
        ValueError: if there are other distances than pairs of weights.
        RuntimeError: if the network simplex stopped before the optimum, or the distance is under
            some 1e-6 of the largest one given, so that it cannot be had to 1e-6.

    Example:
        >>> half = torch.full((2,), 0.5, dtype=torch.float64)
        >>> plan = exact_plan(torch.tensor([[3.0, 1.0], [1.0, 3.0]]).double(), half, half)
        >>> plan.distance, plan.columns.tolist()
        (1.0, [1, 0])
    """
    import ot  # it takes a second

    power = integer("power", power, "1 or 2", least=1, most=2)
    positive_integer("max_iterations", max_iterations)
    if p.ndim != 1 or q.ndim != 1 or distances.shape != (len(p), len(q)):
        raise ValueError(
            f"distances are {tuple(distances.shape)} for weights {tuple(p.shape)} and"
            f" {tuple(q.shape)}; they are (N, M) for (N,) and (M,), one for each pair"
        )
    if not bool((distances >= 0).all()):
        raise ValueError("distances are negative or NaN; give torch.cdist(x, y) of finite rows")
    diameter = float(distances.max())
    if diameter == 0:
        plan = _corner_plan(p, q)
        rows, columns = plan.nonzero(as_tuple=True)
        return ExactPlan(0.0, rows, columns, plan[rows, columns], 0.0, torch.zeros_like(p))
    cost = distances.div_(diameter)
    if power == 2:
        cost.square_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # raised below instead
        plan, log = ot.emd(p.numpy(), q.numpy(), cost.numpy(), numItermax=max_iterations, log=True)
    if log["warning"] is not None:
        raise RuntimeError(
            f"the network simplex stopped before the optimum, with max_iterations="
            f"{max_iterations:,} ({log['warning']}); give a larger max_iterations or fewer points"
        )
    upper, u = float(log["cost"]), torch.as_tensor(log["u"])
    lower = float(p @ u + q @ cost.sub_(u.unsqueeze(1)).amin(0))
    if upper - max(lower, 0.0) > _MAX_GAP * upper:
        low, high = (diameter * max(bound, 0.0) ** (1 / power) for bound in (lower, upper))
        raise RuntimeError(
            f"the distance lies between {low:.6g} and {high:.6g}: too small, beside the"
            f" {diameter:.3g} between the furthest points, for the solver's double precision;"
            " drop outliers, or compare clusters that are far apart one by one"
        )
    mass = torch.as_tensor(plan)
    rows, columns = mass.nonzero(as_tuple=True)
    distance = diameter * max(upper, 0.0) ** (1 / power)
    gap = (upper - max(lower, 0.0)) / upper if upper > 0 else 0.0
    f = u * diameter**power
    return ExactPlan(distance, rows, columns, mass[rows, columns], max(gap, 0.0), f)


@checked
def best_permutation(scores: Tensor) -> Tensor:
    """Return the row that each column takes, ``(N,)``, each row once, for the largest total score.

    Args:
        scores: ``(N, N)``, finite, on the CPU. With the entries of a plan, this is the permutation
            that moves most of its mass as the plan does.

    Raises:
        ValueError: if the scores are not ``(N, N)``.

    Source: the assignment problem, by ``scipy.optimize.linear_sum_assignment``; where the largest
    scores of the columns lie in different rows, as in an optimal plan, they are the answer. From
    256 rows on POT's network simplex is as fast or faster (at 4,096 nine times), and serves where
    scores are of one size and the dual certifies what it found.

    Example:
        >>> best_permutation(torch.tensor([[1.0, 2.0], [1.5, 4.0]])).tolist()
        [0, 1]
    """
    if scores.ndim != 2 or len(scores) != scores.shape[1] or len(scores) == 0:
        raise ValueError(f"scores are (N, N), one for each pair, got {tuple(scores.shape)}")
    taken = scores.argmax(0)
    if len(torch.unique(taken)) == len(taken):
        return taken
    if len(scores) >= _SIMPLEX and (found := _by_simplex(scores)) is not None:
        return found
    from scipy.optimize import linear_sum_assignment  # it takes half a second

    rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    taken[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return taken


def _by_simplex(scores: Tensor) -> Tensor | None:
    """The best permutation by the network simplex, if it is certain to be the best."""
    import ot  # it takes a second

    cost = scores.amax() - scores.double()
    largest = float(cost.max())
    typical = float(cost.flatten()[:: max(1, cost.numel() >> 14)].median())
    if not _LEAST * largest < typical < largest:  # which loses what small scores decide
        return None
    cost /= largest
    n = len(cost)
    weights = torch.full((n,), 1 / n, dtype=torch.float64).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plan, log = ot.emd(weights, weights, cost.numpy(), numItermax=1_000_000_000, log=True)
    taken = torch.as_tensor(plan).argmax(0)
    if log["warning"] is not None or len(torch.unique(taken)) < n:
        return None
    u = torch.as_tensor(log["u"])
    total = cost[taken, torch.arange(n)].sum()
    gap = float(total - u.sum() - cost.sub_(u.unsqueeze(1)).amin(0).sum())
    return taken if gap <= _CERTAIN * n * typical / largest else None


def _corner_plan(p: Tensor, q: Tensor) -> Tensor:
    """The north-west corner's plan ``(N, M)``: at most N + M - 1 pairs, whatever the cost."""
    p_ends, q_ends = p.cumsum(0)[:-1], q.cumsum(0)[:-1]
    cuts = torch.cat([p.new_zeros(1), torch.cat([p_ends, q_ends]).sort().values, p.new_ones(1)])
    mass, middle = cuts.diff(), 0.5 * (cuts[1:] + cuts[:-1])
    kept = mass > 0
    rows, columns = (torch.searchsorted(ends, middle[kept]) for ends in (p_ends, q_ends))
    plan = p.new_zeros(len(p), len(q))
    plan[rows, columns] = mass[kept]
    return plan
