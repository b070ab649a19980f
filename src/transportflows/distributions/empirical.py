"""The law of the rows of a tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows, as_tensor
from .._core.checks import check_finite_rows, integer
from .._core.precision import wide
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import state_dtype
from .base import Distribution

__all__ = ["Empirical"]


@checked
class Empirical(Distribution):
    """The empirical law of the rows of a tensor: each draw is one of them, with replacement.

    The file of a field whose base it is holds the rows, since sampling starts from them.

    Args:
        data: rows ``(N, *)``, a tensor or an array, finite. It is not part of a ``state_dict``.
        weights: of the rows, ``(N,)``, not negative, of positive sum; equal by default.

    Raises:
        ValueError: if the data are not finite rows, or the weights not one a row, finite, not
            negative and of positive sum.

    Example:
        >>> rows, seed = torch.tensor([[1.0], [2.0], [3.0]]), torch.Generator().manual_seed(0)
        >>> law = Empirical(rows, weights=torch.tensor([0.0, 1.0, 1.0]))
        >>> sorted(set(law.sample(50, generator=seed)[:, 0].tolist()))
        [2.0, 3.0]
    """

    data: Tensor
    ends: Tensor | None

    def __init__(self, data: DataLike, *, weights: DataLike | None = None) -> None:
        data = as_rows("data", data)
        weights = (
            None if weights is None else as_tensor("weights", weights, torch.float64, like=data)
        )
        check_finite_rows(data, "data")
        super().__init__(data.shape[1:])
        self.register_buffer("data", data.detach(), persistent=False)
        ends, self._weights = None, None if weights is None else weights.detach()
        if weights is not None:
            fit = weights.shape == data.shape[:1] and bool((weights >= 0).all())
            if not fit or not 0 < float(weights.sum()) < math.inf:
                raise ValueError(
                    f"weights must be ({len(data)},), one a row, finite, not negative and of"
                    f" positive sum, got {tuple(weights.shape)} of sum {float(weights.sum()):g}"
                )
            ends = wide(weights.detach()).cumsum(0)
            ends = (ends / ends[-1]).to(data.device)
        self.register_buffer("ends", ends, persistent=False)

    def config(self) -> dict[str, Any]:
        return {"data": self.data, "weights": self._weights}

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, rows={len(self.data):,}"

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        n = integer("n", n, "a number of draws", least=0)
        home = self.data.device
        count, random = self.data.shape[0], local(generator, home)
        if self.ends is None:
            rows = torch.randint(count, (n,), generator=random, device=home)
        else:
            u = torch.rand(n, generator=random, dtype=self.ends.dtype, device=home)
            rows = torch.searchsorted(self.ends, u, right=True).clamp_(max=count - 1)
        return self.data[rows].to(device=device or home, dtype=state_dtype(dtype, self.data.dtype))
