"""What a loss is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..draws import Batch
from ..fields.base import Field

__all__ = ["Loss"]


class Loss(ABC):
    """Anything that gives one value a row from a field and a batch."""

    @abstractmethod
    def __call__(
        self,
        field: Field,
        batch: Batch | Tensor | tuple[Tensor, Tensor],
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the loss of each row of the batch, ``(B,)``; draws what it needs."""
