"""A gradient without autograd through the loss: by the formula of a regression, or by one graph."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..fields.base import Field
from ..losses import Loss
from ..losses.slopes import slopes_of
from .compiled import CompiledStep

__all__ = ["Quick"]


class Quick:
    """The gradient of a loss of a sample, where it is had without autograd through the loss.

    Args:
        loss: the loss.
        field: what is trained.
        precision: the context in which networks are called.
        only: parameters among which the gradient is to stay; None for no such limit.
        compiled: the forward and backward pass as one graph; None for eager ones.
    """

    def __init__(
        self,
        loss: Loss,
        field: Field,
        precision: AbstractContextManager[Any],
        only: Sequence[Tensor] | None,
        compiled: CompiledStep | None,
    ) -> None:
        self.loss, self.field, self.precision, self.only = loss, field, precision, only
        self.compiled = compiled

    def __call__(self, sample: Any, share: Tensor) -> Tensor | None:
        """Add the gradient of the mean, and give the losses, detached; None where it cannot be.

        Args:
            sample: what was drawn.
            share: of each row in the mean.
        """
        compiled = self.compiled
        if compiled is None or not compiled.ready(sample):
            return self._by_formula(sample, share)
        return compiled(sample, share, lambda: self._eager(sample, share))

    def _by_formula(self, sample: Any, share: Tensor) -> Tensor | None:
        with self.precision:
            slopes = slopes_of(self.loss, self.field, sample, share)
        if slopes is None:
            return None
        torch.autograd.backward(slopes.outputs, slopes.gradients, inputs=self.only)
        return slopes.values

    def _eager(self, sample: Any, share: Tensor) -> Tensor:
        if (values := self._by_formula(sample, share)) is not None:
            return values
        with self.precision:
            values = (
                self.loss.terms(self.field, sample)
                if self.loss.names
                else (self.loss.evaluate(self.field, sample))
            )
        torch.autograd.backward((values,), (share,), inputs=self.only)
        return values.detach()
