"""The support of an entropic plan: the entries that are not negligible, and work on these alone.

An entry is ``π_ij = p_i q_j exp(-slack_ij / ε)`` with the slack ``c_ij - f_i - g_j``, so those
whose slack is above some 20 ε may be left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.samples import block_rows

__all__ = ["BYTES_PER_ENTRY", "KEPT", "Support", "choose_support", "entries_a_row"]

BYTES_PER_ENTRY = 120  # costs, three indices, a permutation, and what a step needs
KEPT = 20.0  # in units of ε: slack up to which entries of the plan are kept
_ROWS_LOOKED_AT = 256  # to choose a threshold
_ENTRIES_A_ROW = 100  # at least, where there is room: a support too small may hold no plan at all


class Support:
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

    def chosen_at(self, f: Tensor, g: Tensor, threshold: float) -> Support:
        """Remember for which potentials it holds all entries of a slack below the threshold."""
        self.f, self.g, self.threshold = f, g, threshold
        return self

    def serves(self, f: Tensor, g: Tensor, epsilon: float, kept: float = KEPT) -> bool:
        """Whether all entries of a slack below ``kept`` ε are certain to be held at (f, g).

        Slack falls by at most what the potentials have risen since the support was chosen. False
        too for a support far larger than is needed.
        """
        if len(f) != len(self.f) or len(g) != len(self.g):
            return False
        spare = self.threshold - float((f - self.f).max() + (g - self.g).max())
        wasteful = len(self.rows) > 2 * _ENTRIES_A_ROW * max(len(f), len(g))
        return spare >= kept * epsilon and not (wasteful and spare > 2 * KEPT * epsilon)

    def plan(self, g: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """The soft c-transform f of g over the support, and the entries of the plan."""
        z = (g / epsilon + self.log_q).index_select(0, self.columns)
        z.sub_(self.cost, alpha=1 / epsilon)
        top = torch.segment_reduce(z, "max", offsets=self.row_ends)
        e = z.sub_(top.index_select(0, self.rows)).exp_()
        total = torch.segment_reduce(e, "sum", offsets=self.row_ends)
        f = -epsilon * (top + total.log())
        return f, e.mul_((self.p / total).index_select(0, self.rows))

    def column_sums(self, plan: Tensor) -> Tensor:
        """Sums of the plan over rows, ``(M,)``."""
        return torch.zeros_like(self.q).index_add_(0, self.columns, plan)

    def laplacian(self, plan: Tensor) -> Callable[[Tensor], Tensor]:
        """``v -> πᵀ diag(p)⁻¹ π v``."""
        shape = len(self.p), len(self.q)
        by_row = _sparse(self.row_ends, self.columns, plan, shape)
        by_column = _sparse(
            self.column_ends, self.rows_by_column, plan.index_select(0, self.order), shape[::-1]
        )
        return lambda v: by_column @ ((by_row @ v) / self.p)


def _sparse(ends: Tensor, places: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(ends, places, values, shape, check_invariants=False)


def choose_support(
    x: Tensor,
    y: Tensor,
    f: Tensor,
    g: Tensor,
    p: Tensor,
    q: Tensor,
    epsilon: float,
    entries: int,
    wanted: int = 0,
) -> Support | None:
    """The support of the entries of slack below 20 ε, or more of them where there is room.

    None if they would be more than ``entries``. The threshold is chosen from a few hundred rows, as
    a quantile of their slack.
    """
    n, m = len(x), len(y)
    slack = _some_slack(x, y, f, g)
    least = KEPT * epsilon
    expected = float((slack < least).sum()) * n * m / slack.numel()
    if 1.2 * expected > entries:
        return None
    room = min(entries / 1.2, max(wanted, _ENTRIES_A_ROW * max(n, m))) / (n * m)
    rank = min(max(1, int(room * slack.numel())), slack.numel())
    threshold = max(least, float(slack.kthvalue(rank).values))
    found = _below(x, y, f, g, threshold, 1.5 * entries)
    return None if found is None else Support(*found, x, y, p, q).chosen_at(f, g, threshold)


def entries_a_row(x: Tensor, y: Tensor, f: Tensor, g: Tensor, epsilon: float) -> float:
    """About how many entries of a row have a slack below 20 ε, from a few hundred rows."""
    slack = _some_slack(x, y, f, g)
    return max(1.0, float((slack < KEPT * epsilon).sum()) * len(y) / slack.numel())


def _some_slack(x: Tensor, y: Tensor, f: Tensor, g: Tensor) -> Tensor:
    """The slack of all pairs of a few hundred rows."""
    some = torch.arange(0, len(x), max(1, len(x) // _ROWS_LOOKED_AT), device=x.device)
    slack = torch.cdist(x[some], y, compute_mode="donot_use_mm_for_euclid_dist").square_()
    return slack.sub_(f[some].unsqueeze(1)).sub_(g).flatten()


def _below(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, threshold: float, most: float
) -> tuple[Tensor, Tensor] | None:
    """Pairs of slack ``c - f - g`` below the threshold, sorted by rows; None if above ``most``."""
    columns = (g - y.square().sum(1)).unsqueeze(0)
    turned, offset = y.mT.contiguous(), f - x.square().sum(1) + threshold
    size, found_rows, found_columns, first, count = block_rows(len(y), x.device), [], [], 0, 0
    for rows, shift in zip(torch.split(2 * x, size), torch.split(offset, size), strict=True):
        z = torch.addmm(columns, rows, turned)
        pairs = (z > -shift.unsqueeze(1)).nonzero()
        found_rows.append(pairs[:, 0] + first)
        found_columns.append(pairs[:, 1])
        first, count = first + len(rows), count + len(pairs)
        if count > most:
            return None
    return torch.cat(found_rows), torch.cat(found_columns)
