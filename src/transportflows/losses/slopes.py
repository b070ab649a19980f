r"""The gradient of a regression in what the network gave, by its formula.

.. math:: \nabla_f\, \tfrac12 w |f - T|^2 = w (f - T)

is one product a row, where autograd goes back through five. The numbers are the same, to the last
bit: what it multiplies by ½ and adds up twice is this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.tensor import half_square
from ..draws import PathSample
from ..fields.base import Field
from .base import Loss
from .regressions import Regression
from .sums import SumLoss

__all__ = ["Slopes", "slopes_of"]

_METHODS = ("evaluate", "terms", "distance", "compare", "weighed", "scaled", "predicted")


class Slopes(NamedTuple):
    """Losses, and what their weighted sum is differentiated through.

    Attributes:
        values: ``(B,)``, or terms ``(K, B)``, without a graph.
        outputs: what the networks gave, or is made of it, with a graph.
        gradients: of the weighted sum, in each of them.
    """

    values: Tensor
    outputs: list[Tensor]
    gradients: list[Tensor]


def slopes_of(loss: Loss, field: Field, sample: Any, share: Tensor) -> Slopes | None:
    """The losses of a sample, and the gradient of their sum, each times its share.

    Args:
        loss: the loss.
        field: the field.
        sample: what the loss drew.
        share: of the shape of the values of the loss.

    Returns:
        None where autograd must go through the loss: where it is no square of a difference, or a
        path, a weight or a density is learned.
    """
    several = type(loss) is SumLoss
    parts: Sequence[Any] = loss.losses if type(loss) is SumLoss else [loss]
    if several and _own_methods(loss):
        return None
    if not isinstance(sample, PathSample) or not all(map(_is_square, parts)):
        return None
    if sample.noise_part.learned or sample.x.requires_grad:
        return None
    rates = [_rate(part, sample, share[k] if several else share) for k, part in enumerate(parts)]
    if any(rate.requires_grad for rate in rates):
        return None
    if several:
        given = field.predict(sample.t, sample.x, sample.cond)
        at = dict(zip(field.outputs, given, strict=True))
        predictions: list[Any] = [at[part.quantity] for part in parts]
    else:
        predictions = [parts[0].predicted(field, sample)]
    values, outputs, gradients = [], [], []
    for part, prediction, rate in zip(parts, predictions, rates, strict=True):
        output, target = part._compared(prediction, sample)
        if not output.requires_grad or target.requires_grad:
            return None
        with torch.no_grad():
            error = (output - target).flatten(1)
            values.append(part.scaled(half_square(error), prediction, sample))
            gradients.append((error * rate.unsqueeze(1)).view(output.shape))
        outputs.append(output)
    return Slopes(torch.stack(values) if several else values[0], outputs, gradients)


def _is_square(loss: Any) -> bool:
    """Whether a loss is a regression whose distance is the square, with nothing around it."""
    kind = type(loss)
    return (
        isinstance(loss, Regression)
        and all(getattr(kind, name) is getattr(Regression, name) for name in _METHODS)
        and not _own_methods(loss)
    )


def _own_methods(loss: Loss) -> bool:
    """Whether a method was put into a loss itself, beside those of its class."""
    return not vars(loss).keys().isdisjoint(_METHODS)


def _rate(loss: Regression, sample: PathSample, share: Tensor) -> Tensor:
    """By what the difference of each row is multiplied, in the order of autograd."""
    rate = (share / 2).repeat(2) if sample.antithetic else share
    if sample.density is not None:
        rate = rate / sample.density
    weight = loss.row_weights(sample)
    if weight is None:
        return rate
    if not weight.requires_grad:
        sample.keep(loss, loss.weight, weight)  # it is asked once: it may draw, or count its calls
    return rate * weight
