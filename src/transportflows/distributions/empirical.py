"""The law of the rows of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import check_finite_rows, integer
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import state_dtype
from .base import Distribution

__all__ = ["Empirical"]


@checked
class Empirical(Distribution):
    """The empirical law of the rows of a tensor: each draw is one of them, with replacement.

    Args:
        data: ``(N, *)``, finite. It is not part of a ``state_dict``.
    """

    data: Tensor

    def __init__(self, data: Tensor) -> None:
        check_finite_rows(data, "data")
        super().__init__(data.shape[1:])
        self.register_buffer("data", data.detach(), persistent=False)

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
        rows = torch.randint(
            self.data.shape[0], (n,), generator=local(generator, home), device=home
        )
        return self.data[rows].to(device=device or home, dtype=state_dtype(dtype, self.data.dtype))
