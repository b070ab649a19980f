"""TODO docstring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Coefficient", "Rows", "accumulate", "is_zero"]

Coefficient = float | Tensor


class Rows:
    """A chunk of the rows: where they are, which group they belong to, their conditions."""

    def __init__(
        self, index: Tensor, n: int, groups: int, ndim: int, cond: Mapping[str, Any]
    ) -> None:
        self.sample = index.remainder(n)
        self.group = index.div(n, rounding_mode="floor").clamp(max=groups - 1)
        self.tail = (1,) * (ndim - 1)
        self.cond = {
            name: value[self.sample] if isinstance(value, Tensor) and value.ndim > 0 else value
            for name, value in cond.items()
        }

    def spread(self, table: Tensor) -> Tensor:
        """One number a group, ``(groups,)``, as one a row, ``(rows, 1, ...)``."""
        return table[self.group].view(-1, *self.tail)


def accumulate(out: Tensor | None, weight: Coefficient, value: Tensor, rows: Rows) -> Tensor:
    if isinstance(weight, float):
        if out is None:
            return value if weight == 1.0 else value * weight
        return out if weight == 0.0 else torch.add(out, value, alpha=weight)
    wide = rows.spread(weight)
    return wide * value if out is None else torch.addcmul(out, wide, value)


def is_zero(weight: Coefficient | None) -> bool:
    return weight is None or (isinstance(weight, float) and weight == 0.0)
