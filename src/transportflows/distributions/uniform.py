"""The uniform law on a box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import check_events, integer
from .._core.precision import as_wide
from .._core.random import local
from .._core.reprs import brief
from .._core.signatures import checked
from .._core.tensor import state_dtype
from .base import Distribution

__all__ = ["Uniform"]


@checked
class Uniform(Distribution):
    """The uniform law on the box ``[low, high)``.

    Args:
        shape: event shape.
        low: lower corner, a number or a tensor that broadcasts to ``shape``.
        high: upper corner, above ``low`` everywhere.

    Raises:
        ValueError: unless ``low < high`` everywhere, both finite.

    Example:
        >>> law = Uniform((3,), low=0.0, high=2.0)  # of density 1/8 in the box: -3 log 2
        >>> [round(p, 4) for p in law.log_prob(torch.tensor([[1.0] * 3, [3.0] * 3])).tolist()]
        [-2.0794, -inf]
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, shape: Sequence[int], low: float | DataLike = 0.0, high: float | DataLike = 1.0
    ) -> None:
        super().__init__(shape)
        for name, corner in (("low", low), ("high", high)):
            full = as_wide(corner, name).expand(self.shape).clone()
            self.register_buffer(name, full)
        if not bool((self.low < self.high).all() & (self.high - self.low).isfinite().all()):
            raise ValueError("low must be below high in every coordinate, and both finite")

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        device = self.low.device if device is None else torch.device(device)
        n = integer("n", n, "a number of draws", least=0)
        dtype = state_dtype(dtype)
        u = torch.rand(
            n, *self.shape, generator=local(generator, device), dtype=dtype, device=device
        )
        return torch.lerp(self.low.to(u), self.high.to(u), u)

    def log_prob(self, x: Tensor) -> Tensor:
        check_events(x, self.shape, "x", f"this {type(self).__name__}")
        low, high = self.low.to(x), self.high.to(x)
        inside = ((x >= low) & (x < high)).flatten(1).all(1)
        return torch.where(inside, -(high - low).log().sum(), -math.inf)

    def extra_repr(self) -> str:
        low, high = (brief(corner, shapes=False) for corner in (self.low, self.high))
        return f"{tuple(self.shape)}, low={low}, high={high}"

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "low": self.low, "high": self.high}
