"""The law at t = 0, of which a process starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._core.precision import on_table_device, table_device
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..distributions.transformed import Transformed
from ..interpolants import Interpolant, OneSided

__all__ = ["Starting"]


@checked
class Starting(nn.Module):
    """What knows its law at t = 0; :class:`Process` is one.

    Attributes:
        interpolant: the path.
        base: ρ0; None where the path makes its own noise, or pairs are given.
        shape: of an event, where it is known.
    """

    interpolant: Interpolant
    base: Distribution | None
    shape: torch.Size | None
    _start: tuple[torch.Size, float, Distribution] | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers of the process are."""
        tensors = (*self.parameters(), *self.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def start(self) -> Distribution:
        """The law at t = 0, where sampling starts by default.

        Raises:
            ValueError: if the process does not know it.
        """
        if self.base is not None:
            return self.base
        if self.interpolant.uses_base or not self._starts_gaussian:
            raise ValueError(
                f"this process ({type(self.interpolant).__name__}, no base) does not know the law"
                " at t = 0; give sample(..., start=...) a Distribution or a tensor of states"
            )
        if self.shape is None:
            raise ValueError(
                "the event shape is unknown; write Process(..., shape=(2,)), or give"
                " sample(..., start=...) a tensor of states"
            )
        scale = self._start_scale
        if self._start is None or self._start[:2] != (self.shape, scale):
            self._start = self.shape, scale, Gaussian(self.shape, scale=scale)
        return self._start[2]

    def _draw_base(self, n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.base is None:
            raise ValueError(
                f"{type(self.interpolant).__name__} needs a base to draw x0 from; write"
                " Process(interpolant, base=Gaussian(shape)), or coupling=Paired() and pairs"
            )
        return self.base.sample(n, generator=generator, dtype=like.dtype, device=like.device)

    def own_law(self, law: Any) -> bool:
        """Whether a law is the base or the start of this process: the object, not an equal one."""
        base = self.base
        if base is not None and (law is base or law is getattr(base, "law", None)):
            return not isinstance(base, Transformed) or law is base
        return self._start is not None and law is self._start[2]

    @property
    def _start_scale(self) -> float:
        if isinstance(self.interpolant, OneSided):
            return self.interpolant.prior_scale
        zero = torch.zeros((), dtype=torch.float64, device=table_device(self.device))
        return abs(float(on_table_device(self.interpolant).gamma(zero)))

    @property
    def _starts_gaussian(self) -> bool:
        return not self.interpolant.uses_base and self._start_scale > 0
