"""What a law must be able to do: sample, and give its log-density where it is known."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .._core.checks import event_shape
from .._core.registry import Storable
from .._core.signatures import checked

__all__ = ["Distribution"]

_LOG_2PI = math.log(2 * math.pi)


@checked
class Distribution(Storable, nn.Module, ABC):
    """A law on event shape ``shape``.

    A subclass sets ``shape`` through ``super().__init__(shape)`` and writes ``sample``.

    Example:
        >>> class Circle(Distribution):  # of radius 1
        ...     def __init__(self): super().__init__(2)
        ...     def sample(self, n, *, generator=None, dtype=None, device=None):
        ...         z = torch.randn(n, 2, generator=generator, dtype=dtype, device=device)
        ...         return z / z.norm(dim=1, keepdim=True)
        >>> x = Circle().sample(5, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(x.norm(dim=1), torch.ones(5))
        True
    """

    _sets: ClassVar[tuple[str, ...]] = ("shape", "_parameters")

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__()
        self.shape = event_shape("shape", shape)

    @abstractmethod
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw ``(n, *shape)``; dtype and device default to torch's defaults and the module's."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x`` ``(B, *)``, ``(B,)`` in nats."""
        raise NotImplementedError(f"{type(self).__name__} has no log-density")

    def extra_repr(self) -> str:
        return str(tuple(self.shape))
