r"""Exponential moving averages of parameters.

.. math:: \bar\theta_n = \bar\theta_{n-1} + (1 - d_n) (\theta_n - \bar\theta_{n-1}), \qquad
          d_n = \min\bigl(d, \tfrac{1 + n}{10 + n}\bigr), \quad \bar\theta_0 = \theta_0.

The averages remember about ``1 / (1 - d)`` steps. The warm-up ``(1 + n) / (10 + n)`` makes them
remember about a tenth of a run that is still shorter than that, so the first weights are soon
forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .._core.shards import in_shards, local
from .._core.signatures import checked

__all__ = ["EMA"]


@checked
class EMA:
    """Moving averages of a list of parameters, updated by one fused call a step.

    Args:
        parameters: what to average, of any shapes.
        decay: d in (0, 1), such as 0.999.

    Attributes:
        averages: the averages, one for each parameter.
        updates: n, how often they were updated.

    Raises:
        ValueError: if ``decay`` is not in (0, 1).
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(
                f"ema is a decay in (0, 1) such as 0.999, got {decay}; for no averages ema=None"
            )
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.swapped = False
        self._sharded = any(map(in_shards, self.parameters))
        self.averages = [p.detach().clone() for p in self.parameters]

    def __repr__(self) -> str:
        return f"EMA(<{len(self.parameters)} parameters>, {self.decay}): {self.updates} updates"

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters as they are now."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._held(self.averages), self._held(self.parameters), weight)

    @torch.no_grad()
    def follow(self, parameters: Sequence[Tensor]) -> None:
        """Average these parameters too, of any shape; a new average begins at its parameter.

        Parameters that are averaged already go on, those of another dtype or device in it.
        """
        known = {id(parameter) for parameter in self.parameters}
        new = [parameter for parameter in parameters if id(parameter) not in known]
        self.averages = [
            a if a.dtype == p.dtype and a.device == p.device else a.to(p.device, p.dtype)
            for a, p in zip(self.averages, self.parameters, strict=True)
        ]
        self.parameters += new
        self.averages += [parameter.detach().clone() for parameter in new]
        self._sharded = any(map(in_shards, self.parameters))

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew from the parameters as they are now."""
        self.averages = [p.detach().clone() for p in self.parameters]
        self.updates = 0

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Put the averages in the place of the parameters, and these back at the end, bit for bit.

        Inside another ``swap`` it does nothing.
        """
        if self.swapped:
            yield
            return
        own = [p.detach().clone() for p in self.parameters]
        try:
            self.swapped = True
            self._copy(self.averages)
            yield
        finally:
            self._copy(own)
            self.swapped = False

    @torch.no_grad()
    def _copy(self, source: list[Tensor]) -> None:
        torch._foreach_copy_(self._held(self.parameters), self._held(source))

    def _held(self, tensors: list[Tensor]) -> list[Tensor]:
        """What this process holds of them."""
        return [local(tensor) for tensor in tensors] if self._sharded else tensors
