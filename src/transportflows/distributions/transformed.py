"""A law in other units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.reprs import brief
from .._core.signatures import checked
from ..transforms import Standardize
from .base import Distribution

__all__ = ["Transformed"]


@checked
class Transformed(Distribution):
    """The law of ``y = (x - mean) / scale`` for x of another law; or of ``x`` for y of it.

    What a process draws from is in the units in which its networks work. Where a field has a
    transform these are standardised, and a base that is known in the units of the data, such as the
    :class:`Empirical` law of images, is given to the process so.

    Args:
        law: of x, in the units of the data; with ``inverse`` of y, in standardised ones.
        transform: between them.
        inverse: the other way round, from standardised units to the data's.

    Example:
        >>> transform = Standardize(100.0, 10.0)
        >>> x0 = torch.tensor([[90.0], [110.0]])
        >>> from transportflows.distributions import Empirical
        >>> base = Transformed(Empirical(x0), transform)
        >>> sorted(set(base.sample(50).flatten().tolist()))
        [-1.0, 1.0]
    """

    def __init__(self, law: Distribution, transform: Standardize, *, inverse: bool = False) -> None:
        super().__init__(law.shape)
        self.law, self.transform, self.inverse = law, transform, inverse

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        x = self.law.sample(n, generator=generator, dtype=dtype, device=device)
        return self.transform.invert(x) if self.inverse else self.transform(x)

    def log_prob(self, x: Tensor) -> Tensor:
        other = self.transform(x) if self.inverse else self.transform.invert(x)
        gained = self.transform.log_abs_det(self.shape)
        return self.law.log_prob(other) + (gained if self.inverse else -gained)

    def __repr__(self) -> str:
        way = ", inverse=True" if self.inverse else ""
        return f"Transformed({brief(self.law)}, {brief(self.transform)}{way})"

    def config(self) -> dict[str, Any]:
        return {"law": self.law, "transform": self.transform, "inverse": self.inverse}
