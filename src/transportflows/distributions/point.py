"""The law of one point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import integer
from .._core.precision import as_wide
from .._core.reprs import brief
from .._core.signatures import checked
from .._core.tensor import state_dtype
from .base import Distribution

__all__ = ["Point"]


@checked
class Point(Distribution):
    """The law that is in one point: the base of a Föllmer process, which leaves it by noise alone.

    As the base of a :class:`Process` it needs a path with a latent, and ε > 0 to sample it: an ODE
    would carry all draws to one end.

    Args:
        shape: event shape.
        at: the point, a number or a tensor that broadcasts to ``shape``.

    Raises:
        ValueError: if the point is not finite.

    Example:
        >>> Point((2,), 1.0).sample(2).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    at: Tensor

    def __init__(self, shape: Sequence[int], at: float | DataLike = 0.0) -> None:
        super().__init__(shape)
        full = as_wide(at, "at").expand(self.shape).clone()
        if not bool(full.isfinite().all()):
            raise ValueError("the point of a Point must be finite")
        self.register_buffer("at", full)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        n = integer("n", n, "a number of draws", least=0)
        rows = self.at.to(device=device or self.at.device, dtype=state_dtype(dtype))
        return rows.expand(n, *self.shape).clone()

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, at={brief(self.at, shapes=False)}"

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "at": self.at}
