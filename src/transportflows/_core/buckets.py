"""Buckets: tensors laid side by side, so that few messages carry many of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["as_bytes", "buckets"]

_BUCKET_BYTES = 2**26


def as_bytes(tensor: Tensor) -> Tensor:
    """The content of a tensor, as one row of bytes."""
    row = tensor.detach().contiguous().reshape(-1)
    if row.numel() < 2:  # which may have any stride
        row = torch.empty(row.numel(), dtype=row.dtype, device=row.device).copy_(row)
    return row.view(torch.uint8)


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype in groups of up to 64 MB."""
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    for kind in kinds.values():
        bucket, size = list[Tensor](), 0
        for tensor in kind:
            bucket.append(tensor)
            size += tensor.numel() * tensor.element_size()
            if size >= _BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket
