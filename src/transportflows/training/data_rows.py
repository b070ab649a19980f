"""Training data that are tensors: checked and brought to the field's units once, before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.conditions import map_rows
from .._core.digests import digest as sum_of
from .._core.reprs import summary
from .._core.signatures import checked
from ..draws import Batch
from ..fields.base import Field
from .checking import as_tensors, checked_batch, standardised, target_device

__all__ = ["DataRows", "digest"]

_SHARE_OF_CARD = 0.5  # of the free memory of the device, which the data may take


@checked
@dataclass(frozen=True)
class DataRows:
    """N rows of data in standardised units, on one device.

    Attributes:
        x1: data, ``(N, *)``.
        x0: base samples paired with them, ``(N, *)``, or None.
        cond: conditions: tensors of N rows each, and what is one for all rows.
        device: where batches of them go: to the field. The rows themselves are there too if they
            fit into half of what is free on it, and otherwise in the memory of the host, pinned.
    """

    x1: Tensor
    x0: Tensor | None = None
    cond: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device | None = None

    __repr__ = summary

    def __len__(self) -> int:
        return self.x1.shape[0]

    def tensors(self) -> list[Tensor]:
        """All that have rows."""
        given = (self.x1, self.x0, *self.cond.values())
        return [x for x in given if isinstance(x, Tensor) and x.ndim > 0]

    @classmethod
    def of(
        cls,
        data: DataLike | tuple[DataLike, DataLike] | Batch | Any,
        field: Field,
        cond: Mapping[str, Any] | None = None,
        *,
        name: str = "data",
    ) -> DataRows:
        """Check data in the user's units against a field, and standardise them.

        Args:
            data: ``x1`` ``(N, *)``, a tensor or an array; or a pair ``(x0, x1)``, for a
                :class:`Paired` coupling and only for it; or a :class:`Batch`, which can carry
                conditions too.
            field: the field to train: its process, the dtype and device of its networks, and its
                ``transform``, applied here to both members of a pair.
            cond: conditions: tensors of N rows each, or one value for all rows.
            name: what to call the data in messages.

        Raises:
            TypeError: if something is no tensor, or of no floating-point dtype.
            ValueError: for NaN or infinite rows, no rows, a dtype, device or event shape that is
                not the field's, conditions of another length, or pairs where the coupling draws
                them itself (and the reverse).
        """
        data = as_tensors(data, field, name)
        if not isinstance(data, (Tensor, tuple, list, Batch)):
            raise TypeError(
                f"{name} must be a tensor or an array x1, a pair of them (x0, x1) or a Batch, got"
                f" {type(data).__name__}; write torch.as_tensor(..., dtype=torch.float32)"
            )
        if isinstance(data, (tuple, list)) and len(data) != 2:
            raise TypeError(
                f"{name} must be x1 or a pair (x0, x1), got {len(data)} things; samples of one law"
                " are one tensor, torch.cat(samples), and snapshots at several times go in as"
                " tpf.bridges.Trajectories(snapshots)"
            )
        batch = Batch.of(data)  # type: ignore[arg-type]
        if cond and batch.cond:
            raise ValueError(f"{name} is a Batch with conditions, and cond= gives others; give one")
        batch = checked_batch(Batch(batch.x1, batch.x0, dict(cond or batch.cond)), field, name)
        device = target_device(field, batch.x1)
        if device != batch.x1.device and _fits(batch, device):
            batch = batch.map(lambda x: x.to(device))
        batch = standardised(batch, field)
        if device != batch.x1.device and device.type == "cuda":
            batch = batch.map(Tensor.pin_memory)
        return cls(batch.x1, batch.x0, batch.cond, device)

    def take(self, index: Tensor) -> Batch:
        """The rows of an index, ``(B,)``, as a batch."""
        x0 = None if self.x0 is None else self.x0.index_select(0, index)
        cond = map_rows(self.cond, lambda value: value.index_select(0, index))
        return self._sent(Batch(self.x1.index_select(0, index), x0, cond))

    def slice(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` up to ``stop``, as a batch."""
        return self._sent(Batch(self.x1, self.x0, self.cond).rows(start, stop))

    def _sent(self, batch: Batch) -> Batch:
        """The batch on the device of the field."""
        device = self.device
        if device is None or device == batch.x1.device:
            return batch
        return batch.map(lambda x: x.to(device, non_blocking=True))


def digest(batch: Batch) -> str:
    """A sum over up to 1,024 rows of a batch, spread evenly."""
    return sum_of(batch.x1, batch.x0, *(batch.cond[name] for name in sorted(batch.cond)))


def _fits(batch: Batch, device: torch.device) -> bool:
    """Whether the rows take at most half of the memory that is free on a card."""
    if device.type != "cuda":
        return True
    tensors = DataRows(batch.x1, batch.x0, batch.cond).tensors()
    free, _ = torch.cuda.mem_get_info(device)
    size: int = sum(x.numel() * x.element_size() for x in tensors)
    return size <= _SHARE_OF_CARD * free
