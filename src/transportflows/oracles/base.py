"""What the oracles share: a field that is computed, and has no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_state, names
from .._core.signatures import checked
from .._core.tensor import as_time
from ..fields.base import Field
from ..fields.calls import Network
from ..interpolants import AffineInterpolant
from ..process import Process

__all__ = ["ExactField"]


@checked
class ExactField(Field):
    """A field without a network: no parameters, and states of one event shape.

    Args:
        process: with an affine path.
        shape: event shape of the data.
    """

    _like: Tensor

    def __init__(self, process: Process, shape: torch.Size) -> None:
        nn.Module.__init__(self)
        if not isinstance(process, Process):
            raise TypeError(f"process must be a Process, got {type(process).__name__}")
        if not isinstance(process.interpolant, AffineInterpolant):
            raise ValueError(
                f"an oracle needs an affine path x_t = α x0 + β x1 + γ z, and the law of x_t under"
                f" {type(process.interpolant).__name__} has no closed form; write it as an"
                " AffineInterpolant where it is one"
            )
        if process.shape is not None and process.shape != shape:
            raise ValueError(
                f"the data have event shape {tuple(shape)} and the process has"
                f" {tuple(process.shape)}; they must agree"
            )
        self.process = process
        self.transform = None
        self.shape = shape
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def check_conditions(
        self, cond: Mapping[str, Any] | None, n: int, **how: Any
    ) -> dict[str, Any]:
        if found := super().check_conditions(cond, n, **how):
            raise ValueError(
                f"an oracle is of one law of data and takes no conditions, got {names(found)}; make"
                " one of the law given them"
            )
        return {}

    def config(self) -> dict[str, Any]:
        raise NotImplementedError("an oracle is made from its process and its law of data")

    @property
    def networks(self) -> tuple[Network, ...]:
        return ()

    def reference(self) -> Tensor:
        return torch.zeros((), device=self._like.device)

    def _check(self, t: Tensor, x: Tensor) -> None:
        check_state(t, x)
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x is {tuple(x.shape)}, and this oracle has states of shape"
                f" (B, {', '.join(map(str, self.shape))})"
            )

    def _times(self, t: float | Tensor, n: int, like: Tensor) -> Tensor:
        if not isinstance(t, Tensor) and not 0 <= t <= 1:  # to look into a tensor would wait for it
            raise ValueError(f"times are in [0, 1], got t = {t}")
        t = as_time(t, like)
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != n):
            raise ValueError(f"got t of shape {tuple(t.shape)} for {n} rows; it is () or ({n},)")
        return t
