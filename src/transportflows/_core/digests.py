"""Sums by which data are told from others."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

__all__ = ["digest"]

_ROWS = 1024


def digest(*values: Any) -> str:
    """A sum over up to 1,024 rows of each tensor, spread evenly, and over numbers and texts."""
    total = hashlib.sha256()
    for x in values:
        if isinstance(x, Tensor):
            some = x.detach()
            if x.ndim > 0:
                index = torch.linspace(0, len(x) - 1, min(len(x), _ROWS)).long()
                some = some[index.to(x.device)]
            total.update(some.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(x, (str, int, float)):
            total.update(repr(x).encode())
    return total.hexdigest()[:16]
