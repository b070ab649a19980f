"""The loss that a kind of field is trained with, where none is given.

What a network predicts says what it is regressed on, so most kinds need no entry of their own. One
that does registers a function: ``default_loss.register(MyField)``.
"""

from __future__ import annotations

from functools import singledispatch

from ..fields.base import Field, check_field
from ..fields.edm import EDM
from ..times.levels import EDMTimes
from .base import Loss
from .regressions import (
    DataLoss,
    MeanVelocityLoss,
    NoiseLoss,
    Regression,
    ScoreLoss,
    VelocityLoss,
)
from .sums import SumLoss
from .weights import EDMWeight

__all__ = ["default_loss"]

_REGRESSIONS: dict[str, type[Regression]] = {
    loss.quantity: loss for loss in (VelocityLoss, MeanVelocityLoss, ScoreLoss, NoiseLoss, DataLoss)
}


@singledispatch
def default_loss(field: Field, /) -> Loss:
    """The regression of what a field predicts; of a pair, one for each output.

    Raises:
        TypeError: if the library knows no regression for it.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> default_loss(tpf.Score(lambda t, x: -x, process))
        ScoreLoss()
        >>> loss = default_loss(tpf.EDM(lambda t, x: x, process, sigma_data=1.0))
        >>> [type(part).__name__ for part in (loss, loss.times, loss.weight)]
        ['DataLoss', 'EDMTimes', 'EDMWeight']
    """
    check_field(field, "default_loss is that of")
    unknown = [output for output in field.outputs if output not in _REGRESSIONS]
    if unknown:
        raise TypeError(
            f"{type(field).__name__} predicts {', '.join(unknown)}, for which there is no default"
            " loss; write Trainer(field, loss)"
        )
    losses = [_REGRESSIONS[output]() for output in field.outputs]
    return losses[0] if len(losses) == 1 else SumLoss(*losses)


@default_loss.register
def _(field: EDM) -> Loss:
    """Karras's: noise levels where the network learns most, each of the same size at the start."""
    return DataLoss(times=EDMTimes(), weight=EDMWeight(field.sigma_data))
