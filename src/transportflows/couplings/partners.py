"""Which x0 a row of x1 goes with: a plan as what can be drawn from at no cost.

An exact plan has at most N + M - 1 pairs, and is drawn from as it is. The entropic conditional
``π(i | j) = p_i e^{(f_i - |x_i - y_j|²)/ε} / Σ_k (...)`` has as many probabilities as there are
pairs, which are never held: one pass over blocks of them leaves K partners of each row, the
quantiles (k + U)/K of its conditional, U uniform, one for each row. So a partner of probability π
is among the K of a row ⌊Kπ⌋ or ⌈Kπ⌉ times, and in the mean over U Kπ times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.random import local, stream
from .._core.samples import block_rows

__all__ = ["SparsePartners", "TablePartners", "partner_count", "quantiles"]

_ENTRIES = 1 << 22  # of a table, 16 MB
_FEWEST, _MOST = 16, 1 << 12  # partners of a row
_SEEN = 64  # times that each x0 is to be among the partners, in the mean
_SEED = 0x706C616E
_NOTHING = -90.0  # exponent of what counts as nothing


def partner_count(rows: int, pool: int) -> int:
    """K, of so many rows and x0: of few rows more, so that no x0 is left out by chance."""
    most = max(_MOST, -(-_SEEN * pool // rows))
    return min(max(_ENTRIES // rows, _FEWEST), most)


def quantiles(
    y: Tensor, x: Tensor, f: Tensor, p: Tensor, epsilon: float, count: int, seed: int
) -> Tensor:
    """K partners of each y, ``(M, K)`` places in x, of the plan whose potential on x is f.

    Args:
        y: points ``(M, D)``, float64.
        x: points ``(N, D)``.
        f: their potentials.
        p: their weights, positive.
        epsilon: ε.
        count: K.
        seed: of U.
    """
    offset = ((f - x.square().sum(1)) / epsilon + p.log()).unsqueeze(0)
    turned = x.mT.contiguous()
    ranks = torch.arange(count, dtype=y.dtype, device=y.device)
    shift = torch.rand(len(y), 1, generator=stream(_SEED, seed), dtype=torch.float64).to(y)
    table = torch.empty(len(y), count, dtype=torch.int32, device=y.device)
    size, start = block_rows(len(x), y.device), 0
    for rows in torch.split(y * (2 / epsilon), size):
        z = torch.addmm(offset, rows, turned)
        z.sub_(z.amax(1, keepdim=True)).clamp_(min=_NOTHING).exp_()
        total = z.cumsum(1)
        stop = start + len(rows)
        wanted = (ranks + shift[start:stop]) / count * total[:, -1:]
        table[start:stop] = torch.searchsorted(total, wanted, right=True).clamp_(max=len(x) - 1)
        start = stop
    return table


class TablePartners:
    """Some partners of each row, alike in probability.

    Args:
        table: ``(U, K)``, which x0.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def on(self, device: torch.device) -> TablePartners:
        """The same on a device."""
        return TablePartners(self.table.to(device))

    def draw(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """An x0 for each row, ``(B,)``."""
        home, count = self.table.device, self.table.shape[1]
        k = torch.randint(count, rows.shape, generator=local(generator, home), device=home)
        return self.table.view(-1).index_select(0, k.add_(rows.to(home), alpha=count))


class SparsePartners:
    """All partners of each row with their masses.

    Args:
        count: rows, each of which has a partner.
        rows: of each pair, ``(L,)``.
        partners: which x0, ``(L,)``.
        mass: how much, ``(L,)``.
    """

    def __init__(self, count: int, rows: Tensor, partners: Tensor, mass: Tensor) -> None:
        order = rows.argsort(stable=True)
        rows, self.partners, mass = rows[order], partners[order], mass[order]
        total = torch.zeros(count, dtype=mass.dtype, device=mass.device).index_add_(0, rows, mass)
        self.single = len(rows) == count
        self.last = torch.searchsorted(rows, torch.arange(count, device=rows.device), right=True)
        share = (mass / total[rows]).cumsum(0)  # grows by 1 from row to row, but for rounding
        self.first = self.last - torch.bincount(rows, minlength=count)
        begin = torch.cat([share.new_zeros(1), share])[self.first]
        self.ends = rows + (share - begin[rows])

    def on(self, device: torch.device) -> SparsePartners:
        """The same on a device."""
        moved: SparsePartners = object.__new__(SparsePartners)
        for name, value in vars(self).items():
            setattr(moved, name, value.to(device) if isinstance(value, Tensor) else value)
        return moved

    def draw(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """An x0 for each row, ``(B,)``."""
        home = self.partners.device
        rows = rows.to(home)
        if self.single:
            return self.partners.index_select(0, rows)
        u = torch.rand(
            rows.shape, generator=local(generator, home), dtype=torch.float64, device=home
        )
        place = torch.searchsorted(self.ends, rows + u, right=True)
        place = torch.maximum(torch.minimum(place, self.last[rows] - 1), self.first[rows])
        return self.partners.index_select(0, place)
