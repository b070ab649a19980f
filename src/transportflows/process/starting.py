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

    def draw_ends(
        self, like: Tensor, generator: torch.Generator | None = None, base: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """``(x0, z)`` for rows like these ``(B, *)``, each None where the path has none.

        Args:
            like: rows of data.
            generator: source of randomness; x0 is drawn first.
            base: whether x0 is drawn, and not given.
        """
        uses = base and self.interpolant.uses_base
        x0 = self._draw_base(len(like), like, generator) if uses else None
        return x0, self.draw_latent(like, generator)

    def draw_latent(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """The latent z of a path for states like these, ``(B, *)``; None where it has none."""
        if not self.interpolant.has_latent:
            return None
        dtype, device = like.dtype, like.device
        return torch.randn(like.shape, generator=generator, device=device, dtype=dtype)

    def _latent(self, z: Tensor, x: Tensor) -> Tensor:
        """A latent that was given, for states like x."""
        if not self.interpolant.has_latent:
            raise ValueError(
                f"z is the latent of a path, and {type(self.interpolant).__name__} has none; leave"
                " it out, or give the interpolant a gamma"
            )
        if z.shape != x.shape or z.dtype != x.dtype or z.device != x.device:
            raise ValueError(
                f"z is {tuple(z.shape)} {z.dtype} on {z.device}, and the states are"
                f" {tuple(x.shape)} {x.dtype} on {x.device}; the latent is of one kind with them"
            )
        return z

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
