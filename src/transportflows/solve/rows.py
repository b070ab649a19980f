"""Rows of a state: the chunks in which a solve sends them through a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .._core.conditions import map_rows

__all__ = ["Rows"]


class Rows:
    """A chunk of the rows: where they are, which group they belong to, their conditions."""

    def __init__(
        self, index: Tensor, n: int, groups: int, ndim: int, cond: Mapping[str, Any]
    ) -> None:
        self.sample = index.remainder(n)
        self.group = index.div(n, rounding_mode="floor").clamp(max=groups - 1)
        self.tail = (1,) * (ndim - 1)
        self.cond = map_rows(cond, lambda rows: rows[self.sample])

    def spread(self, table: Tensor) -> Tensor:
        """One number a group, ``(groups,)``, as one a row, ``(rows, 1, ...)``."""
        return table[self.group].view(-1, *self.tail)
