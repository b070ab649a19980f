"""Rows of a state: the equal chunks in which a solve sends them through a network.

A solve of K diffusions ε at once holds K groups of the same n samples, one after another. A chunk
may hold rows of several groups; :class:`Rows` tells which sample and which group each row is of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.conditions import NO_CONDITIONS, map_rows
from .._core.signatures import checked
from .._core.untouched import untouched

__all__ = ["Chunks", "Rows", "default_chunk"]

_CACHE, _CARD = 2**21, 2**30  # bytes of the widest activations of a chunk, on a CPU and on a card


@checked
class Rows:
    """A chunk of the rows: which samples they are, which group they belong to, their conditions.

    Attributes:
        first: place of the first row among all.
        own: how many are its own; the others fill it up.
        sample: the sample of each row, ``(rows,)``.
        group: its group.
        cond: conditions of these rows.

    Example:
        >>> both = Rows(torch.arange(4), n=2, groups=2, ndim=2, cond={})  # 2 samples at each of 2 ε
        >>> both.sample, both.spread(torch.tensor([0.0, 0.5])).T
        (tensor([0, 1, 0, 1]), tensor([[0.0000, 0.0000, 0.5000, 0.5000]]))
    """

    def __init__(
        self,
        index: Tensor,
        n: int,
        groups: int,
        ndim: int,
        cond: Mapping[str, Any],
        *,
        first: int = 0,
        own: int | None = None,
    ) -> None:
        self.first, self.own = first, len(index) if own is None else own
        self.sample, self.group = index, torch.zeros_like(index)
        if groups > 1:
            self.sample = index.remainder(n)
            self.group = index.div(n, rounding_mode="floor").clamp(max=groups - 1)
        self.tail = (1,) * (ndim - 1)
        self.cond = map_rows(cond, lambda rows: rows[self.sample])

    def __repr__(self) -> str:
        names = f", cond {sorted(self.cond)}" if self.cond else ""
        return f"Rows({self.own} from {self.first} of {len(self.sample)}{names})"

    def spread(self, table: Tensor) -> Tensor:
        """One number a group, ``(groups,)``, as one a row, ``(rows, 1, ...)``."""
        return table[self.group].view(-1, *self.tail)


@checked
class Chunks:
    """All rows of a state in equal chunks; the last one is filled up with the first rows.

    So the network is called with one shape of batch only, and what a row becomes does not depend on
    the chunk that it is in, to rounding.

    Args:
        x: states, ``(groups n, *)``.
        chunk: rows in a chunk, at most; all at once if None.
        cond: conditions, checked; tensors have n rows.
        groups: number of groups.

    Attributes:
        parts: for each chunk where its rows are, a slice or an index, and its :class:`Rows`.

    Raises:
        ValueError: if ``chunk`` is not positive.

    Example:
        >>> x = torch.arange(5.0)[:, None]
        >>> chunks = Chunks(x, chunk=2)  # 3 calls of 2 rows, and the last is filled up
        >>> chunks.map(lambda rows: rows + len(rows), x).T
        tensor([[2., 3., 4., 5., 6.]])
    """

    def __init__(
        self,
        x: Tensor,
        chunk: int | None = None,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        groups: int = 1,
    ) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be positive, got {chunk}")
        self.total, self.cond, self.groups = x.shape[0], cond, groups
        self.n = self.total // groups
        count = 1 if chunk is None else math.ceil(self.total / chunk)
        size = math.ceil(self.total / count)
        self.parts: list[tuple[slice | Tensor, Rows]] = []
        for first in range(0, count * size, size):
            index = torch.arange(first, first + size, device=x.device).remainder(self.total)
            own = min(size, self.total - first)
            rows = Rows(index, self.n, groups, x.ndim, cond, first=first, own=own)
            self.parts.append((slice(first, first + size) if own == size else index, rows))

    def __repr__(self) -> str:
        size = len(self.parts[0][1].sample)
        return f"Chunks({self.total} rows of {self.groups} groups in {len(self.parts)} x {size})"

    @property
    def rows(self) -> Rows:
        """All rows, in one."""
        return self.parts[0][1]

    def take(self, index: Tensor, x: Tensor) -> Chunks:
        """Some of the rows, ``(B, *)``, in one chunk."""
        return Chunks(x[index], None, Rows(index, self.n, 1, x.ndim, self.cond).cond)

    def map(self, function: Callable[..., Any], x: Tensor) -> Any:
        """``function(x, **cond)`` of all rows ``(B, *)``: a tensor, or a tuple of them."""
        if len(self.parts) == 1:
            return untouched(function, x, **self.parts[0][1].cond)
        found = [untouched(function, x[pick], **rows.cond) for pick, rows in self.parts]
        if isinstance(found[0], Tensor):
            return torch.cat(found)[: len(x)]
        return tuple(torch.cat(column)[: len(x)] for column in zip(*found, strict=True))


def default_chunk(networks: Sequence[Any], x: Tensor) -> int:
    """Rows whose widest activations take about 2 MB on a CPU, or 1 GB on a card."""
    widths = [
        p.shape[0]
        for net in networks
        if isinstance(net, nn.Module)
        for p in net.parameters()
        if p.ndim > 1
    ]
    budget = _CACHE if x.device.type == "cpu" else _CARD
    return max(64, budget // (max([*widths, x[0].numel()]) * x.element_size()))
