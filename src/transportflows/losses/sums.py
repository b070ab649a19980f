"""The sum of regressions: one sample, one call of a field, and a loss for each of its outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.checks import names
from .._core.signatures import checked
from ..draws import PathSample
from ..fields.base import Field
from .base import BatchLike, Loss
from .regressions import Regression

__all__ = ["SumLoss"]


@checked
class SumLoss(Loss):
    """The sum of regressions on one sample, with one call of the field: a loss for each output.

    Args:
        losses: regressions of different quantities, such as ``VelocityLoss(), NoiseLoss()`` for a
            :class:`FieldPair`. The sampler of times, ``antithetic`` and ``importance`` of the first
            one serve all.

    Raises:
        TypeError: if one is no regression.
        ValueError: if two are of one quantity, or another than the first has ``times``,
            ``antithetic`` or ``importance`` of its own.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(gamma=tpf.Brownian()), base=tpf.Gaussian((2,)))
        >>> field = tpf.FieldPair(heads=lambda t, x: (x, x), process=process)
        >>> loss = SumLoss(tpf.VelocityLoss(), tpf.NoiseLoss())
        >>> sample = loss.draw(field, torch.zeros(4, 2), generator=torch.Generator().manual_seed(0))
        >>> loss.terms(field, sample).shape, loss.names
        (torch.Size([2, 4]), ('velocity', 'noise'))
        >>> torch.allclose(loss.evaluate(field, sample), loss.terms(field, sample).sum(0))
        True
    """

    def __init__(self, *losses: Regression) -> None:
        if not losses or not all(isinstance(loss, Regression) for loss in losses):
            given = [type(loss).__name__ for loss in losses]
            raise TypeError(f"SumLoss is of regressions such as VelocityLoss(), got {given}")
        for loss in losses[1:]:
            own = [name for name in ("times", "antithetic", "importance") if getattr(loss, name)]
            own = [name for name in own if getattr(loss, name) != getattr(losses[0], name)]
            if own:
                raise ValueError(
                    f"{own[0]} of the {type(loss).__name__} would be ignored: one sample serves all"
                    f" losses, and the first one draws it; give {own[0]}= to the"
                    f" {type(losses[0]).__name__}"
                )
        if len({loss.quantity for loss in losses}) < len(losses):
            given = [loss.quantity for loss in losses]
            raise ValueError(f"SumLoss is of different quantities, got {names(given)}")
        self.losses: Sequence[Regression] = losses
        self.names = self.quantities = tuple(loss.quantity for loss in losses)

    def draw(
        self, field: Field, batch: BatchLike, *, generator: torch.Generator | None = None
    ) -> PathSample:
        return self.losses[0].draw(field, batch, generator=generator)

    def evaluate(self, field: Field, sample: PathSample) -> Tensor:
        return self.terms(field, sample).sum(0)

    def terms(self, field: Field, sample: PathSample) -> Tensor:
        missing = [q for q in self.names if q not in field.outputs]
        if missing:
            raise ValueError(
                f"{type(field).__name__} predicts {names(field.outputs)}, not {names(missing)};"
                " give a loss for each of its outputs"
            )
        predictions = field.predict(sample.t, sample.x, sample.cond)
        at = dict(zip(field.outputs, predictions, strict=True))
        return torch.stack([loss.weighed(at[loss.quantity], sample) for loss in self.losses])  # type: ignore[arg-type]
