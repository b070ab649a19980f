"""Rows of data that are found again: by their bits, whichever way they come back.

A coupling of whole data must know which row of them a row of a batch is, and batches come from
tensors, datasets, loaders, other processes and the user's own loops. So a row is known by a hash
of its bits, 64 of them: the words of the row times odd random numbers, summed. No two rows that
differ in one word share it, and others with a probability of some 2^-63.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.random import stream

__all__ = ["KnownRows"]

_SEED = 0x726F7773


class KnownRows:
    """The different rows of a data set, found again by their bits and their labels.

    Args:
        x: data, ``(M, *)``.
        labels: integers that go with them, each ``(M, *)``.
        weights: of the rows, ``(M,)``.

    Attributes:
        first: of each different row, where it first stands in the data, ``(U,)``.
        which: of each row of the data, the different row that it is, ``(M,)``.
        weights: of the different rows, ``(U,)``.
    """

    def __init__(self, x: Tensor, labels: Sequence[Tensor], weights: Tensor) -> None:
        self.shape, self.dtype, self._at = x.shape[1:], x.dtype, dict[torch.device, Tensor]()
        self._factors: dict[tuple[torch.device, int], Tensor] = {}
        for attempt in range(8):
            self._seed = _SEED + attempt
            self._factors.clear()
            keys, which = torch.unique(self._keys(x, labels), return_inverse=True)
            at = torch.arange(len(x), device=x.device)
            first = torch.full_like(keys, len(x)).scatter_reduce_(0, which, at, "amin")
            if all(torch.equal(v[first][which], v) for v in (x, *labels)):
                break
        self._at[x.device] = torch.cat([keys, keys[-1:]])  # one more, where none is found
        self.first, self.which = first, which
        self.weights = torch.zeros(len(keys), dtype=weights.dtype, device=weights.device)
        self.weights.index_add_(0, which.to(weights.device), weights)

    def __len__(self) -> int:
        return len(self.first)

    def find(self, x: Tensor, labels: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Which of the different rows each row is, ``(B,)``, and whether it is one: None if all."""
        keys = self._at.get(x.device)
        if keys is None:
            keys = self._at[x.device] = next(iter(self._at.values())).to(x.device)
        wanted = self._keys(x, labels)
        place = torch.searchsorted(keys[:-1], wanted)
        found = keys.index_select(0, place)
        if torch.equal(found, wanted):  # as in every step
            return place, None
        return place.clamp(max=len(self) - 1), found == wanted

    def _keys(self, x: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """The hash of each row."""
        x = x.detach().flatten(1).contiguous()
        if x.storage_offset() * x.element_size() % 8:
            x = x.clone()
        narrow = x.shape[1] * x.element_size() % 8 != 0
        words = x.view(torch.int32).long() if narrow else x.view(torch.int64)
        if words.shape[1] == 1:
            keys = words[:, 0]
        else:
            keys = (words * self._odd(x.device, words.shape[1], 0)).sum(1)
        for k, label in enumerate(labels):
            value = label.to(x.device).reshape(len(x), -1).long()
            keys = keys + (value * self._odd(x.device, value.shape[1], k + 1)).sum(1)
        return keys

    def _odd(self, device: torch.device, count: int, k: int) -> Tensor:
        """Odd random numbers of 64 bits, the same on every device."""
        found = self._factors.get((device, k))
        if found is None or len(found) != count:
            low, high = -(2**63), 2**63 - 1
            drawn = torch.randint(low, high, (count,), generator=stream(self._seed, k))
            found = self._factors[device, k] = (drawn | 1).to(device)
        return found
